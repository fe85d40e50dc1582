"""Seconds and memory of a forward and backward pass of a layer of attention, or of a model."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import set_seed

from reformer_hf import ReformerHFConfig, ReformerHFModel
from reformer_hf.nn.attention import LSHSelfAttention
from reformer_hf.nn.full_attention import FullSelfAttention
from scripts.benchmarks.common.cores import watched_cores
from scripts.benchmarks.common.memory import PeakMemory
from scripts.studies.reproduce.common import chunk_length, num_buckets

MODULE = "scripts.studies.reproduce.costs"
VOCABULARY = 258
FEED_FORWARD_PIECE = 64
"""Tokens in the feed-forward sub-layer at a time, where it is chunked."""


class Subject(NamedTuple):
    """What is measured.

    Attributes:
        attention: `full`, `full_shared_qk`, `band` or `chunk`, of which the last two are LSH.
        implementation: `eager`, which holds all scores, or `blockwise`.
        rows: of the batch.
        length: tokens of a row.
        rounds: of hashing.
        layers: of a model; 0 for a layer of attention with its projections but that of the output.
        feed_forward_size: of a model.
        reversible: of a model, which then stores no activations of its layers.
        chunked: of a model, whose feed-forward sub-layer then takes a piece of a row at a time.
    """

    attention: str
    implementation: str
    rows: int
    length: int
    rounds: int = 1
    layers: int = 0
    feed_forward_size: int = 0
    reversible: bool = False
    chunked: bool = False


@dataclass(frozen=True)
class Sizes:
    """What all subjects share.

    Attributes:
        hidden_size: width.
        heads: of it.
        window: places that LSH attention looks at in a round.
    """

    hidden_size: int = 256
    heads: int = 4
    window: int = 64


def build_attention(subject: Subject, sizes: Sizes) -> nn.Module:
    """A layer of attention."""
    head_dim = sizes.hidden_size // sizes.heads
    common: dict[str, Any] = {"hidden_size": sizes.hidden_size, "num_heads": sizes.heads}
    common |= {"head_dim": head_dim}
    if subject.attention.startswith("full"):
        return FullSelfAttention(shared_query_key=subject.attention != "full", **common)
    return LSHSelfAttention(
        num_buckets=num_buckets(subject.attention, sizes.window, subject.length),
        num_hashes=subject.rounds,
        chunk_length=chunk_length(subject.attention, sizes.window),
        num_chunks_before=1,
        scope=subject.attention,  # type: ignore[arg-type]
        **common,
    )


def build_model(subject: Subject, sizes: Sizes) -> ReformerHFModel:
    """A model without a head."""
    is_lsh = not subject.attention.startswith("full")
    scope = subject.attention if is_lsh else "band"
    config = ReformerHFConfig(
        attn_layers=["lsh" if is_lsh else subject.attention] * subject.layers,
        attention_scope=scope,
        is_decoder=True,
        vocab_size=VOCABULARY,
        hidden_size=sizes.hidden_size,
        num_attention_heads=sizes.heads,
        attention_head_size=sizes.hidden_size // sizes.heads,
        feed_forward_size=subject.feed_forward_size,
        chunk_size_feed_forward=FEED_FORWARD_PIECE if subject.chunked else subject.length,
        position_embedding_type="none",
        lsh_attn_chunk_length=chunk_length(scope, sizes.window),
        num_hashes=subject.rounds,
        num_buckets=num_buckets(scope, sizes.window, subject.length),  # type: ignore[arg-type]
        reversible=subject.reversible,
        activation_budget=0,
    )
    model = ReformerHFModel(config).train()
    model.set_attn_implementation(subject.implementation)
    return model


def make_step(subject: Subject, sizes: Sizes) -> Callable[[], None]:
    """Forward and backward, of random weights and inputs."""
    set_seed(0)
    if subject.layers:
        model = build_model(subject, sizes)
        ids = torch.randint(1, VOCABULARY, (subject.rows, subject.length))
        return lambda: _backward(model(ids).last_hidden_state)
    attention = build_attention(subject, sizes)
    hidden = torch.randn(subject.rows, subject.length, sizes.hidden_size, requires_grad=True)
    options = {"implementation": subject.implementation}
    return lambda: _backward(attention(hidden, **options)[0])


def _backward(output: Tensor) -> None:
    output.square().mean().backward()


def measure(
    subject: Subject, sizes: Sizes, steps: int, warmup: int, num_threads: int
) -> dict[str, Any]:
    """Do some steps.

    Gradients of parameters exist from the warm-up on and are not counted as memory.

    Returns:
        `seconds` of a step, the median; `fastest`; `memory_bytes`, the peak above what the process
        held before; `waiting`, seconds that threads waited for a core in each second.
    """
    torch.set_num_threads(num_threads)
    step, memory, seconds, watched = make_step(subject, sizes), PeakMemory(), [], {}
    for _ in range(warmup):
        step()
    with watched_cores(watched, "waiting"), memory.phase("steps"):
        for _ in range(steps):
            start = time.perf_counter()
            step()
            seconds.append(time.perf_counter() - start)
    found = memory.entries("steps")
    peak, before = found["peak_bytes"], found["before_bytes"]
    return {
        "seconds": round(statistics.median(seconds), 6),
        "fastest": round(min(seconds), 6),
        "memory_bytes": None if peak is None or before is None else peak - before,
        **watched,
    }


def answer(request: dict) -> dict:
    """Do the run of a request; see `run_process`."""
    subject, sizes = Subject(**request.pop("subject")), Sizes(**request.pop("sizes"))
    return measure(subject, sizes, **request)
