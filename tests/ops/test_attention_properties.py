"""What the band scope promises: causality, and no effect of padding, packing and batch-mates."""

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from reformer_hf.ops.attention import local_attention, lsh_attention
from reformer_hf.ops.window import Window

HEADS, DIM, BUCKETS = 2, 4, 4
few_examples = settings(max_examples=25)


@dataclasses.dataclass(frozen=True)
class Layer:
    """A layer of either kind as a function of rows, so that one property covers both."""

    kind: str
    causal: bool
    chunk_length: int
    num_chunks_before: int
    num_chunks_after: int
    rounds: int
    deduplicate: bool

    def rows(self, batch: int, seq: int, generator: torch.Generator) -> tuple[Tensor, ...]:
        shape = (3, batch, HEADS, seq, DIM)
        query, key, value = torch.randn(shape, generator=generator, dtype=torch.float64)
        ids = (batch, HEADS, self.rounds, seq)
        buckets = torch.randint(BUCKETS, ids, generator=generator)
        return query, key, value, buckets

    def __call__(self, rows: tuple[Tensor, ...], documents: Tensor | None = None) -> Tensor:
        query, key, value, buckets = rows
        window = Window(
            self.chunk_length, self.num_chunks_before, self.num_chunks_after, causal=self.causal
        )
        if self.kind == "local":
            return local_attention(query, key, value, documents, window=window)[0]
        return lsh_attention(
            query,
            value,
            buckets,
            documents,
            num_buckets=BUCKETS,
            deduplicate_rounds=self.deduplicate,
            window=window,
        )[0]


def take(rows: tuple[Tensor, ...], batch: slice, places) -> tuple[Tensor, ...]:
    """Rows of the batch, and places of the sequence, of vectors and bucket ids alike."""
    query, key, value, buckets = rows
    return (
        *(x[batch][:, :, places] for x in (query, key, value)),
        buckets[batch][..., places],
    )


def assert_same(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)


@st.composite
def layers(draw, causal: bool | None = None) -> Layer:
    causal = draw(st.booleans()) if causal is None else causal
    return Layer(
        kind=draw(st.sampled_from(["local", "lsh"])),
        causal=causal,
        chunk_length=draw(st.integers(1, 5)),
        num_chunks_before=draw(st.integers(1, 2)),
        num_chunks_after=0 if causal else draw(st.integers(0, 1)),
        rounds=draw(st.integers(1, 3)),
        deduplicate=draw(st.booleans()),
    )


generators = st.integers(0, 2**32).map(lambda seed: torch.Generator().manual_seed(seed))
lengths = st.integers(1, 14)


@given(layers(causal=True), generators, st.integers(2, 14), st.data())
@few_examples
def test_later_tokens_have_no_effect(layer, generator, seq, data):
    cut = data.draw(st.integers(1, seq - 1))
    rows = layer.rows(2, seq, generator)
    output = layer(rows)
    other = layer.rows(2, seq, generator)
    for mine, theirs in zip(rows[:3], other[:3], strict=True):
        theirs[:, :, :cut] = mine[:, :, :cut]
    other[3][..., :cut] = rows[3][..., :cut]
    assert_same(layer(other)[:, :, :cut], output[:, :, :cut])
    assert_same(layer(take(rows, slice(None), slice(cut))), output[:, :, :cut])


@given(layers(), generators, lengths, st.integers(0, 9))
@few_examples
def test_padding_of_any_amount_anywhere_has_no_effect(layer, generator, seq, padding):
    padded = layer.rows(1, seq + padding, generator)
    real = torch.randperm(seq + padding, generator=generator)[:seq].sort().values
    documents = torch.ones(1, seq + padding, dtype=torch.int64)
    documents[0, real] = 0
    expected = layer(take(padded, slice(None), real))
    assert_same(layer(padded, documents)[:, :, real], expected)


@given(layers(), generators, lengths, st.integers(1, 4))
@few_examples
def test_packed_documents_are_as_separate_rows(layer, generator, seq, count):
    packed = layer.rows(1, seq, generator)
    documents = torch.randint(count, (1, seq), generator=generator)
    output = layer(packed, documents)
    for document in documents.unique():
        places = (documents[0] == document).nonzero().flatten()
        alone = layer(take(packed, slice(None), places))
        assert_same(output[:, :, places], alone)


@given(layers(), generators, lengths)
@few_examples
def test_batch_mates_have_no_effect(layer, generator, seq):
    rows = layer.rows(3, seq, generator)
    documents = torch.randint(2, (3, seq), generator=generator)
    output = layer(rows, documents)
    for row in range(3):
        one = slice(row, row + 1)
        assert_same(layer(take(rows, one, slice(None)), documents[one]), output[one])


@given(layers(), generators, lengths)
@few_examples
def test_heads_have_no_effect_on_each_other(layer, generator, seq):
    rows = layer.rows(2, seq, generator)
    output = layer(rows)
    for head in range(HEADS):
        one = tuple(x[:, head : head + 1] for x in rows)
        assert_same(layer(one), output[:, head : head + 1])


@given(layers(), generators, lengths)
@few_examples
def test_no_gradient_reaches_padding_or_other_documents(layer, generator, seq):
    query, key, value, buckets = layer.rows(1, seq, generator)
    leaves = [x.requires_grad_() for x in (query, key, value)]
    documents = torch.randint(2, (1, seq), generator=generator)
    documents[0, 0] = 0
    output = layer((query, key, value, buckets), documents)
    real = documents[0] == 0
    gradients = torch.autograd.grad(output[:, :, real].sum(), leaves, allow_unused=True)
    for gradient in gradients:
        if gradient is not None:
            assert (gradient[:, :, ~real] == 0).all()
    assert gradients[2].abs().sum() > 0


@pytest.mark.parametrize("kind", ["local", "lsh"])
def test_a_row_of_padding_alone_stays_finite(kind):
    layer = Layer(kind, True, 3, 1, 0, 2, False)
    rows = layer.rows(2, 7, torch.Generator().manual_seed(0))
    leaves = [x.requires_grad_() for x in rows[:3]]
    documents = torch.ones(2, 7, dtype=torch.int64)
    documents[0] = 0
    output = layer(rows, documents)
    assert output.isfinite().all()
    for gradient in torch.autograd.grad(output.sum(), leaves, allow_unused=True):
        assert gradient is None or gradient.isfinite().all()
