"""One run of the training benchmark."""

import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import set_seed

from reformer_hf.training.memory import resident_bytes
from scripts.benchmarks.common.cores import watched_cores
from scripts.benchmarks.common.memory import PeakMemory
from scripts.benchmarks.common.peers import ModelShape
from scripts.benchmarks.training.arguments import TrainingBenchmarkArguments
from scripts.benchmarks.training.floor import Floor
from scripts.benchmarks.training.peers import FLOOR, Trainee, build_trainee
from scripts.benchmarks.training.profile import profile_stages
from scripts.benchmarks.training.report import FORWARD, PROFILE, TrainingCase


def autocast(dtype: str) -> torch.autocast:
    """What a forward pass runs in."""
    return torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16")


class Passes(NamedTuple):
    """The parts of a step; `backward` is None where there is only a forward pass.

    Attributes:
        forward: what comes before backward.
        backward: takes what `forward` returned.
        finish: what is done outside the measured time.
    """

    forward: Callable[[], Tensor | None]
    backward: Callable[[Tensor | None], None] | None
    finish: Callable[[], None]


def model_passes(case: TrainingCase, trainee: Trainee, ids: Tensor) -> Passes:
    """The passes of a model."""
    is_training = case.mode != FORWARD
    trainee.model.train(is_training)

    def forward() -> Tensor:
        with torch.set_grad_enabled(is_training), autocast(case.dtype):
            loss = trainee.loss(ids)
        if not loss.isfinite():
            raise RuntimeError(f"the loss is {loss.item()}")
        return loss

    def backward(loss: Tensor | None) -> None:
        assert loss is not None
        loss.backward()

    def finish() -> None:
        trainee.model.zero_grad(set_to_none=True)

    return Passes(forward, backward if is_training else None, finish)


def floor_passes(case: TrainingCase, tokens: int, shape: ModelShape) -> Passes:
    """The passes of the floor."""
    floor = Floor(shape, tokens, getattr(torch, case.dtype))
    backward = (lambda _: floor.backward()) if case.mode != FORWARD else None
    return Passes(floor.forward, backward, lambda: None)


def do_step(passes: Passes, memory: PeakMemory) -> tuple[float, float]:
    """Do a step; returns the seconds of its forward and of its backward pass."""
    backward = 0.0
    with memory.phase("forward"):
        start = time.perf_counter()
        loss = passes.forward()
        forward = time.perf_counter() - start
    if passes.backward is not None:
        with memory.phase("backward"):
            start = time.perf_counter()
            passes.backward(loss)
            backward = time.perf_counter() - start
    passes.finish()
    return forward, backward


def repeat_steps(
    arguments: TrainingBenchmarkArguments, passes: Passes, memory: PeakMemory
) -> list[tuple[float, float]]:
    """Warm up and do steps until the time is over; returns what `do_step` does of each step."""
    end = time.perf_counter() + arguments.max_seconds_per_run
    for count in (arguments.warmup, arguments.steps):
        done: list[tuple[float, float]] = []
        while len(done) < count and (not done or time.perf_counter() < end):
            done.append(do_step(passes, memory))
    return done


def measure(case: TrainingCase, arguments: TrainingBenchmarkArguments, shape: ModelShape) -> dict:
    """Build the model of a case, warm up, and report seconds and bytes."""
    shape, rows = replace(shape, num_hidden_layers=case.layers), arguments.rows_of(case)
    torch.set_num_threads(arguments.num_threads)
    set_seed(0)  # always the same weights and tokens
    imported, parameters = resident_bytes(), 0
    if case.variant == FLOOR:
        passes = floor_passes(case, rows * case.length, shape)
    else:
        trainee = build_trainee(case.variant, shape, case.length)
        parameters = sum(p.numel() * p.element_size() for p in trainee.model.parameters())
        ids = torch.randint(1, shape.vocab_size, (rows, case.length))
        passes = model_passes(case, trainee, ids)
    built = resident_bytes()
    memory, watched = PeakMemory(), {}
    if case.mode == PROFILE:
        with watched_cores(watched, "waiting"):
            profiled = profile_stages(*passes, arguments.warmup, arguments.steps)
        return profiled | watched
    with watched_cores(watched, "waiting"):
        seconds = repeat_steps(arguments, passes, memory)
    whole = [sum(parts) for parts in seconds]
    return {
        "seconds_per_step": round(statistics.median(whole), 6),
        "seconds_fastest_step": round(min(whole), 6),
        "seconds_slowest_step": round(max(whole), 6),
        "seconds_forward": round(statistics.median(parts[0] for parts in seconds), 6),
        "tokens_per_second": round(rows * case.length / statistics.median(whole), 2),
        "steps": len(seconds),
        "parameter_bytes": parameters,
        "memory": {"imported": imported, "built": built, **memory.record("forward", "backward")},
        **watched,
    }


def answer(request: dict) -> dict:
    """Do the run of a request; see `run_process`."""
    arguments = TrainingBenchmarkArguments(**request["arguments"])
    return measure(TrainingCase(**request["case"]), arguments, ModelShape(**request["shape"]))
