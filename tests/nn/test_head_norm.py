"""Normalised queries and keys: the oracle, low precision, and the scores at the start."""

import pytest
import torch
from torch.testing import assert_close

from reformer_hf.nn import LocalAttention
from reformer_hf.nn.head_norm import HeadRMSNorm
from reformer_hf.ops import reference
from tests.nn.attention_oracle import normalise


def test_vectors_are_those_of_the_oracle():
    norm, vectors = HeadRMSNorm(4).double(), 3 * torch.randn(1, 1, 5, 4).double()
    torch.nn.init.normal_(norm.weight)
    assert_close(norm(vectors)[0, 0], normalise(norm, vectors[0, 0]))
    assert norm(torch.zeros(1, 1, 1, 4).double()).isfinite().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_is_that_of_its_rounding_also_for_wide_scales(dtype):
    """Under autocast the scales stay float32, and queries do not."""
    norm, vectors = HeadRMSNorm(64), (100 * torch.randn(2, 3, 5, 64)).to(dtype)
    torch.nn.init.normal_(norm.weight)
    exact = torch.stack([reference.rms_norm(v, norm.weight) for v in vectors.flatten(0, 2)])
    for weights in (torch.float32, dtype):
        found = norm.to(weights)(vectors)
        assert found.dtype == dtype
        epsilon = torch.finfo(dtype).eps  # of vector, scale and product
        assert_close(found.flatten(0, 2).double(), exact, rtol=2 * epsilon, atol=0)


@pytest.mark.parametrize("size", [1e-2, 1e2])
def test_scores_have_a_variance_of_about_one_at_the_start_and_scales_learn(size):
    """Whatever the size of the projections, which decides that of other scores."""
    layer, x = LocalAttention(64, 2, use_qk_norm=True), size * torch.randn(1, 64, 64)
    query, key, _ = layer.attention._prepare(None, x)
    scores = query @ key.transpose(-1, -2) / 32**0.5
    assert 0.7 < scores.std() < 1.4 and scores.abs().max() <= 1.001 * 32**0.5
    scores.square().sum().backward()
    assert layer.attention.q_norm.weight.grad.any() and layer.attention.k_norm.weight.grad.any()
