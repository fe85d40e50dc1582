"""Chunks and their windows."""

import pytest
import torch

from reformer_hf.ops.chunking import look_adjacent, merge_chunks, pair_ids, split_chunks


@pytest.mark.parametrize("seq", [1, 3, 4, 5, 8, 9])
def test_merge_undoes_split(seq):
    tensor = torch.randn(2, seq, 3)
    chunks = split_chunks(tensor, 4, fill=7)
    assert chunks.shape == (2, -(-seq // 4), 4, 3)
    assert torch.equal(merge_chunks(chunks, seq), tensor)
    assert (chunks.flatten(1, 2)[:, seq:] == 7).all()


def test_whole_chunks_are_a_view():
    tensor = torch.randn(2, 8, 3)
    assert split_chunks(tensor, 4).data_ptr() == tensor.data_ptr()
    chunks = split_chunks(tensor, 4)
    assert look_adjacent(chunks, 0, 0) is chunks


@pytest.mark.parametrize("before", [0, 1, 2])
@pytest.mark.parametrize("after", [0, 1, 3])
def test_windows_hold_the_neighbours_without_a_wrap(before, after):
    places = torch.arange(6)
    windows = look_adjacent(split_chunks(places.view(6, 1), 2), before, after, fill=-1)
    for chunk, window in enumerate(windows.squeeze(-1).tolist()):
        wanted = range(2 * (chunk - before), 2 * (chunk + after + 1))
        assert window == [place if 0 <= place < 6 else -1 for place in wanted]


def test_paired_ids_are_columns_and_rows():
    queries, keys = pair_ids(torch.tensor([[3, 4, 5]]), 2, 1, 0)
    assert queries.tolist() == [[[[3], [4]], [[5], [-1]]]]
    assert keys.tolist() == [[[[-1, -1, 3, 4]], [[3, 4, 5, -1]]]]
