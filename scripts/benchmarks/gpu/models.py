"""Training steps and decoding steps of whole models on a device."""

import time
from collections.abc import Callable
from dataclasses import replace
from statistics import median

import torch

from scripts.benchmarks.common.peers import CachedModel, ModelShape, build
from scripts.benchmarks.gpu.arguments import LINEAR, OURS, GpuBenchmarkArguments, GpuCase
from scripts.benchmarks.gpu.linear import GatedDeltaNet

PREFILL_TOKENS = 2**14


def synchronize(device: torch.device) -> None:
    """Wait for what the device was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def time_steps(
    step: Callable[[], object], device: torch.device, warmup: int, steps: int, limit: float
) -> list[float]:
    """Seconds of each timed step, waited for on the device; at least one, within the limit."""
    begin, seconds = time.perf_counter(), []
    for number in range(warmup + steps):
        start = time.perf_counter()
        step()
        synchronize(device)
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
    shape = replace(shape, max_positions=positions)
    if case.variant == LINEAR:
        subject: CachedModel = GatedDeltaNet(shape)
    else:
        name = "band" if case.variant in OURS else case.variant
        subject = build(name, shape, PREFILL_TOKENS)
    subject.model.to(device)  # type: ignore[arg-type]
    if case.variant in OURS:
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


def prefilled(
    case: GpuCase, arguments: GpuBenchmarkArguments, shape: ModelShape
) -> tuple[CachedModel, torch.Tensor]:
    """A model that has read a context, and a token, (1, 1), for its steps."""
    device = torch.device(arguments.device)
    positions = case.length + 2 * (arguments.warmup + arguments.tokens)
    subject = new_subject(case, shape, positions, device)
    ids = torch.randint(1, shape.vocab_size, (1, case.length), device=device)
    subject.prefill(ids)
    return subject, ids[:, :1]


@torch.no_grad()
def decode(case: GpuCase, arguments: GpuBenchmarkArguments, shape: ModelShape) -> dict:
    """Milliseconds of a token after a context, and peak bytes."""
    device = torch.device(arguments.device)
    begin_peak(device)
    with autocast(device):
        subject, token = prefilled(case, arguments, shape)
        limits = (arguments.warmup, arguments.tokens, arguments.max_seconds)
        seconds = time_steps(lambda: subject.forward(token), device, *limits)
    return {
        "milliseconds_per_token": 1000 * median(seconds),
        "tokens": len(seconds),
        "peak_bytes": peak_bytes(device),
    }
