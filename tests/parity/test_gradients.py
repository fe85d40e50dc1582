"""Gradients in training mode: ours against transformers' Reformer, given the same rotations.

At the lengths that transformers can train: the product of `axial_pos_shape`, and a multiple of the
chunk lengths. In float64, without dropout, which transformers replays wrongly.
"""

import math
from typing import Any

import pytest
from torch.testing import assert_close

from tests.parity.published_models import (
    CRIME_AND_PUNISHMENT,
    NARROW_ENWIK8,
    NO_DROPOUT,
    TINY,
    build_pair,
    random_ids,
    with_layers,
)

ENWIK8_BLOCK = NARROW_ENWIK8["attn_layers"][:4]
SHORT = {**TINY, "axial_pos_shape": [4, 12]}

CONFIGS: dict[str, dict[str, Any]] = {
    "local and LSH": SHORT,
    "two rounds": {**SHORT, "num_hashes": 2},
    "four rounds": {**SHORT, "num_hashes": 4},
    "local alone": with_layers(SHORT, ["local"] * 3),
    "LSH alone": with_layers(SHORT, ["lsh"] * 3),
    "three factors": {**SHORT, "num_buckets": [4, 2, 6], "num_hashes": 2},
    "chunks of 6 and 8": {**SHORT, "local_attn_chunk_length": 6, "num_hashes": 2},
    "longer look-back": {**SHORT, "local_num_chunks_before": 2, "lsh_num_chunks_before": 2},
    "chunked feed-forward": {**SHORT, "chunk_size_feed_forward": 4},
    "one chunk": {**SHORT, "local_attn_chunk_length": 48, "lsh_attn_chunk_length": 48},
    "three axes": {**SHORT, "axial_pos_embds_dim": [4, 4, 8], "axial_pos_shape": [2, 3, 8]},
    "crime and punishment": {**CRIME_AND_PUNISHMENT, "axial_pos_shape": [8, 16]},
    "enwik8": {**with_layers(NARROW_ENWIK8, ENWIK8_BLOCK), "axial_pos_shape": [16, 32]},
}


@pytest.mark.parametrize("name", CONFIGS)
def test_gradients(name: str):
    length = math.prod(CONFIGS[name]["axial_pos_shape"])
    config = {**CONFIGS[name], **NO_DROPOUT, "max_position_embeddings": length}
    stock, ours = build_pair(config)
    ids = random_ids(config, 1, length)
    losses = [model.train()(ids, labels=ids).loss for model in (stock, ours)]
    assert_close(losses[1], losses[0], rtol=0, atol=1e-9)
    for loss in losses:
        loss.backward()
    expected = {name: weight.grad for name, weight in stock.named_parameters()}
    actual = {name: weight.grad for name, weight in ours.named_parameters()}
    # transformers never applies the head's bias, so it has no gradient there.
    assert expected.pop("lm_head.bias") is None
    assert actual.pop("lm_head.bias").abs().max() > 1e-3
    assert all(gradient.abs().max() > 1e-6 for gradient in expected.values())
    assert_close(actual, expected, rtol=1e-9, atol=1e-9)
