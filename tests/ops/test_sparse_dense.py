"""Linear layers of few weights against the oracle: outputs and gradients."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from reformer_hf.ops import reference
from reformer_hf.ops.convolution import neighbourhoods
from reformer_hf.ops.sparse_dense import locally_convolutional_dense, multiplicative_dense
from tests.ops.oracle import TOLERANCE, make_documents


def draw(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(shape, generator=generator, dtype=torch.float64, requires_grad=True)


def assert_same(found: Tensor, expected: Tensor, inputs: list[Tensor]) -> None:
    """Results and gradients of a weighted sum are equal."""
    assert_close(found, expected, atol=TOLERANCE, rtol=0)
    weights = torch.linspace(-1, 1, found.numel(), dtype=torch.float64).view_as(found)
    mine, theirs = (torch.autograd.grad((x * weights).sum(), inputs) for x in (found, expected))
    for gradient, right in zip(mine, theirs, strict=True):
        assert_close(gradient, right, atol=10 * TOLERANCE, rtol=0)


@pytest.mark.parametrize("tokens", [2, 9])  # fewer than a module's width, and more
@pytest.mark.parametrize("modules", [1, 4])
def test_multiplicative_dense(tokens, modules):
    generator = torch.Generator().manual_seed(tokens)
    shapes = ((1, tokens, 5), (modules, 5), (3, 5), (3 * modules,))
    inputs, gates, weight, bias = every = [draw(generator, *shape) for shape in shapes]
    expected = reference.multiplicative_dense(inputs[0], gates, weight, bias)[None]
    assert_same(multiplicative_dense(*every), expected, every)
    plain = multiplicative_dense(inputs, gates, weight)
    assert_close(plain, expected - bias, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("causal", [True, False])
@settings(max_examples=8)
@given(
    seq=st.integers(1, 7),
    length=st.integers(1, 3),
    kernel=st.sampled_from([1, 3]),
    kind=st.sampled_from(["none", "left", "holes", "packed"]),
)
def test_locally_convolutional_dense(causal, seq, length, kernel, kind):
    generator, modules, width = torch.Generator().manual_seed(seq), 3, 2
    documents = make_documents(kind, seq, generator)
    taps = length if causal else 2 * length - 1
    inputs = draw(generator, 2, seq, modules * width)
    weight, bias = draw(generator, width, taps, kernel, width), draw(generator, width)
    numbers = torch.zeros(2, seq, dtype=torch.long) if documents is None else documents
    expected = torch.stack(
        [
            reference.locally_convolutional_dense(row, weight, bias, ids.tolist(), causal)
            for row, ids in zip(inputs, numbers, strict=True)
        ]
    )
    seen = neighbourhoods(inputs, length - 1, 0 if causal else length - 1, documents)
    found = locally_convolutional_dense(seen, weight, bias).view(expected.shape)
    assert_same(found, expected, [inputs, weight, bias])
