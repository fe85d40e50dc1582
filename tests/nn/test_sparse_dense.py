"""Modules of few weights: how many, what they are at the start, what is refused."""

import math

import pytest
import torch
from torch.testing import assert_close

from reformer_hf.nn.sparse_dense import LocallyConvolutionalDense, MultiplicativeDense
from reformer_hf.ops.convolution import neighbourhoods
from reformer_hf.ops.sparse_dense import multiplicative_dense


def spread(values: torch.Tensor) -> float:
    return values.detach().std().item()


def test_a_multiplicative_layer_starts_as_published():
    torch.manual_seed(0)
    layer = MultiplicativeDense(64, 256, 4)
    assert sum(each.numel() for each in layer.parameters()) == 64 * (4 + 256 // 4) + 256
    assert spread(layer.gates) == pytest.approx(0.5, abs=0.1)
    assert spread(layer.weight) == pytest.approx(math.sqrt(2 / (64 + 64)), rel=0.1)
    assert layer.weight.abs().max() <= math.sqrt(6 / (64 + 64)) and not layer.bias.any()
    assert MultiplicativeDense(4, 6, 2, bias=False).bias is None


@pytest.mark.parametrize(("causal", "taps"), [(True, 3), (False, 5)])
def test_a_convolution_starts_as_glorot_says(causal, taps):
    torch.manual_seed(0)
    layer = LocallyConvolutionalDense(64, 4, causal=causal)
    assert layer.weight.shape == (16, 3 * 3 * 16) and not layer.bias.any()
    assert spread(layer.weight) == pytest.approx(math.sqrt(1 / (16 * 3 * taps)), rel=0.1)


def test_modules_have_the_mathematics_of_ops():
    layer = MultiplicativeDense(4, 6, 2)
    torch.nn.init.normal_(layer.bias)
    x = torch.randn(3, 4)
    assert torch.equal(layer(x), multiplicative_dense(x, layer.gates, layer.weight, layer.bias))


def test_weights_of_a_causal_convolution_fit_a_bidirectional_one():
    """It is symmetric: it turns with its rows."""
    layer = LocallyConvolutionalDense(6, 3, causal=False).double()
    layer.load_state_dict(LocallyConvolutionalDense(6, 3).state_dict())
    row = torch.randn(1, 7, 6).double()
    found = layer(neighbourhoods(row, layer.before, layer.after))
    turned = layer(neighbourhoods(row.flip(1), layer.before, layer.after))
    assert_close(turned.flip(1), found)


def test_sizes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="num_modules=4 with out_features=6: give a number"):
        MultiplicativeDense(6, 6, 4)
    with pytest.raises(ValueError, match="num_modules=4 with features=6: give a number"):
        LocallyConvolutionalDense(6, 4)
    with pytest.raises(ValueError, match="kernel_size=2 and length=3: give an odd number"):
        LocallyConvolutionalDense(6, 3, kernel_size=2)
