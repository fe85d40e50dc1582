"""The short convolution against the oracle: documents, padding, either side."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reformer_hf.ops import reference
from reformer_hf.ops.convolution import short_convolution
from tests.ops.oracle import TOLERANCE, make_documents

DIM = 3


@pytest.mark.parametrize("causal", [True, False])
@settings(max_examples=25)
@given(
    seq=st.integers(1, 13),
    kernel=st.integers(2, 4),
    kind=st.sampled_from(["none", "left", "right", "holes", "packed"]),
    seed=st.integers(0, 2**32),
)
def test_outputs_and_gradients_equal_the_oracle(causal, seq, kernel, kind, seed):
    generator = torch.Generator().manual_seed(seed)
    documents = make_documents(kind, seq, generator)
    taps = kernel if causal else 2 * kernel - 1

    def draw(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64, requires_grad=True)

    inputs, weight = draw(2, seq, DIM), draw(DIM, 1, taps)
    numbers = torch.zeros(2, seq, dtype=torch.long) if documents is None else documents
    rows = [
        reference.short_convolution(row, weight[:, 0], ids.tolist(), causal)
        for row, ids in zip(inputs, numbers, strict=True)
    ]
    expected = torch.stack(rows)
    found = short_convolution(inputs, weight, kernel - 1, documents)
    torch.testing.assert_close(found, expected, atol=TOLERANCE, rtol=0)
    cotangent = torch.randn(expected.shape, generator=generator, dtype=torch.float64)
    mine, theirs = (
        torch.autograd.grad(result, [inputs, weight], cotangent) for result in (found, expected)
    )
    for gradient, right in zip(mine, theirs, strict=True):
        torch.testing.assert_close(gradient, right, atol=TOLERANCE, rtol=0)


def test_it_is_the_convolution_of_torch():
    inputs, weight = torch.randn(2, 9, DIM), torch.randn(DIM, 1, 4)
    layer = torch.nn.functional.conv1d(
        inputs.transpose(1, 2), weight, padding=3, groups=DIM
    ).transpose(1, 2)[:, :9]
    torch.testing.assert_close(short_convolution(inputs, weight, 3), layer)
