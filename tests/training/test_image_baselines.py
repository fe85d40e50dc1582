"""Bits per dim without a model, by hand."""

import math

import numpy as np
import pytest

from reformer_hf.training import image_baselines
from reformer_hf.training.image_baselines import image_references


def bits(references):
    return {each.name: each.scores["bits_per_dim"] for each in references}


def test_by_hand():
    train = np.array([[[7, 9]]], np.uint8)[..., None]
    held_out = np.array([[[7, 9], [9, 1]]], np.uint8)[..., None]
    found = bits(image_references(train, held_out))
    alone = {7: 2 / 258, 9: 2 / 258, 1: 1 / 258}
    shares = [alone[byte] for byte in (7, 9, 9, 1)]
    assert found["bytes"] == pytest.approx(-np.log2(shares).mean())
    # One kind of byte was seen once at the left edge and once after 7, none after 9.
    after = [(1 + alone[7]) / 2, (1 + alone[9]) / 2, alone[9] / 2, alone[1]]
    assert found["bytes after the left one"] == pytest.approx(-np.log2(after).mean())
    assert found["uniform"] == 8 and found.keys() >= {"PNG", "gzip -9", "bz2 -9"}


def test_shares_are_of_one_channel_and_sum_to_one():
    train = np.random.default_rng(0).integers(0, 256, (3, 4, 5, 2), dtype=np.uint8)
    train[..., 1] //= 64
    for channel in range(2):
        part = np.arange(256, dtype=np.uint8)
        nats = np.array(
            [
                image_baselines._channel_nats(train[..., channel], np.array([[[5, byte]]]))
                - image_baselines._channel_nats(train[..., channel], np.array([[[5]]]))
                for byte in part
            ]
        )
        assert np.exp(-nats).sum(axis=0) == pytest.approx([1, 1])
    both = bits(image_references(train, train))["bytes"]
    alone = [bits(image_references(*[train[..., c : c + 1]] * 2))["bytes"] for c in range(2)]
    assert both == pytest.approx(sum(alone) / 2) and both < math.log2(256)


def test_counted_images_are_from_all_over(monkeypatch):
    monkeypatch.setattr(image_baselines, "SAMPLE_BYTES", 20)
    train = np.zeros((10, 2, 2, 1), np.uint8)
    train[1::2] = 9  # of ten images every second is counted
    _, counted, *_ = image_references(train, train[:1])
    assert (counted.scores["train_samples"], counted.scores["train_bytes"]) == (5, 20)
    assert counted.scores["bits_per_dim"] == pytest.approx(-math.log2(21 / 276))
