"""The chunk scope against the oracle, its properties, and the flaw that it has by definition."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from reformer_hf.ops import reference
from reformer_hf.ops.attention import local_attention, lsh_attention
from reformer_hf.ops.chunk_scope import chunk_attention
from reformer_hf.ops.hashing import hash_vectors, sample_rotations, total_buckets
from reformer_hf.ops.window import Window
from tests.ops import oracle

CHUNK = 4
GRID = oracle.sample_grid(
    110,
    seq=[1, 3, 4, 5, 8, 11, 13],
    rounds=[1, 2, 3],
    num_buckets=[2, [2, 4]],
    window=[(1, 0, True), (2, 0, True), (1, 0, False), (1, 1, False), (2, 1, False)],
    deduplicate=[False, True],
    padding=["none", "left", "right", "holes"],
    chunk_lengths=[(), (6,), (2,)],
)
few_examples = settings(max_examples=25)
generators = st.integers(0, 2**32).map(lambda seed: torch.Generator().manual_seed(seed))


def to_options(drawn: dict) -> dict:
    after, causal = drawn.pop("ahead")
    return oracle.with_window(drawn, num_chunks_after=after, causal=causal, scope="chunk")


windows = st.fixed_dictionaries(
    {
        "chunk_length": st.integers(1, 5),
        "num_chunks_before": st.integers(1, 2),
        "ahead": st.sampled_from([(0, True), (0, False), (1, False)]),
        "chunk_lengths": st.sampled_from([(), (2,), (3, 4)]),
        "deduplicate_rounds": st.booleans(),
    }
).map(to_options)
BUCKETS = 4


@pytest.mark.parametrize("point", GRID, ids=oracle.name_point)
def test_equals_the_oracle(point, monkeypatch):
    generator = torch.Generator().manual_seed(1)
    query, value = (oracle.random_heads(point["seq"], generator) for _ in range(2))
    documents = oracle.make_documents(point["padding"], point["seq"], generator)
    rotations = sample_rotations(2, oracle.HEADS, oracle.DIM, point["rounds"], point["num_buckets"])
    buckets = hash_vectors(query, rotations, point["num_buckets"])
    before, after, causal = point["window"]
    options = {
        "chunk_length": CHUNK,
        "num_chunks_before": before,
        "num_chunks_after": after,
        "causal": causal,
        "deduplicate_rounds": point["deduplicate"],
        "chunk_lengths": point["chunk_lengths"],
    }
    fast = oracle.with_window(options, scope="chunk")
    total = total_buckets(point["num_buckets"])

    def path(implementation):
        how = {"implementation": implementation, "output_map": implementation == "eager"}
        return lambda q, v: chunk_attention(
            q, v, buckets, documents, num_buckets=total, **how, **fast
        )

    oracle.assert_equal(
        oracle.fast_paths(monkeypatch, path),
        lambda q, v: oracle.chunk_lsh(q, v, buckets, documents, **options),
        [query, value],
        compared=None if documents is None else documents == 0,
    )


def random_rows(batch: int, seq: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    query, value = (oracle.random_heads(seq, generator, batch).detach() for _ in range(2))
    ids = (batch, oracle.HEADS, 2, seq)
    return query, value, torch.randint(BUCKETS, ids, generator=generator)


def assert_same(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)


@given(windows, generators, st.integers(1, 14), st.integers(0, 9))
@few_examples
def test_padding_of_any_amount_anywhere_has_no_effect(window, generator, seq, padding):
    query, value, buckets = random_rows(1, seq + padding, generator)
    real = torch.randperm(seq + padding, generator=generator)[:seq].sort().values
    documents = torch.ones(1, seq + padding, dtype=torch.int64)
    documents[0, real] = 0
    padded, _ = chunk_attention(query, value, buckets, documents, num_buckets=BUCKETS, **window)
    alone, _ = chunk_attention(
        query[:, :, real], value[:, :, real], buckets[..., real], num_buckets=BUCKETS, **window
    )
    assert_same(padded[:, :, real], alone)


@given(windows, generators, st.integers(1, 14))
@few_examples
def test_batch_mates_and_other_heads_have_no_effect(window, generator, seq):
    rows = random_rows(3, seq, generator)
    documents = torch.randint(2, (3, seq), generator=generator)
    output, _ = chunk_attention(*rows, documents, num_buckets=BUCKETS, **window)
    for row in range(3):
        for head in range(oracle.HEADS):
            one = (slice(row, row + 1), slice(head, head + 1))
            alone, _ = chunk_attention(
                *(x[one] for x in rows), documents[one[0]], num_buckets=BUCKETS, **window
            )
            real = documents[row] == 0
            assert_same(alone[:, :, real], output[one][:, :, real])


def test_a_row_of_padding_alone_stays_finite():
    query, value, buckets = random_rows(2, 9, torch.Generator().manual_seed(0))
    documents = torch.ones(2, 9, dtype=torch.int64)
    documents[0] = 0
    leaves = [query.requires_grad_(), value.requires_grad_()]
    window = {"num_buckets": BUCKETS, "window": Window(4, 1, scope="chunk")}
    output, attention_map = chunk_attention(
        query, value, buckets, documents, output_map=True, **window
    )
    assert attention_map is not None
    for tensor in (output, *attention_map, *torch.autograd.grad(output.sum(), leaves)):
        assert tensor.isfinite().all()


def test_a_map_points_into_the_row_even_from_padding():
    """Padding of the layout stands behind the row and must not be told as a place of it."""
    query, value, buckets = random_rows(1, 6, torch.Generator().manual_seed(0))
    documents = torch.tensor([[0, 1, 0, 0, 0, 0]])
    options = {"num_buckets": BUCKETS, "chunk_lengths": (8, 4), "output_map": True}
    for chunk_length in (4, 8):
        window = Window(chunk_length, 1, scope="chunk", causal=False)
        _, attention_map = chunk_attention(
            query, value, buckets, documents, window=window, **options
        )
        assert attention_map is not None
        assert attention_map.key_places.max() < 6
        assert attention_map.to_dense().shape == (1, oracle.HEADS, 6, 6)


def count_moved_by_later_tokens(attend, seq: int, cut: int) -> int:
    """How many outputs before ``cut`` move when the tokens from ``cut`` on are others."""
    generator = torch.Generator().manual_seed(0)
    query, value = (oracle.random_heads(seq, generator, batch=1).detach() for _ in range(2))
    changed = [x.clone() for x in (query, value)]
    for x in changed:
        x[:, :, cut:] = torch.randn(x[:, :, cut:].shape, generator=generator)
    rotations = sample_rotations(0, oracle.HEADS, oracle.DIM, 2, 8)
    before, after = (
        attend(q, v, hash_vectors(q, rotations, 8)) for q, v in ((query, value), changed)
    )
    moved = (before - after).abs().amax((0, 1, 3)) > 1e-9
    return int(moved[:cut].sum())


def test_later_tokens_move_earlier_outputs_here_and_not_in_the_band():
    """Chunk borders depend on the whole sequence: no autoregressive factorisation."""
    chunk, band = (
        count_moved_by_later_tokens(
            lambda *x, f=f, w=window: f(*x, num_buckets=8, window=w)[0], seq=96, cut=60
        )
        for f, window in (
            (chunk_attention, Window(8, 1, scope="chunk")),
            (lsh_attention, Window(8, 1)),
        )
    )
    assert band == 0
    assert chunk > 30
    # Local layers are causal in both scopes.
    window = Window(8, 1, scope="chunk")
    local = count_moved_by_later_tokens(
        lambda q, v, _: local_attention(q, q, v, window=window)[0], 96, 60
    )
    assert local == 0


def test_up_to_one_chunk_is_full_attention_without_buckets():
    query, value, _ = random_rows(1, 6, torch.Generator().manual_seed(0))
    window = Window(6, 1, scope="chunk")
    output, _ = chunk_attention(query, value, None, num_buckets=BUCKETS, window=window)
    counts = torch.ones(6, 6, dtype=torch.int64).tril()
    for (q, v), found in zip(oracle.examples(query, value), output.flatten(0, 1), strict=True):
        expected, _ = reference.attend(q, reference.normalise_keys(q), v, counts, self_mask=True)
        assert_same(found, expected)


def test_the_band_scope_is_refused():
    with pytest.raises(ValueError, match="scope='band' where 'chunk' is computed"):
        chunk_attention(*random_rows(1, 6, torch.Generator()), num_buckets=BUCKETS,
                        window=Window(6, 1))  # fmt: skip
