"""One run of the generation benchmark."""

import statistics
import time
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import set_seed

from reformer_hf.training.machine import peak_memory_bytes
from scripts.benchmarks.common.cores import watched_cores
from scripts.benchmarks.common.peers import CachedModel, ModelShape, Ours, build
from scripts.benchmarks.generation.profile import profile_steps

FEWEST_STEPS = 3  # timed, however slow
WARM_UP_TOKENS = 128


@dataclass(frozen=True)
class Run:
    """What is measured, and for how long.

    Attributes:
        variant: of `peers.VARIANTS`.
        context: tokens per row in the cache before the first step.
        batch: rows.
        random_states: fill the cache with random states instead of a prefill.
        steps: timed steps of one token per row.
        warmup: steps before them.
        max_seconds: stop after this time with fewer steps, but at least 3.
        prefill_tokens: tokens of all rows in a pass of a prefill in blocks.
        num_threads: of torch.
    """

    variant: str
    context: int
    batch: int
    random_states: bool
    steps: int
    warmup: int
    max_seconds: float
    prefill_tokens: int
    num_threads: int


def set_up(run: Run, shape: ModelShape) -> CachedModel:
    """Build the run's model, always with the same weights."""
    torch.set_num_threads(run.num_threads)
    set_seed(0)
    return build(run.variant, shape, run.prefill_tokens)


def fill(subject: CachedModel, run: Run) -> float:
    """Fill the cache to the run's context; returns the seconds it took."""
    ids = torch.randint(1, subject.model.config.vocab_size, (run.batch, run.context))
    # The first pass pays for what is set up once, such as threads.
    subject.prefill(ids[:, :WARM_UP_TOKENS])
    subject.forward(ids[:, :1])
    subject.reset()
    start = time.perf_counter()
    if run.random_states:
        subject.fill_randomly(run.batch, run.context)
    else:
        subject.prefill(ids)
    return time.perf_counter() - start


def decode(subject: CachedModel, run: Run) -> list[float]:
    """Decode greedily; returns the seconds of each timed step."""
    seconds: list[float] = []
    token = torch.ones(run.batch, 1, dtype=torch.int64)
    begin = time.perf_counter()
    for step in range(run.warmup + run.steps):
        start = time.perf_counter()
        logits = subject.forward(token)
        end = time.perf_counter()
        if step >= run.warmup:
            seconds.append(end - start)
        token = next_token(logits)
        if end - begin > run.max_seconds and len(seconds) >= FEWEST_STEPS:
            break
    return seconds


def next_token(logits: Tensor) -> Tensor:
    """The likeliest token, (batch, 1), of the last logits, (batch, 1, vocab)."""
    if not logits.isfinite().all():
        raise RuntimeError("the logits are not finite")
    return logits[:, -1].argmax(dim=-1, keepdim=True)


@torch.no_grad()
def profile(run: Run, shape: ModelShape) -> dict:
    """Fill a cache, warm up, and profile decode steps; see `profile_steps`."""
    subject = set_up(run, shape)
    assert isinstance(subject, Ours)
    fill(subject, run)
    token = torch.ones(run.batch, 1, dtype=torch.int64)
    for _ in range(run.warmup):
        subject.forward(token)
    return profile_steps(subject, token, run.steps)


@torch.no_grad()
def measure(run: Run, shape: ModelShape) -> dict:
    """Fill a cache, decode, and report times and bytes.

    Raises:
        RuntimeError: if the cache has not seen as many tokens as it was given.
    """
    subject = set_up(run, shape)
    watched: dict = {}
    with watched_cores(watched, "waiting_in_prefill"):
        fill_seconds = fill(subject, run)
    used, allocated = subject.cache_bytes()
    with watched_cores(watched, "waiting"):
        seconds = decode(subject, run)
    tokens = run.context + run.warmup + len(seconds)
    if subject.cached_tokens() != tokens:
        raise RuntimeError(f"the cache holds {subject.cached_tokens()} tokens, not {tokens}")
    milliseconds = [1000 * value for value in seconds]
    return {
        "ms_per_step": round(statistics.median(milliseconds), 4),
        "ms_fastest_step": round(min(milliseconds), 4),
        "ms_slowest_step": round(max(milliseconds), 4),
        "steps": len(seconds),
        "prefill_seconds": None if run.random_states else round(fill_seconds, 4),
        "cache_used_bytes": used,
        "cache_allocated_bytes": allocated,
        "peak_memory_bytes": peak_memory_bytes(),
        **watched,
    }


def answer(request: dict) -> dict:
    """Do the run of a request, or profile it; see `child.py`."""
    work = profile if request["profile"] else measure
    return work(Run(**request["run"]), ModelShape(**request["shape"]))
