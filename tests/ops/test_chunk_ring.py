"""The layout of a row, and walking around its rounds."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from reformer_hf.ops.chunk_ring import Ring, layout_length


@given(st.integers(0, 60), st.lists(st.integers(1, 12), min_size=1, max_size=3))
@settings(max_examples=25)
def test_layout_is_a_common_multiple_beyond_the_shortest_chunk(seq, lengths):
    layout = layout_length(seq, tuple(lengths))
    tensor = layout_length(torch.tensor([seq]), tuple(lengths))
    assert isinstance(tensor, Tensor) and tensor.tolist() == [layout]
    if seq <= min(lengths):
        assert layout == seq
    else:
        multiples = (n for n in range(seq, 10**6) if all(n % length == 0 for length in lengths))
        assert layout == next(multiples)


def test_numbers_and_ranks_of_the_ring_are_each_others_inverse():
    """Rows of another length each; beyond the ends one comes back from the other side."""
    ring = Ring.of(torch.tensor([3, 4, 11]), rounds=3, chunk_length=4)
    assert ring.used.tolist() == [4, 4, 8]  # at least one chunk, and whole ones
    for row, used in enumerate(ring.used.tolist()):
        pairs = list(itertools.product(range(3), range(used)))
        numbers = torch.arange(-2 * used, 4 * used).expand(3, -1)
        rounds, ranks = (x[row].tolist() for x in ring.locate(numbers))
        found = list(zip(rounds, ranks, strict=True))
        assert found == pairs[-2 * used :] + pairs + pairs[:used]
        rounds, ranks = torch.tensor(pairs).T
        assert ring.number(rounds, ranks.expand(3, -1))[row].tolist() == list(range(3 * used))


@pytest.mark.parametrize("chunks", [1, 2, 3, 5])
def test_a_chunk_counts_where_it_is_nearest(chunks):
    offsets = range(-3, 3)
    once = Ring(1, 2, torch.tensor([2 * chunks])).show_once(offsets)[0].tolist()
    shown = [offset for offset, counts in zip(offsets, once, strict=True) if counts]
    for chunk in range(chunks):
        # Of those that lead to the chunk, the nearest; of two, the one before.
        leading = [offset for offset in offsets if offset % chunks == chunk]
        nearest = min(leading, key=lambda offset: (abs(offset), offset), default=None)
        assert [offset for offset in shown if offset % chunks == chunk] == (
            [] if nearest is None else [nearest]
        )
