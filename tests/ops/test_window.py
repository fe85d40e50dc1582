"""Windows: what they refuse, whom they show, and the chunks that they are computed in."""

import inspect

import pytest
import torch

from reformer_hf.ops import reference
from reformer_hf.ops.attention_map import window_places
from reformer_hf.ops.sorting import sort_by_bucket
from reformer_hf.ops.window import (
    Window,
    count_appearances,
    look_adjacent,
    merge_chunks,
    pair_ids,
    rank_distance,
    split_chunks,
)


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"chunk_length": 0}, "chunk_length=0: give an int of at least 1"),
        ({"num_chunks_before": -1}, "num_chunks_before=-1: give an int of at least 0"),
        ({"scope": "bands"}, "scope='bands': choose one of 'band', 'chunk'"),
        ({"num_chunks_after": 1}, "num_chunks_after=1 with causal=True: set it to 0, or causal="),
    ],
)
def test_what_is_no_window_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        make_window(**fields)


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"chunk_length": 2.0}, "chunk_length=2.0: give an int of at least 1"),
        ({"num_chunks_after": None}, "num_chunks_after=None: give an int of at least 0"),
        ({"causal": 1}, "causal=1: give True or False"),
    ],
)
def test_fields_of_another_type_are_refused(fields, message):
    with pytest.raises(TypeError, match=message):
        make_window(**fields)


def make_window(**fields):
    # Unwrapped, since here a type checker watches, too.
    make = inspect.unwrap(Window.__init__)
    make(object.__new__(Window), **{"chunk_length": 2, "num_chunks_before": 1, **fields})


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
    assert look_adjacent(chunks, Window(4, 0)) is chunks


@pytest.mark.parametrize("before", [0, 1, 2])
@pytest.mark.parametrize("after", [0, 1, 3])
def test_windows_hold_the_neighbours_without_a_wrap(before, after):
    places = torch.arange(6)
    window = Window(2, before, after, causal=False)
    windows = look_adjacent(split_chunks(places.view(6, 1), 2), window, fill=-1)
    for chunk, held in enumerate(windows.squeeze(-1).tolist()):
        wanted = range(2 * (chunk - before), 2 * (chunk + after + 1))
        assert held == [place if 0 <= place < 6 else -1 for place in wanted]


def test_paired_ids_are_columns_and_rows():
    queries, keys = pair_ids(torch.tensor([[3, 4, 5]]), Window(2, 1))
    assert queries.tolist() == [[[[3], [4]], [[5], [-1]]]]
    assert keys.tolist() == [[[[-1, -1, 3, 4]], [[3, 4, 5, -1]]]]


@pytest.mark.parametrize("scope", ["band", "chunk"])
@pytest.mark.parametrize(
    ("before", "after", "causal"),
    [(n, 0, True) for n in (0, 1, 2)]
    + [(0, 0, False), (1, 0, False), (0, 1, False), (2, 1, False)],
)
def test_pattern_follows_its_definition(scope, before, after, causal):
    chunk = 3
    window = Window(chunk, before, after, scope, causal)
    distance = rank_distance(window, "cpu")
    pattern = window.shows(distance)
    for query in range(chunk):
        for column in range(chunk * (before + 1 + after)):
            key = column - chunk * before  # rank counted from the start of the query's chunk
            assert distance[query, column] == query - key
            seen = scope == "chunk" or -chunk * after <= query - key <= chunk * before
            assert pattern[query, column] == (seen and (key <= query or not causal))


@pytest.mark.parametrize(("before", "after"), [(1, 0), (2, 0), (1, 1), (0, 2)])
@pytest.mark.parametrize("rounds", [1, 3])
def test_appearances_are_the_counts_of_the_oracle(before, after, rounds):
    seq, chunk = 11, 3
    buckets = torch.randint(3, (1, 2, rounds, seq))
    documents = torch.randint(2, (1, seq))
    sort = sort_by_bucket(buckets, documents, 3)
    shown_by = Window(chunk, before, after, causal=False)
    counts = count_appearances(sort, shown_by)
    counts = counts.flatten(3, 4)[..., :seq, :]
    key_places = window_places(sort.order, shown_by)
    for head in range(2):
        window = (chunk * before, chunk * after)
        wanted = reference.band_counts(buckets[0, head].tolist(), documents[0].tolist(), *window)
        queries = sort.order[0, head, :, :, None].expand_as(key_places[0, head])
        held = key_places[0, head] >= 0
        assert torch.equal(counts[0, head][held], wanted[queries, key_places[0, head]][held])
