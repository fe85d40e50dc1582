"""The chunked feed-forward sub-layer: any chunk size and length, the same result."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import layer_norm, linear
from torch.testing import assert_close

from reformer_hf.nn.feed_forward import ChunkedFeedForward, OutputProjection


def build(chunk_size: int = 0, dropout: float = 0.0) -> ChunkedFeedForward:
    torch.manual_seed(0)
    module = ChunkedFeedForward(
        hidden_size=6,
        feed_forward_size=10,
        activation=torch.nn.GELU(),
        dropout=dropout,
        chunk_size=chunk_size,
    )
    for weight in module.parameters():
        torch.nn.init.normal_(weight)
    return module.double()


def test_it_is_norm_linear_activation_linear():
    module, hidden = build(), torch.randn(2, 5, 6).double()
    normalised = layer_norm(hidden, (6,), module.layer_norm.weight, module.layer_norm.bias, 1e-12)
    inner = linear(normalised, module.dense.dense.weight, module.dense.dense.bias)
    inner = torch.nn.functional.gelu(inner)
    expected = linear(inner, module.output.dense.weight, module.output.dense.bias)
    assert_close(module(hidden), expected)


@given(chunk_size=st.integers(0, 20), seq=st.integers(1, 17))
def test_chunks_change_neither_output_nor_gradients(chunk_size, seq):
    hidden = torch.randn(2, seq, 6).double()
    results = []
    for size in (0, chunk_size):
        module, inputs = build(size), hidden.clone().requires_grad_()
        output = module(inputs)
        output.sin().sum().backward()
        gradients = [parameter.grad for parameter in module.parameters()]
        results.append([output.detach(), inputs.grad, *gradients])
    for whole, chunked in zip(*results, strict=True):
        assert_close(chunked, whole)


@pytest.mark.parametrize(("chunk_size", "sizes"), [(0, [7]), (3, [3, 3, 1]), (7, [7]), (9, [7])])
def test_at_most_a_chunk_is_computed_at_a_time(chunk_size, sizes):
    module, seen = build(chunk_size), []
    module.dense.register_forward_hook(lambda _, inputs, output: seen.append(output.shape[1]))
    module(torch.randn(2, 7, 6).double())
    assert seen == sizes


def test_dropout_acts_inside_and_at_the_end_in_training_only():
    hidden = torch.randn(1, 200, 6).double()
    module = build(dropout=0.5)
    assert torch.equal(module.eval()(hidden), build()(hidden))
    inside = []
    module.output.dense.register_forward_hook(lambda _, inputs, output: inside.append(inputs[0]))
    output = module.train()(hidden)
    assert 0.4 < (inside[0] == 0).double().mean() < 0.6
    assert 0.4 < (output == 0).double().mean() < 0.6


def test_the_output_projection_has_no_bias():
    module = OutputProjection(8, 6, dropout=0.5)
    assert [name for name, _ in module.named_parameters()] == ["dense.weight"]
    assert module(torch.zeros(1, 2, 8)).abs().sum() == 0
    assert (module(torch.ones(1, 100, 8)) == 0).double().mean() > 0.3


def test_a_stream_of_another_width_is_refused() -> None:
    layer = ChunkedFeedForward(hidden_size=4, feed_forward_size=8, activation=torch.relu)
    for shape in [(2, 5, 3), (2, 0, 4)]:
        with pytest.raises(ValueError, match=r"hidden_states has shape .*\(batch, seq, 4\)"):
            layer(torch.zeros(shape))
