"""The band scope against the oracle: outputs, attention maps and gradients."""

import inspect

import pytest
import torch

from reformer_hf.ops.attention import (
    attend_sorted,
    band_attention,
    local_attention,
    lsh_attention,
)
from reformer_hf.ops.full_attention import cross_attention, full_attention
from reformer_hf.ops.hashing import hash_vectors, sample_rotations, total_buckets
from reformer_hf.ops.sorting import sort_by_bucket
from reformer_hf.ops.window import Window
from tests.ops import oracle

CHUNK = 4
LENGTHS = [1, 3, 4, 5, 8, 11, 13]
PADDING = ["none", "left", "right", "holes", "packed"]
WINDOWS = [(1, 0, True), (2, 0, True), (1, 0, False), (1, 1, False), (2, 1, False), (0, 1, False)]
"""num_chunks_before, num_chunks_after, causal."""

LSH_GRID = oracle.sample_grid(
    90,
    seq=LENGTHS,
    rounds=[1, 2, 3],
    num_buckets=[2, 6, [2, 4]],
    window=WINDOWS,
    deduplicate=[False, True],
    padding=PADDING,
)
LOCAL_GRID = oracle.sample_grid(
    70, seq=LENGTHS, window=[(0, 0, True), *WINDOWS], padding=PADDING, scope=["band", "chunk"]
)


@pytest.mark.parametrize("point", LSH_GRID, ids=oracle.name_point)
def test_lsh_attention_equals_the_oracle(point, monkeypatch):
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
        "deduplicate_rounds": point["deduplicate"],
    }
    fast = oracle.with_window(options, causal=causal)
    total = total_buckets(point["num_buckets"])

    def path(implementation):
        how = {"implementation": implementation, "output_map": implementation == "eager"}
        return lambda q, v: lsh_attention(
            q, v, buckets, documents, num_buckets=total, **how, **fast
        )

    oracle.assert_equal(
        oracle.fast_paths(monkeypatch, path),
        lambda q, v: oracle.band_lsh(q, v, buckets, documents, **options),
        [query, value],
    )


@pytest.mark.parametrize("point", LOCAL_GRID, ids=oracle.name_point)
def test_local_attention_equals_the_oracle(point, monkeypatch):
    generator = torch.Generator().manual_seed(1)
    inputs = [oracle.random_heads(point["seq"], generator) for _ in range(3)]
    padding = point["padding"]
    if point["scope"] == "chunk" and padding == "packed":
        padding = "none"  # packing is refused in the chunk scope
    documents = oracle.make_documents(padding, point["seq"], generator)
    before, after, causal = point["window"]
    options = {
        "scope": point["scope"],
        "chunk_length": CHUNK,
        "num_chunks_before": before,
        "num_chunks_after": after,
        "causal": causal,
    }

    def path(implementation):
        how = {"implementation": implementation, "output_map": implementation == "eager"}
        return lambda *x: local_attention(*x, documents, **how, **oracle.with_window(options))

    oracle.assert_equal(
        oracle.fast_paths(monkeypatch, path),
        lambda *x: oracle.local(*x, documents, **options),
        inputs,
        compared=None if documents is None or point["scope"] == "band" else documents == 0,
    )


def test_the_chunk_scope_is_refused():
    x, buckets = torch.zeros(1, 1, 4, 2), torch.zeros(1, 1, 1, 4, dtype=torch.int64)
    with pytest.raises(ValueError, match="scope='chunk' where 'band' is computed: use lsh_"):
        lsh_attention(x, x, buckets, num_buckets=2, window=Window(2, 1, scope="chunk"))


@pytest.mark.parametrize("name", ["flash", "sdpa", ""])
def test_unknown_implementations_are_refused(name):
    x, buckets = torch.zeros(1, 1, 4, 2), torch.zeros(1, 1, 1, 4, dtype=torch.int64)
    sort = sort_by_bucket(buckets, None, 2)
    for attend, *inputs, options in [
        (local_attention, x, x, x, {"window": Window(2, 1)}),
        (attend_sorted, x, x, sort, {"window": Window(2, 1)}),
        (full_attention, x, x, x, {}),
        (cross_attention, x, x, x, {}),
    ]:
        # Unwrapped, since here a type checker watches, too.
        with pytest.raises(ValueError, match=f"implementation='{name}': choose one of"):
            inspect.unwrap(attend)(*inputs, implementation=name, **options)


def test_band_attention_of_one_segment_needs_no_segments():
    x = torch.randn(2, 7, 4)
    window = Window(3, 1)
    given = band_attention(x, x, x, torch.zeros(7, dtype=torch.int64), window)
    for mine, theirs in zip(given, band_attention(x, x, x, None, window), strict=True):
        torch.testing.assert_close(mine, theirs, atol=0, rtol=0)


def test_hashing_gets_no_gradient_and_round_weights_do():
    """Two rounds, each showing the last token one other: only their weights depend on its query."""
    query = torch.randn(1, 1, 3, 4, dtype=torch.float64, requires_grad=True)
    value = torch.randn(1, 1, 3, 4, dtype=torch.float64)
    buckets = torch.tensor([[[[0, 1, 0], [1, 0, 0]]]])
    window = {"num_buckets": 2, "window": Window(2, 1)}
    output, _ = lsh_attention(query, value, buckets, **window)
    (gradient,) = torch.autograd.grad(output[0, 0, 2, 0], query)
    key = torch.nn.functional.normalize(query, dim=-1) * 2
    weight = torch.sigmoid((query[0, 0, 2] * (key[0, 0, 0] - key[0, 0, 1])).sum() / 2)
    expected = weight * value[0, 0, 0, 0] + (1 - weight) * value[0, 0, 1, 0]
    (wanted,) = torch.autograd.grad(expected, query)
    assert wanted[0, 0, 2].abs().min() > 0
    torch.testing.assert_close(gradient, wanted, atol=1e-5, rtol=1e-5)  # 1e-6 in the keys' length

    rotations = sample_rotations(0, 1, 4, 2, 2)
    assert not hash_vectors(query, rotations, 2).requires_grad


def test_dropout_acts_on_probabilities_and_shows_in_the_map():
    query, ones = torch.randn(1, 1, 200, 4), torch.ones(1, 1, 200, 4)
    buckets = torch.zeros(1, 1, 2, 200, dtype=torch.int64)
    window = {"num_buckets": 2, "window": Window(50, 1), "output_map": True}
    output, attention_map = lsh_attention(query, ones, buckets, dropout=0.5, **window)
    assert attention_map is not None
    torch.testing.assert_close(attention_map.to_dense() @ ones, output)
    assert output.std() > 0.01  # of an average of ones
    # Kept weights are doubled: the mean of 200 averages of at most 2 * 50 keys stays near 1.
    assert abs(output.mean() - 1) < 0.2
    plain, _ = lsh_attention(query, ones, buckets, **window)
    torch.testing.assert_close(plain, torch.ones_like(plain))
