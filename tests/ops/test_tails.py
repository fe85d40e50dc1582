"""Tails of the parts of a row, merged, are the tails of the row."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reformer_hf.ops.tails import Tails, find_tails, merge_tails, split_tails, take_tails

BATCH, HEADS, ROUNDS, BUCKETS = 2, 2, 2, 3


def tails_of(vectors, buckets, window, counted=None):
    places = find_tails(buckets, counted, BUCKETS, window)
    return take_tails(vectors, places.flatten(2, 3))


def filled(tails):
    """The vectors of the slots that count, and zeros."""
    slots = torch.arange(tails.vectors.shape[-2]) < tails.counts.unsqueeze(-1)
    return tails.vectors * slots.unsqueeze(-1)


@settings(max_examples=15)
@given(lengths=st.lists(st.integers(1, 9), min_size=2, max_size=4), window=st.integers(1, 5))
def test_merged_tails_are_those_of_the_row(lengths, window):
    generator = torch.Generator().manual_seed(sum(lengths) + window)
    shape = (BATCH, HEADS, ROUNDS, sum(lengths))
    buckets = torch.randint(0, BUCKETS, shape, generator=generator)
    vectors = torch.randn(BATCH, HEADS, sum(lengths), 4, generator=generator)
    parts = zip(vectors.split(lengths, dim=2), buckets.split(lengths, dim=3), strict=True)
    merged, *later = [tails_of(*part, window) for part in parts]
    for newer in later:
        merged = merge_tails(newer, merged)
    expected = tails_of(vectors, buckets, window)
    assert torch.equal(merged.counts, expected.counts)
    assert torch.equal(filled(merged), filled(expected))


def test_at_the_other_end_are_the_tails_of_the_row_read_backwards():
    generator = torch.Generator().manual_seed(1)
    buckets = torch.randint(0, BUCKETS, (BATCH, HEADS, ROUNDS, 20), generator=generator)
    vectors = torch.randn(BATCH, HEADS, 20, 4, generator=generator)
    first = take_tails(vectors, find_tails(buckets, None, BUCKETS, 5, -1).flatten(2, 3))
    backwards = tails_of(vectors.flip(2), buckets.flip(3), 5)
    assert torch.equal(first.counts, backwards.counts)
    assert torch.equal(filled(first), filled(backwards))


def test_what_does_not_count_is_in_no_tail():
    buckets = torch.zeros(1, 1, 1, 4, dtype=torch.int64)
    counted = torch.tensor([[True, False, True, False]])
    assert find_tails(buckets, counted, 1, 3).flatten().tolist() == [2, 0, -1]
    assert find_tails(buckets, counted, 1, 3, -1).flatten().tolist() == [0, 2, -1]


def test_a_gradient_goes_back_where_the_slots_came_from():
    counts = torch.tensor([[[0, 1, 3]]])
    older_counts = torch.tensor([[[2, 3, 1]]])
    newer, older = (torch.randn(1, 1, 3, 3, 2, requires_grad=True) for _ in range(2))
    merged = merge_tails(Tails(newer, counts), Tails(older, older_counts))
    assert merged.counts.tolist() == [[[2, 3, 3]]]
    gradient = torch.randn_like(merged.vectors)
    expected = torch.autograd.grad(merged.vectors, (newer, older), gradient)
    for found, part in zip(split_tails(gradient, counts), expected, strict=True):
        assert torch.equal(found, part)
