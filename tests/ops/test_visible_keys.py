"""How many keys a round shows a query: bucket counts follow ``hash_length``, not the input.

In the band scope a query sees the tokens before it in its bucket, at most a window of them. With B
buckets and n tokens the mean is smallest when the buckets are equally full; and in each bucket that
holds a token exactly one sees nothing, so at most B of n do.
"""

import pytest
import torch
from torch import Tensor

from reformer_hf.ops.attention import lsh_attention
from reformer_hf.ops.hashing import (
    default_num_buckets,
    hash_vectors,
    sample_rotations,
    total_buckets,
)
from reformer_hf.ops.sorting import places_in_document
from reformer_hf.ops.window import Window

WINDOW = 64
HASH_LENGTH = 8192
MAXIMUM = 524_288


def visible_keys(buckets: Tensor, window: int) -> Tensor:
    """Number of other keys that each round shows each query."""
    return places_in_document(buckets.flatten(0, -2)).clamp(max=window).view(buckets.shape)


def random_buckets(seq: int, num_buckets, rounds: int) -> Tensor:
    vectors = torch.randn(1, 1, seq, 64, generator=torch.Generator().manual_seed(0))
    return hash_vectors(vectors, sample_rotations(0, 1, 64, rounds, num_buckets), num_buckets)


def mean_in_equal_buckets(seq: int, num_buckets: int, window: int) -> float:
    """Mean visible keys when every bucket holds ``seq / num_buckets`` tokens."""
    tokens = seq / num_buckets
    whole = int(tokens)
    total = sum(min(rank, window) for rank in range(whole))
    return (total + (tokens - whole) * min(whole, window)) / tokens


@pytest.mark.parametrize("seq", [1024, HASH_LENGTH, MAXIMUM])
def test_mean_visible_keys(seq, record_property):
    rounds = 2 if seq < MAXIMUM else 1
    num_buckets = default_num_buckets(HASH_LENGTH, WINDOW)
    total = total_buckets(num_buckets)
    assert total == 128
    visible = visible_keys(random_buckets(seq, num_buckets, rounds), WINDOW)
    mean, nothing = visible.double().mean().item(), (visible == 0).double().mean().item()
    record_property("mean_visible_keys", mean)
    record_property("share_that_sees_nothing", nothing)
    print(f"{seq} tokens, {total} buckets: {mean:.1f} of {WINDOW}, {nothing:.2%} see nothing")
    assert mean_in_equal_buckets(seq, total, WINDOW) <= mean <= WINDOW
    assert nothing <= total / seq


def test_bucket_counts_of_the_maximum_would_starve_short_inputs():
    """Twice as many buckets as chunks at the maximum, as transformers would choose."""
    chunks = MAXIMUM // WINDOW
    num_buckets = [128, 2 * chunks // 128]
    visible = visible_keys(random_buckets(HASH_LENGTH, num_buckets, rounds=1), WINDOW)
    assert (visible == 0).double().mean() > 0.5
    assert visible.double().mean() < 1


def test_attention_shows_these_keys():
    query, value = torch.randn(2, 1, 2, 50, 4).unbind(0)
    buckets = torch.randint(4, (1, 2, 3, 50))
    window = {"num_buckets": 4, "window": Window(4, 2)}
    _, attention_map = lsh_attention(query, value, buckets, output_map=True, **window)
    assert attention_map is not None
    own = attention_map.key_places == torch.arange(50).view(50, 1)
    shown = ((attention_map.key_places >= 0) & ~own).sum(-1)
    assert torch.equal(shown, visible_keys(buckets, 8))
