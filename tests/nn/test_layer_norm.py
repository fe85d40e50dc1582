"""Layer norm of float32 streams in a model of lower precision."""

import pytest
import torch
from torch.testing import assert_close

from reformer_hf.nn.layer_norm import StreamLayerNorm

LOW = [torch.bfloat16, torch.float16]


def build(dtype: torch.dtype) -> StreamLayerNorm:
    torch.manual_seed(0)
    module = StreamLayerNorm(64)
    torch.nn.init.normal_(module.weight)
    torch.nn.init.normal_(module.bias)
    return module.to(dtype)


@pytest.mark.parametrize("dtype", [*LOW, torch.float32, torch.float64])
def test_the_output_has_the_dtype_of_the_weights(dtype):
    for stream in (torch.float32, torch.float64):
        assert build(dtype)(torch.randn(2, 3, 64, dtype=stream)).dtype == dtype


@pytest.mark.parametrize("dtype", LOW)
def test_a_float32_stream_is_rounded_once_at_the_end(dtype):
    module = build(dtype)
    # Far from zero: rounding the stream to the weights' dtype first would lose most of it.
    stream = 100 + torch.randn(2, 3, 64)
    exact = build(dtype).double()(stream.double())
    rounding = {"rtol": 2 * torch.finfo(dtype).eps, "atol": 100 * torch.finfo(torch.float32).eps}
    assert_close(module(stream), exact.to(dtype), **rounding)
    rounded = module(stream.to(dtype).float())
    assert (rounded.double() - exact).abs().max() > 20 * torch.finfo(dtype).eps


def test_equal_dtypes_give_the_layer_norm_of_torch():
    for dtype in (torch.float32, torch.float64):
        module, stream = build(dtype), torch.randn(2, 3, 64, dtype=dtype)
        plain = torch.nn.LayerNorm(64, dtype=dtype)
        plain.load_state_dict(module.state_dict())
        assert torch.equal(module(stream), plain(stream))


def test_autocast_does_not_narrow_it():
    module, stream = build(torch.float32), 100 + torch.randn(2, 3, 64)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(module(stream), build(torch.float32)(stream))
        assert module(stream).dtype == torch.float32


def test_gradients_keep_their_dtypes():
    module, stream = build(torch.bfloat16), torch.randn(2, 3, 64, requires_grad=True)
    module(stream).sum().backward()
    assert stream.grad.dtype == torch.float32
    assert module.weight.grad.dtype == module.bias.grad.dtype == torch.bfloat16
