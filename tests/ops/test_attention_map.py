"""Attention maps: shape, sums, and the places that they point to."""

import torch

from reformer_hf.ops.attention import local_attention, lsh_attention
from reformer_hf.ops.attention_map import AttentionMap
from reformer_hf.ops.window import Window


def test_map_of_lsh_attention_sums_to_one_and_points_to_visible_keys():
    query, value = torch.randn(2, 2, 2, 10, 4).unbind(0)
    buckets = torch.randint(3, (2, 2, 2, 10))
    output, attention_map = lsh_attention(
        query, value, buckets, num_buckets=3, window=Window(4, 1), output_map=True
    )
    assert attention_map is not None
    probabilities, places = attention_map
    assert probabilities.shape == places.shape == (2, 2, 2, 10, 8)
    torch.testing.assert_close(probabilities.sum((2, 4)), torch.ones(2, 2, 10))
    assert torch.equal(places >= 0, probabilities > 0)
    shown = places >= 0
    queries = torch.arange(10).view(10, 1).expand(places.shape)
    assert (places <= queries)[shown].all()
    ids = buckets.unsqueeze(3).expand(-1, -1, -1, 10, -1)
    same = ids.gather(4, places.clamp(min=0)) == buckets.unsqueeze(4)
    assert same[shown].all()
    torch.testing.assert_close(attention_map.to_dense() @ value, output)


def test_map_of_local_attention_is_in_the_order_of_the_row():
    query, key, value = torch.randn(3, 1, 1, 5, 4).unbind(0)
    documents = torch.tensor([[1, 0, 1, 0, 0]])
    output, attention_map = local_attention(
        query, key, value, documents, window=Window(2, 1), output_map=True
    )
    assert attention_map is not None
    dense = attention_map.to_dense()
    seen = [[0], [1], [0, 2], [1, 3], [1, 3, 4]]
    for place, keys in enumerate(seen):
        assert dense[0, 0, place].nonzero().flatten().tolist() == keys
    torch.testing.assert_close(dense @ value, output)


def test_keys_that_appear_twice_add_up_in_the_dense_map():
    places = torch.tensor([[[[[0, 0]]], [[[0, -1]]]]]).view(1, 1, 2, 1, 2)
    probabilities = torch.tensor([0.25, 0.25, 0.5, 7.0]).view(1, 1, 2, 1, 2)
    assert AttentionMap(probabilities, places).to_dense().tolist() == [[[[1.0]]]]
