"""The module of the short convolution: its weights at the start, and how it is called."""

import torch

from reformer_hf.nn import LocalAttention
from reformer_hf.nn.convolution import ShortConvolution


def test_it_starts_between_a_token_and_its_neighbours():
    assert ShortConvolution(2, 3).weight[1, 0].tolist() == [0, 0.5, 0.5]
    assert ShortConvolution(2, 3, causal=False).taps()[1, 0].tolist() == [0, 0.25, 0.5, 0.25, 0]


def test_hooks_see_every_pass():
    """Behind a cache, too: what offloads weights brings them back in a hook."""
    layer, calls = LocalAttention(8, 2, conv_kernel=2), []
    layer.attention.convolution.register_forward_pre_hook(lambda *_: calls.append(1))
    x, cache = torch.randn(1, 5, 8), layer.new_cache()
    layer(x)
    layer(x[:, :3], cache=cache)
    layer(x[:, 3:], cache=cache)
    assert len(calls) == 3
