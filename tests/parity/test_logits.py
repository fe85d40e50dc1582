"""Logits in eval mode: ours against transformers' Reformer, given the same rotations.

In float64, where no bucket id hangs on the order of a sum.
"""

from typing import Any

import pytest
import torch
from torch.testing import assert_close

from tests.parity.published_models import (
    CRIME_AND_PUNISHMENT,
    NARROW_ENWIK8,
    TINY,
    build_ours,
    build_pair,
    build_stock,
    lsh_layers,
    random_ids,
    with_layers,
)

VARIANTS: dict[str, dict[str, Any]] = {
    "local and LSH": TINY,
    "two rounds": {**TINY, "num_hashes": 2},
    "four rounds": {**TINY, "num_hashes": 4},
    "local alone": with_layers(TINY, ["local"] * 3),
    "LSH alone": with_layers(TINY, ["lsh"] * 3),
    "buckets not factorised": {**TINY, "num_buckets": 12},
    "one factor": {**TINY, "num_buckets": [12]},
    "three factors": {**TINY, "num_buckets": [4, 2, 6], "num_hashes": 2},
    "local chunk shorter": {**TINY, "local_attn_chunk_length": 4},
    "LSH chunk shorter": {**TINY, "lsh_attn_chunk_length": 4, "num_hashes": 2},
    "chunks of 6 and 8": {**TINY, "local_attn_chunk_length": 6, "num_hashes": 2},
    "no look-back": {**TINY, "local_num_chunks_before": 0, "lsh_num_chunks_before": 0},
    "longer look-back": {**TINY, "local_num_chunks_before": 2, "lsh_num_chunks_before": 2},
    "learned positions": {**TINY, "axial_pos_embds": False},
    "chunked feed-forward, GELU": {**TINY, "chunk_size_feed_forward": 4, "hidden_act": "gelu"},
}

# Below, at and above one chunk of 8; multiples of it and others.
LENGTHS = (1, 3, 4, 6, 7, 8, 9, 15, 16, 17, 24, 25, 48, 61)


def stock_is_right(config: dict[str, Any], length: int) -> bool:
    """Whether transformers' model runs at a length, and shows each chunk once."""
    if config["chunk_size_feed_forward"] and length < 8:
        return False  # it refuses all but multiples of the chunk size
    return config["local_num_chunks_before"] < 2 or not 8 < length <= 16


def assert_equal_logits(stock: Any, ours: Any, config: dict[str, Any], length: int) -> None:
    ids = random_ids(config, 1, length)
    with torch.no_grad():
        expected = stock(ids).logits
        actual = ours(ids).logits
    assert expected.std() > 0.5  # or little would depend on attention
    assert_close(actual, expected, rtol=0, atol=1e-9, msg=lambda text: f"length {length}: {text}")


@pytest.mark.parametrize("variant", VARIANTS)
def test_logits(variant: str):
    config = VARIANTS[variant]
    stock, ours = build_pair(config)
    for length in LENGTHS:
        if stock_is_right(config, length):
            assert_equal_logits(stock, ours, config, length)


def test_logits_of_crime_and_punishment_in_full_size():
    stock, ours = build_pair(CRIME_AND_PUNISHMENT)
    for length in (50, 64, 65, 128, 400):
        assert_equal_logits(stock, ours, CRIME_AND_PUNISHMENT, length)


def test_logits_of_enwik8_in_small_width():
    stock, ours = build_pair(NARROW_ENWIK8)
    for length in (100, 129, 256, 257, 600):
        assert_equal_logits(stock, ours, NARROW_ENWIK8, length)


def test_logits_with_another_number_of_hashes():
    stock, ours = build_pair(TINY)
    other, _ = build_pair({**TINY, "num_hashes": 3})  # has the rotations of three rounds
    ids = random_ids(TINY, 2, 40)
    with torch.no_grad():
        expected = other(ids).logits
        assert_close(ours(ids, num_hashes=3).logits, expected, rtol=0, atol=1e-9)
        assert not torch.allclose(stock(ids).logits, expected)


@pytest.mark.parametrize("position_ids", [torch.arange(40) + 7, torch.arange(40).flip(0) * 3])
def test_logits_with_position_ids(position_ids: torch.Tensor):
    """At a multiple of the chunk length: otherwise transformers' model fails."""
    stock, ours = build_pair(TINY)
    ids, position_ids = random_ids(TINY, 2, 40), position_ids.expand(2, -1)
    with torch.no_grad():
        expected = stock(ids, position_ids=position_ids).logits
        # With a mask, positions that jump do not begin a document.
        actual = ours(ids, position_ids=position_ids, attention_mask=torch.ones_like(ids)).logits
    assert_close(actual, expected, rtol=0, atol=1e-9)


def test_logits_of_embedded_tokens():
    stock, ours = build_pair(TINY)
    embedded = torch.randn(2, 43, TINY["hidden_size"], dtype=torch.float64)
    with torch.no_grad():
        expected = stock(inputs_embeds=embedded).logits
        assert_close(ours(inputs_embeds=embedded).logits, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    ("lengths", "padded"), [((17, 24, 20), 24), ((18, 17, 22), 22), ((3, 8, 1), 8), ((41, 48), 48)]
)
def test_logits_with_padding_on_the_right(lengths: tuple[int, ...], padded: int):
    """transformers' model is right for rows that need as many chunks alone as in their batch."""
    stock, ours = build_pair({**TINY, "num_hashes": 2})
    ids = random_ids(TINY, len(lengths), padded)
    mask = (torch.arange(padded) < torch.tensor(lengths)[:, None]).long()
    with torch.no_grad():
        expected = stock(ids, attention_mask=mask).logits[mask.bool()]
        actual = ours(ids, attention_mask=mask).logits[mask.bool()]
        alone = torch.cat(
            [stock(row[None, :n]).logits[0] for row, n in zip(ids, lengths, strict=True)]
        )
    assert_close(actual, expected, rtol=0, atol=1e-9)
    assert_close(actual, alone, rtol=0, atol=1e-9)


@pytest.mark.parametrize("num_hashes", [1, 2, 4])
@pytest.mark.parametrize("num_buckets", [24, [4, 6]])
def test_same_hash_seed_gives_the_same_buckets(num_hashes: int, num_buckets: int | list[int]):
    config = {**TINY, "num_hashes": num_hashes, "num_buckets": num_buckets, "hash_seed": 11}
    stock = build_stock(config, torch.float32)
    ours = build_ours(stock, config)
    vectors = torch.randn(2, config["num_attention_heads"], 500, config["attention_head_size"])
    for theirs, own in zip(lsh_layers(stock), lsh_layers(ours), strict=True):
        buckets = theirs._hash_vectors(vectors, num_hashes, attention_mask=None)
        buckets = buckets.unflatten(-1, (num_hashes, 500))
        buckets -= 24 * torch.arange(num_hashes)[:, None]  # theirs count on over the rounds
        assert torch.equal(own.hash(vectors, 11), buckets)
        assert buckets.unique().numel() == 24


# Where several rounds show a token nothing, transformers weighs them by log-sum-exps of -1e5,
# which float32 resolves to 0.008: its weights there are off by half a percent.
@pytest.mark.parametrize(("num_hashes", "atol"), [(1, 2e-5), (2, 2e-2)])
def test_same_hash_seed_gives_the_same_logits(num_hashes: int, atol: float):
    """In float32 and with nothing injected."""
    config = {**TINY, "num_hashes": num_hashes, "hash_seed": 3}
    stock = build_stock(config, torch.float32)
    ours = build_ours(stock, config)
    for length in (8, 9, 40, 61):
        ids = random_ids(config, 2, length)
        with torch.no_grad():
            assert_close(ours(ids).logits, stock(ids).logits, rtol=0, atol=atol)
