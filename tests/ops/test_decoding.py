"""Rings, sort orders and candidates against the oracle's counts and against sorting anew."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from reformer_hf.ops import reference
from reformer_hf.ops.chunk_ring import layout_length
from reformer_hf.ops.decoding import (
    NOWHERE,
    attend_seen,
    choose_candidates,
    chunk_candidates,
    count_candidates,
    insert_place,
    latest_places,
    push_places,
    sort_with_rings,
    take_back,
)
from reformer_hf.ops.sorting import sort_by_bucket
from reformer_hf.ops.window import Window

BATCH, HEADS = 2, 2
few_examples = settings(max_examples=60)
generators = st.integers(0, 2**32).map(lambda seed: torch.Generator().manual_seed(seed))
sizes = {
    "rounds": st.integers(1, 3),
    "num_buckets": st.integers(1, 4),
    "window": st.integers(1, 5),
}


def random_buckets(rounds: int, num_buckets: int, seq: int, generator: torch.Generator) -> Tensor:
    return torch.randint(num_buckets, (BATCH, HEADS, rounds, seq), generator=generator)


def rings_of(buckets: Tensor, num_buckets: int, window: int) -> Tensor:
    """The rings of a row, by definition: each bucket's last places, newest first."""
    shape = (*buckets.shape[:3], num_buckets, window)
    rings = torch.full(shape, NOWHERE, dtype=torch.int32)
    for row, ring in zip(buckets.flatten(0, 2), rings.view(-1, *shape[3:]), strict=True):
        for bucket in range(num_buckets):
            places = [place for place, other in enumerate(row.tolist()) if other == bucket]
            for slot, place in enumerate(places[::-1][:window]):
                ring[bucket, slot] = place
    return rings


def count_shown(candidates: Tensor, seq: int) -> Tensor:
    """How often a query's candidates hold each place, (batch, heads, seq)."""
    places = candidates.flatten(-2)
    counts = torch.zeros(*places.shape[:-1], seq + 1, dtype=torch.int64)
    shown = (places + 1).long()
    return counts.scatter_add_(-1, shown, torch.ones_like(shown))[..., 1:]


@given(**sizes, seq=st.integers(1, 12), generator=generators)
@few_examples
def test_latest_places_are_the_last_of_each_bucket(rounds, num_buckets, window, seq, generator):
    buckets = random_buckets(rounds, num_buckets, seq, generator)
    sort = sort_by_bucket(buckets, None, num_buckets)
    found = latest_places(sort.order, sort.segments, num_buckets, window)
    assert torch.equal(found, rings_of(buckets, num_buckets, window))


@given(**sizes, seq=st.integers(1, 8), more=st.integers(1, 8), generator=generators)
@few_examples
def test_pushed_tokens_read_the_band_and_enter_the_rings(
    rounds, num_buckets, window, seq, more, generator
):
    buckets = random_buckets(rounds, num_buckets, seq + more, generator)
    before = rings_of(buckets[..., :seq], num_buckets, window)
    rings = before.clone()
    candidates, overwritten = push_places(rings, buckets[..., seq:], seq)
    assert torch.equal(rings, rings_of(buckets, num_buckets, window))
    assert candidates.shape == (BATCH, HEADS, more, rounds, window + 1)
    own = torch.arange(seq, seq + more).view(1, 1, more, 1)
    assert (candidates[..., 0] == own).all()
    shown = count_shown(candidates, seq + more)
    for row in range(BATCH):
        for head in range(HEADS):
            ids = buckets[row, head].tolist()
            expected = reference.band_counts(ids, [0] * (seq + more), window, 0)
            assert torch.equal(shown[row, head], expected[seq:])
    for entry in reversed(overwritten):
        take_back(rings, entry)
    assert torch.equal(rings, before)


@given(**sizes, seq=st.integers(0, 8), more=st.integers(1, 8), generator=generators)
@few_examples
def test_a_block_is_sorted_with_what_the_rings_hold(
    rounds, num_buckets, window, seq, more, generator
):
    buckets = random_buckets(rounds, num_buckets, seq + more, generator)
    rings = rings_of(buckets[..., :seq], num_buckets, window)
    unchanged = rings.clone()
    places, sort = sort_with_rings(rings, buckets[..., seq:], seq)
    assert torch.equal(rings, unchanged)
    slots = num_buckets * window
    assert places.shape[-1] == slots + more
    ranks = torch.arange(slots + more).expand_as(sort.order)
    assert torch.equal(sort.order.gather(-1, sort.inverse), ranks)
    # A new token's rank holds its place; the ranks before it in its segment, its window.
    new = sort.inverse[..., slots:]
    assert torch.equal(places.gather(-1, new), torch.arange(seq, seq + more).expand_as(new))
    assert torch.equal(sort.segments.gather(-1, new), buckets[..., seq:])
    assert (sort.segments.diff(dim=-1) >= 0).all()
    assert ((places == NOWHERE) == (sort.segments == num_buckets)).all()
    same = sort.segments.diff(dim=-1) == 0
    assert (places.diff(dim=-1)[same & (places[..., 1:] >= 0)] > 0).all()
    found = latest_places(places, sort.segments, num_buckets, window)
    assert torch.equal(found, rings_of(buckets, num_buckets, window))


@given(rounds=st.integers(1, 3), seq=st.integers(1, 12), generator=generators)
@few_examples
def test_inserting_by_rank_is_sorting(rounds, seq, generator):
    buckets = random_buckets(rounds, 3, seq + 1, generator)
    order = buckets[..., :seq].argsort(dim=-1, stable=True)
    rank = (buckets[..., :seq] <= buckets[..., seq:]).sum(dim=-1)
    expected = buckets.argsort(dim=-1, stable=True)
    assert torch.equal(insert_place(order, rank), expected)
    assert torch.equal(
        expected.gather(-1, rank.unsqueeze(-1)), torch.full_like(rank, seq)[..., None]
    )


@given(
    rounds=st.integers(1, 3),
    chunk_length=st.integers(1, 4),
    before=st.integers(0, 2),
    after=st.integers(0, 2),
    others=st.sampled_from([(), (2,), (3,)]),
    lengths=st.lists(st.integers(1, 14), min_size=BATCH, max_size=BATCH),
    generator=generators,
)
@settings(max_examples=200)
def test_chunk_candidates_are_what_the_oracle_counts(
    rounds, chunk_length, before, after, others, lengths, generator
):
    """Rows of different lengths, padding in front of their tokens and the last token real."""
    seq = max(lengths)
    buckets = random_buckets(rounds, 3, seq, generator)
    for row, length in enumerate(lengths):
        buckets[row, :, :, : seq - length] = 3
    order = buckets.argsort(dim=-1, stable=True)
    rank = (buckets <= buckets[..., -1:]).sum(dim=-1) - 1
    real = torch.tensor(lengths)
    laid_out = layout_length(real, (chunk_length, *others))
    assert isinstance(laid_out, Tensor)
    window = (chunk_length, before, after)
    shown_by = Window(*window, scope="chunk", causal=False)
    candidates = chunk_candidates(order, rank, real, laid_out, shown_by)
    assert (candidates[:, :, 0, :, 0] == seq - 1).all()
    assert (candidates[..., 1:] != seq - 1).all()
    shown = count_shown(candidates[..., 1:], seq)[:, :, 0]
    for row, length in enumerate(lengths):
        layout = int(laid_out[row])
        for head in range(HEADS):
            ids = buckets[row, head, :, seq - length :].tolist()
            counts = reference.chunk_counts(ids, layout, *window, causal=True)
            expected = counts[-1, :-1]
            if layout <= chunk_length:  # a key stands there equally often, which changes nothing
                expected = expected * (shown[row, head, -2] if length > 1 else 1)
            assert torch.equal(shown[row, head, seq - length : -1], expected)
            assert not shown[row, head, : seq - length].any()


def test_the_own_place_counts_only_alone():
    candidates = torch.tensor([[[[5, 1, 5], [5, 5, 2]], [[6, -1, -1], [6, -1, -1]]]]).unsqueeze(1)
    counted = choose_candidates(candidates)
    assert counted[0, 0, 0].tolist() == [[False, True, True], [False, True, True]]
    assert counted[0, 0, 1].tolist() == [[True, False, False], [True, False, False]]


def test_candidates_are_counted_over_all_rounds():
    places = torch.tensor([[7, 1, 2, 7, 2, -1]])
    counted = torch.tensor([[False, True, True, False, True, False]])
    assert count_candidates(places, counted).tolist() == [[0, 1, 2, 0, 2, 0]]


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
def test_attending_to_what_is_seen(masked, weighted):
    generator = torch.Generator().manual_seed(3)
    query, key, value = (
        torch.randn(1, 1, n, 4, generator=generator, dtype=torch.float64) for n in (2, 5, 5)
    )
    visible = torch.ones(1, 1, 2, 5, dtype=torch.bool)
    if masked:
        visible = torch.tensor([[[[1, 0, 1, 1, 0], [0, 0, 0, 0, 1]]]], dtype=torch.bool)
    counts = torch.tensor([[[[1, 0, 2, 2, 0], [1, 1, 1, 1, 1]]]]) if weighted else None
    if weighted and not masked:
        counts = torch.tensor([[[[1, 3, 2, 2, 1], [1, 1, 1, 1, 1]]]])
    weights = (query @ key.mT / 2).exp() * visible
    if counts is not None:
        weights = weights / counts.clamp(min=1)
    weights = weights / weights.sum(-1, keepdim=True)
    seen = visible if masked or weighted else None
    output, no_map = attend_seen(query, key, value, seen, counts)
    assert no_map is None
    assert_close(output, weights @ value)
    with_map, probabilities = attend_seen(query, key, value, seen, counts, output_map=True)
    assert_close(with_map, output)
    assert_close(probabilities, weights)


def test_attention_dropout_keeps_the_mean():
    query, key, value = torch.randn(3, 1, 1, 4, 8, dtype=torch.float64)
    expected, _ = attend_seen(query, key, value)
    many = (x.expand(4000, -1, -1, -1) for x in (query, key, value))
    sampled, _ = attend_seen(*many, dropout=0.5)
    error = (sampled.mean(0) - expected[0]).abs() / (sampled.std(0) / 4000**0.5)
    assert sampled.std(0).min() > 0.01 and error.max() < 5
