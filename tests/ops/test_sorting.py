"""Documents, sort orders and the movement of vectors along them."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reformer_hf.ops.sorting import (
    invert_order,
    number_documents,
    permute,
    places_in_document,
    rearrange,
    sort_by_bucket,
    unpermute,
)

MASK = torch.tensor([[True, True, True, False], [False, True, False, True]])
PACKED = torch.tensor([[7, 9, 7, 9], [4, 5, 9, 5]])


@given(st.integers(0, 2**32), st.integers(1, 20), st.integers(1, 3), st.booleans())
@settings(max_examples=40)
def test_each_round_is_sorted_by_document_bucket_and_place(seed, seq, rounds, packed):
    generator = torch.Generator().manual_seed(seed)
    buckets = torch.randint(5, (2, 2, rounds, seq), generator=generator)
    documents = torch.randint(3, (2, seq), generator=generator) if packed else None
    sort = sort_by_bucket(buckets, documents, 5)
    for b in range(2):
        for h in range(2):
            for r in range(rounds):
                row = buckets[b, h, r].tolist()
                docs = [0] * seq if documents is None else documents[b].tolist()
                expected = sorted(range(seq), key=lambda t, d=docs, k=row: (d[t], k[t], t))
                assert sort.order[b, h, r].tolist() == expected
                segments = [(docs[t], row[t]) for t in expected]
                numbers = sort.segments[b, h, r].tolist()
                assert all(
                    (segments[i] == segments[j]) == (numbers[i] == numbers[j])
                    for i in range(seq)
                    for j in range(i)
                )
    places = torch.arange(seq).expand_as(sort.order)
    assert torch.equal(sort.order.gather(-1, sort.inverse), places)
    assert torch.equal(sort.inverse, invert_order(sort.order))


def test_permute_and_unpermute_are_inverse():
    sort = sort_by_bucket(torch.randint(4, (2, 3, 2, 9)), None, 4)
    vectors = torch.randn(2, 3, 9, 5)
    by_rank = permute(vectors, sort)
    for b, h, r, rank in [(0, 0, 0, 0), (1, 2, 1, 4), (1, 0, 1, 8)]:
        assert torch.equal(by_rank[b, h, r, rank], vectors[b, h, sort.order[b, h, r, rank]])
    for round_ in unpermute(by_rank, sort).unbind(2):
        assert torch.equal(round_, vectors)


def test_rearrange_has_the_gradient_of_a_gather():
    order = torch.stack([torch.randperm(6) for _ in range(6)]).view(2, 3, 6)
    rows = torch.randn(2, 6, 4, dtype=torch.float64, requires_grad=True)
    gathered = rows[torch.arange(2).view(2, 1, 1), order]
    moved = rearrange(rows, order, invert_order(order))
    assert torch.equal(moved, gathered)
    cotangent = torch.randn_like(moved)
    found, expected = (torch.autograd.grad(x, rows, cotangent)[0] for x in (moved, gathered))
    torch.testing.assert_close(found, expected)
    assert torch.autograd.gradgradcheck(lambda x: rearrange(x, order, invert_order(order)), rows)


@pytest.mark.parametrize("heads", [1, 3])
def test_an_expanded_order_is_that_of_each_head(heads):
    documents = torch.tensor([[1, 0, 1], [0, 0, 1]])
    buckets = torch.zeros(2, heads, 1, 3, dtype=torch.int64)
    expanded = sort_by_bucket(buckets[:, :1], documents, 1).expand_heads(heads)
    for mine, theirs in zip(expanded, sort_by_bucket(buckets, documents, 1), strict=True):
        assert torch.equal(mine, theirs)


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
