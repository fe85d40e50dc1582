"""Documents, and who sees whom by rank."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reformer_hf.ops import reference
from reformer_hf.ops.attention_map import window_places
from reformer_hf.ops.masking import (
    count_appearances,
    number_documents,
    places_in_document,
    rank_distance,
    window_pattern,
)
from reformer_hf.ops.sorting import sort_by_bucket

MASK = torch.tensor([[True, True, True, False], [False, True, False, True]])
PACKED = torch.tensor([[7, 9, 7, 9], [4, 5, 9, 5]])


def test_documents_are_numbered_with_padding_last():
    assert number_documents(None, None) is None
    padded = number_documents(MASK, None)
    assert padded is not None and padded.tolist() == [[0, 0, 0, 1], [1, 0, 1, 0]]
    packed = number_documents(None, PACKED)
    assert packed is not None and packed.tolist() == [[3, 5, 3, 5], [0, 1, 5, 1]]
    both = number_documents(MASK, PACKED)
    assert both is not None
    assert both[MASK].tolist() == [3, 5, 3, 1, 1]
    assert (both[~MASK] > both[MASK].max()).all()


@given(st.lists(st.integers(0, 3), min_size=1, max_size=12))
@settings(max_examples=40)
def test_places_count_within_the_document(documents):
    expected = [documents[:i].count(document) for i, document in enumerate(documents)]
    assert places_in_document(torch.tensor([documents])).tolist() == [expected]


@pytest.mark.parametrize("scope", ["band", "chunk"])
@pytest.mark.parametrize(("before", "after"), [(0, 0), (1, 0), (2, 0), (0, 1), (2, 1)])
@pytest.mark.parametrize("causal", [True, False])
def test_pattern_follows_its_definition(scope, before, after, causal):
    chunk = 3
    distance = rank_distance(chunk, before, after, "cpu")
    pattern = window_pattern(distance, chunk, before, after, scope, causal)
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
    counts = count_appearances(sort, chunk, before, after)
    counts = counts.flatten(3, 4)[..., :seq, :]
    key_places = window_places(sort.order, chunk, before, after)
    for head in range(2):
        window = (chunk * before, chunk * after)
        wanted = reference.band_counts(buckets[0, head].tolist(), documents[0].tolist(), *window)
        queries = sort.order[0, head, :, :, None].expand_as(key_places[0, head])
        held = key_places[0, head] >= 0
        assert torch.equal(counts[0, head][held], wanted[queries, key_places[0, head]][held])
