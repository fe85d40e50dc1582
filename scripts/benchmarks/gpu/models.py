"""Training steps and decoding steps of whole models on a device."""

import time
from collections.abc import Callable
from dataclasses import replace
from statistics import median

import torch

from scripts.benchmarks.common.peers import CachedModel, ModelShape, build
from scripts.benchmarks.gpu.arguments import GpuBenchmarkArguments, GpuCase

PREFILL_TOKENS = 2**14


def time_steps(
    step: Callable[[], object], device: torch.device, warmup: int, steps: int, limit: float
) -> list[float]:
    """Seconds of each timed step, waited for on the device; at least one, within the limit."""
    begin, seconds = time.perf_counter(), []
    for number in range(warmup + steps):
        start = time.perf_counter()
        step()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        if number >= warmup:
            seconds.append(time.perf_counter() - start)
        if seconds and time.perf_counter() - begin > limit:
            break
    return seconds


def begin_peak(device: torch.device) -> None:
    """Forget the peak of the device's memory."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def peak_bytes(device: torch.device) -> int | None:
    """The peak of the device's memory since `begin_peak`; None of a CPU."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None


def new_subject(
    case: GpuCase, shape: ModelShape, positions: int, device: torch.device
) -> CachedModel:
    """A model of a variant on the device, with an empty cache."""
    torch.manual_seed(0)
    ours = case.variant not in ("stock", "gpt2")
    name = "band" if ours else case.variant
    subject: CachedModel = build(name, replace(shape, max_positions=positions), PREFILL_TOKENS)
    subject.model.to(device)  # type: ignore[arg-type]
    if ours:
        subject.model.set_attn_implementation(case.variant)
    return subject


def autocast(device: torch.device) -> torch.autocast:
    """bfloat16, the precision of all variants."""
    return torch.autocast(device.type, torch.bfloat16)


def train(case: GpuCase, arguments: GpuBenchmarkArguments, shape: ModelShape) -> dict:
    """Tokens per second and peak bytes of forward and backward."""
    device = torch.device(arguments.device)
    model = new_subject(case, shape, case.length, device).model.train()
    rows = max(1, arguments.tokens_per_batch // case.length)
    ids = torch.randint(1, shape.vocab_size, (rows, case.length), device=device)

    def step() -> None:
        with autocast(device):
            loss = model(input_ids=ids, labels=ids, use_cache=False).loss
        loss.backward()
        model.zero_grad(set_to_none=True)

    begin_peak(device)
    limits = (arguments.warmup, arguments.steps, arguments.max_seconds)
    seconds = time_steps(step, device, *limits)
    return {
        "seconds_per_step": median(seconds),
        "steps": len(seconds),
        "tokens_per_second": rows * case.length / median(seconds),
        "peak_bytes": peak_bytes(device),
    }


@torch.no_grad()
def decode(case: GpuCase, arguments: GpuBenchmarkArguments, shape: ModelShape) -> dict:
    """Milliseconds of a token after a context, and peak bytes."""
    device = torch.device(arguments.device)
    positions = case.length + 2 * (arguments.warmup + arguments.tokens)
    subject = new_subject(case, shape, positions, device)
    ids = torch.randint(1, shape.vocab_size, (1, case.length), device=device)
    token = ids[:, :1]
    begin_peak(device)
    with autocast(device):
        subject.prefill(ids)
        limits = (arguments.warmup, arguments.tokens, arguments.max_seconds)
        seconds = time_steps(lambda: subject.forward(token), device, *limits)
    return {
        "milliseconds_per_token": 1000 * median(seconds),
        "tokens": len(seconds),
        "peak_bytes": peak_bytes(device),
    }
