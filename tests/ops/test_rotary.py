"""Rotary positions against the oracle, and far out in a row."""

import math

import pytest
import torch
from torch.testing import assert_close

from reformer_hf.ops import reference
from reformer_hf.ops.rotary import rotary_angles, rotary_frequencies, rotate, rotate_queries


@pytest.mark.parametrize("dim", [2, 6, 8])
def test_outputs_and_gradients_equal_the_oracle(dim):
    vectors = torch.randn(2, 3, 5, dim, dtype=torch.float64, requires_grad=True)
    positions = torch.tensor([[0, 1, 2, 3, 4], [7, 0, 0, 123, 1]])
    rotary = rotary_angles(positions, rotary_frequencies(dim, 100.0), torch.float64)
    rows = [
        reference.rotate(vectors[row, head, place], int(positions[row, place]), 100.0)
        for row in range(2)
        for head in range(3)
        for place in range(5)
    ]
    expected, found = torch.stack(rows).view_as(vectors), rotate(vectors, rotary)
    assert_close(found, expected, atol=1e-12, rtol=0)
    cotangent = torch.randn_like(found)
    gradients = (torch.autograd.grad(x, vectors, cotangent)[0] for x in (found, expected))
    assert_close(*gradients, atol=1e-12, rtol=0)


def test_angles_a_million_tokens_away():
    positions = torch.tensor([[1_000_000, 999_999]])
    rotary = rotary_angles(positions, rotary_frequencies(16, 10_000.0))
    for place, position in enumerate(positions[0].tolist()):
        for pair in range(8):
            angle = position * 10_000.0 ** (-2 * pair / 16)
            assert abs(rotary.cos[0, 0, place, pair] - math.cos(angle)) < 1e-6
            assert abs(rotary.sin[0, 0, place, pair] - math.sin(angle)) < 1e-6


def test_scores_depend_on_the_distance_alone():
    query, key = torch.randn(2, 1, 1, 1, 8, dtype=torch.float64)
    scores = []
    for start in (0, 5, 12_345):
        places = torch.tensor([[start + 9, start]])
        rotary = rotary_angles(places, rotary_frequencies(8, 10_000.0), torch.float64, 3.0)
        pair = torch.cat([query, key], dim=2)
        turned, plain = rotate_queries(pair, rotary), rotate(pair, rotary)
        assert_close(plain.norm(dim=-1), pair.norm(dim=-1))
        assert_close(turned, 3 * plain)
        scores.append((plain[0, 0, 0] * plain[0, 0, 1]).sum())
    assert_close(scores[0], scores[1])
    assert_close(scores[0], scores[2])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_is_rounded_once(dtype):
    vectors = torch.randn(1, 1, 64, 16).to(dtype)
    places = torch.arange(64)[None]
    rotary = rotary_angles(places, rotary_frequencies(16, 10_000.0), dtype)
    assert rotary.cos.dtype == torch.float32
    found = rotate(vectors, rotary)
    assert found.dtype == dtype
    assert torch.equal(found, rotate(vectors.float(), rotary).to(dtype))


def test_rows_of_equal_positions_share_their_angles():
    positions = torch.arange(5).expand(3, -1)
    assert rotary_angles(positions, rotary_frequencies(4, 100.0)).cos.shape == (1, 1, 5, 2)
