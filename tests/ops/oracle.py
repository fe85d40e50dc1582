"""The oracle over batches and heads, and the grid of inputs that fast paths are compared on."""

import dataclasses
import itertools
import random
from collections.abc import Callable, Iterable, Iterator

import torch
from pytest import MonkeyPatch
from torch import Tensor

from reformer_hf.ops import blockwise, long_order, reference
from reformer_hf.ops.attention_map import AttentionMap
from reformer_hf.ops.chunk_ring import layout_length
from reformer_hf.ops.window import Window

BATCH, HEADS, DIM = 2, 2, 4
TOLERANCE = 1e-12
"""For float64, where rounding adds up to some 1e-15 times the handful of terms in these cases."""

Outcome = tuple[Tensor, Tensor]
"""Output (batch, heads, seq, dim) and attention probabilities (batch, heads, seq, seq)."""


def sample_grid(count: int, **axes: list) -> list[dict]:
    """A fixed choice of ``count`` points of the full grid, the same in every run."""
    grid = [dict(zip(axes, point, strict=True)) for point in itertools.product(*axes.values())]
    return random.Random(0).sample(grid, count)


def name_point(point: dict) -> str:
    return "-".join(f"{name}={value}".replace(" ", "") for name, value in point.items())


def with_window(options: dict, **more) -> dict:
    """Options of the oracle as the fast paths take them: the window's numbers as one value."""
    options = {**options, **more}
    names = [field.name for field in dataclasses.fields(Window) if field.name in options]
    return {"window": Window(**{name: options.pop(name) for name in names}), **options}


def random_heads(seq: int, generator: torch.Generator, batch: int = BATCH) -> Tensor:
    """Vectors that want a gradient, (batch, heads, seq, dim), float64."""
    shape = (batch, HEADS, seq, DIM)
    return torch.randn(shape, generator=generator, dtype=torch.float64, requires_grad=True)


def make_documents(kind: str, seq: int, generator: torch.Generator) -> Tensor | None:
    """Two rows of different lengths: padding on either side or in between, or packed documents."""
    if kind == "none":
        return None
    documents = torch.zeros(BATCH, seq, dtype=torch.int64)
    missing = torch.arange(seq) < seq // 3
    if kind == "left":
        documents[1] = missing.long()
    elif kind == "right":
        documents[1] = missing.flip(0).long()
    elif kind == "holes":
        documents[1] = missing[torch.randperm(seq, generator=generator)].long()
    elif kind == "packed":
        documents[0, seq // 2 :] = 1
        documents[1] = torch.randint(3, (seq,), generator=generator)
    else:
        raise ValueError(kind)
    return documents


def examples(*tensors: Tensor | None) -> Iterator[tuple]:
    """Each (row, head) of heads' tensors; (batch, seq) tensors are shared by the heads."""
    batch, heads = next(t.shape[:2] for t in tensors if t is not None and t.ndim == 4)
    for b, h in itertools.product(range(batch), range(heads)):
        yield tuple(None if t is None else t[b, h] if t.ndim == 4 else t[b] for t in tensors)


def stack(outcomes: list[Outcome], like: Tensor) -> Outcome:
    output, probabilities = (
        torch.stack(parts).unflatten(0, like.shape[:2]) for parts in zip(*outcomes, strict=True)
    )
    return output, probabilities


def spread(outcome: Outcome, places: Tensor, seq: int) -> Outcome:
    """Put the result for the tokens at ``places`` into a row of ``seq`` places, zero elsewhere."""
    output, probabilities = outcome
    rows = torch.zeros(seq, len(places), dtype=torch.float64)
    rows[places, torch.arange(len(places))] = 1
    return rows @ output, rows @ probabilities @ rows.T


def band_lsh(
    query: Tensor,
    value: Tensor,
    buckets: Tensor,
    documents: Tensor | None,
    *,
    chunk_length: int,
    num_chunks_before: int,
    num_chunks_after: int = 0,
    deduplicate_rounds: bool = False,
) -> Outcome:
    """LSH attention in the ``band`` scope."""
    window = (chunk_length * num_chunks_before, chunk_length * num_chunks_after)
    outcomes = []
    for q, v, ids, docs in examples(query, value, buckets, documents):
        docs = [0] * len(q) if docs is None else docs.tolist()
        counts = reference.band_counts(ids.tolist(), docs, *window)
        keys = reference.normalise_keys(q)
        outcomes.append(
            reference.attend(q, keys, v, counts, self_mask=True, deduplicate=deduplicate_rounds)
        )
    return stack(outcomes, query)


def chunk_lsh(
    query: Tensor,
    value: Tensor,
    buckets: Tensor,
    documents: Tensor | None,
    *,
    chunk_length: int,
    num_chunks_before: int,
    num_chunks_after: int,
    causal: bool,
    chunk_lengths: tuple[int, ...] = (),
    deduplicate_rounds: bool = False,
) -> Outcome:
    """LSH attention in the ``chunk`` scope; zero at padding."""
    outcomes = []
    for q, v, ids, docs in examples(query, value, buckets, documents):
        real = torch.arange(len(q)) if docs is None else (docs == 0).nonzero().flatten()
        layout = int(layout_length(len(real), (chunk_length, *chunk_lengths)))
        window = (chunk_length, num_chunks_before, num_chunks_after)
        counts = reference.chunk_counts(ids[:, real].tolist(), layout, *window, causal)
        keys = reference.normalise_keys(q[real])
        outcome = reference.attend(
            q[real], keys, v[real], counts, self_mask=True, deduplicate=deduplicate_rounds
        )
        outcomes.append(spread(outcome, real, len(q)))
    return stack(outcomes, query)


def local(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    documents: Tensor | None,
    *,
    scope: str,
    chunk_length: int,
    num_chunks_before: int,
    num_chunks_after: int,
    causal: bool,
) -> Outcome:
    """Local attention in either scope; in the ``chunk`` scope zero at padding."""
    outcomes = []
    for q, k, v, docs in examples(query, key, value, documents):
        seq = len(q)
        if scope == "band":
            docs = [0] * seq if docs is None else docs.tolist()
            window = (chunk_length * num_chunks_before, chunk_length * num_chunks_after)
            counts = reference.band_counts([[0] * seq], docs, *window)
            outcomes.append(reference.attend(q, k, v, counts, self_mask=False))
        else:
            real = torch.arange(seq) if docs is None else (docs == 0).nonzero().flatten()
            window = (chunk_length, num_chunks_before, num_chunks_after)
            counts = reference.local_chunk_counts(len(real), *window, causal)
            outcome = reference.attend(q[real], k[real], v[real], counts, self_mask=False)
            outcomes.append(spread(outcome, real, seq))
    return stack(outcomes, query)


Fast = Callable[..., tuple[Tensor, AttentionMap | None]]
"""Maps inputs to an output and an attention map."""


def fast_paths(monkeypatch: MonkeyPatch, path: Callable[[str], Fast]) -> Iterator[tuple[str, Fast]]:
    """The eager path and the blockwise one, with blocks as they are and with small ones.

    In small ones even short rows need several blocks and groups. They stay until the test ends.

    Args:
        monkeypatch: sets the sizes.
        path: makes one of the name of an implementation.
    """
    for name in ("whole", "pieces"):
        if name == "pieces":
            monkeypatch.setattr(blockwise, "CPU_SIZES", blockwise.Sizes(4, 16))
            monkeypatch.setattr(long_order, "CHUNK_LENGTH", 2)
        for implementation in ("eager", "blockwise"):
            yield f"{implementation}, {name}", path(implementation)


def assert_equal(
    fast: Iterable[tuple[str, Fast]],
    oracle: Callable[..., Outcome],
    inputs: list[Tensor],
    compared: Tensor | None = None,
) -> None:
    """Outputs, attention maps if there are any, and gradients are those of the oracle.

    Args:
        fast: by name, what maps the inputs to an output and an attention map.
        oracle: maps the inputs to an output and probabilities.
        inputs: tensors to differentiate by.
        compared: (batch, seq), the places whose outputs matter; None for all.
    """
    expected, probabilities = oracle(*inputs)
    relevant = torch.ones(expected.shape[0], expected.shape[2], dtype=torch.bool)
    relevant = (relevant if compared is None else compared)[:, None, :, None]
    cotangent = torch.randn_like(expected).where(relevant, 0)
    wanted = torch.autograd.grad(expected, inputs, cotangent)

    def assert_close(name: str, mine: Tensor, theirs: Tensor, tolerance: float) -> None:
        torch.testing.assert_close(
            mine, theirs, atol=tolerance, rtol=0, msg=lambda message: f"{name}: {message}"
        )

    for name, path in fast:
        output, attention_map = path(*inputs)
        assert_close(name, output.where(relevant, 0), expected.where(relevant, 0), TOLERANCE)
        if attention_map is not None:
            shown = attention_map.to_dense().where(relevant, 0)
            assert_close(f"{name}, map", shown, probabilities.where(relevant, 0), TOLERANCE)
        found = torch.autograd.grad(output, inputs, cotangent)
        for mine, theirs in zip(found, wanted, strict=True):
            assert_close(f"{name}, gradient", mine, theirs, 100 * TOLERANCE)
