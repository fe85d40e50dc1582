"""One run of the generation benchmark."""

import statistics
import time

import torch
from torch import Tensor
from transformers import set_seed

from reformer_hf.training.memory import peak_memory_bytes
from scripts.benchmarks.common.cores import watched_cores
from scripts.benchmarks.common.peers import CachedModel, ModelShape, Ours, build
from scripts.benchmarks.generation.arguments import GenerationArguments
from scripts.benchmarks.generation.profile import profile_steps
from scripts.benchmarks.generation.report import Case

FEWEST_STEPS = 3  # timed, however slow
WARM_UP_TOKENS = 128


def set_up(case: Case, arguments: GenerationArguments, shape: ModelShape) -> CachedModel:
    """Build the model of a case, always with the same weights."""
    torch.set_num_threads(arguments.num_threads)
    set_seed(0)
    return build(case.variant, shape, arguments.prefill_tokens)


def fill(subject: CachedModel, case: Case, random_states: bool) -> float:
    """Fill the cache to the case's context; returns the seconds it took."""
    ids = torch.randint(1, subject.model.config.vocab_size, (case.batch, case.context))
    # The first pass pays for what is set up once, such as threads.
    subject.prefill(ids[:, :WARM_UP_TOKENS])
    subject.forward(ids[:, :1])
    subject.reset()
    start = time.perf_counter()
    if random_states:
        subject.fill_randomly(case.batch, case.context)
    else:
        subject.prefill(ids)
    return time.perf_counter() - start


def decode(subject: CachedModel, batch: int, arguments: GenerationArguments) -> list[float]:
    """Decode greedily; returns the seconds of each timed step."""
    seconds: list[float] = []
    token = torch.ones(batch, 1, dtype=torch.int64)
    begin = time.perf_counter()
    for step in range(arguments.warmup + arguments.steps):
        start = time.perf_counter()
        logits = subject.forward(token)
        end = time.perf_counter()
        if step >= arguments.warmup:
            seconds.append(end - start)
        token = next_token(logits)
        if end - begin > arguments.max_seconds_per_run and len(seconds) >= FEWEST_STEPS:
            break
    return seconds


def next_token(logits: Tensor) -> Tensor:
    """The likeliest token, (batch, 1), of the last logits, (batch, 1, vocab)."""
    if not logits.isfinite().all():
        raise RuntimeError("the logits are not finite")
    return logits[:, -1].argmax(dim=-1, keepdim=True)


@torch.no_grad()
def profile(case: Case, arguments: GenerationArguments, shape: ModelShape) -> dict:
    """Fill a cache, warm up, and profile decode steps; see `profile_steps`."""
    subject = set_up(case, arguments, shape)
    assert isinstance(subject, Ours)
    fill(subject, case, random_states=False)
    token = torch.ones(case.batch, 1, dtype=torch.int64)
    for _ in range(arguments.warmup):
        subject.forward(token)
    return profile_steps(subject, token, arguments.steps)


@torch.no_grad()
def measure(case: Case, arguments: GenerationArguments, shape: ModelShape) -> dict:
    """Fill a cache, decode, and report times and bytes.

    Raises:
        RuntimeError: if the cache has not seen as many tokens as it was given.
    """
    subject, random_states = set_up(case, arguments, shape), arguments.needs_random_states(case)
    watched: dict = {}
    with watched_cores(watched, "waiting_in_prefill"):
        fill_seconds = fill(subject, case, random_states)
    used, allocated = subject.cache_bytes()
    with watched_cores(watched, "waiting"):
        seconds = decode(subject, case.batch, arguments)
    tokens = case.context + arguments.warmup + len(seconds)
    if subject.cached_tokens() != tokens:
        raise RuntimeError(f"the cache holds {subject.cached_tokens()} tokens, not {tokens}")
    milliseconds = [1000 * value for value in seconds]
    return {
        "ms_per_step": round(statistics.median(milliseconds), 4),
        "ms_fastest_step": round(min(milliseconds), 4),
        "ms_slowest_step": round(max(milliseconds), 4),
        "steps": len(seconds),
        "prefill_seconds": None if random_states else round(fill_seconds, 4),
        "cache_used_bytes": used,
        "cache_allocated_bytes": allocated,
        "peak_memory_bytes": peak_memory_bytes(),
        **watched,
    }


def answer(request: dict) -> dict:
    """Do the run of a request, or profile it; see `run_process`."""
    arguments = GenerationArguments(**request["arguments"])
    work = profile if arguments.profile else measure
    return work(Case(**request["case"]), arguments, ModelShape(**request["shape"]))
