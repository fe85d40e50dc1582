"""Second derivatives: right, or refused as soon as a graph of backward is asked for."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from reformer_hf.nn.stream_pieces import cut_gathering
from reformer_hf.ops.attend import normalise_keys_in_parts
from reformer_hf.ops.attention import local_attention, lsh_attention
from reformer_hf.ops.full_attention import cross_attention
from reformer_hf.ops.window import Window

WINDOW = {"window": Window(4, 1)}


def attend_local(x: Tensor) -> Tensor:
    return local_attention(x, x, x, **WINDOW)[0]


def attend_lsh(x: Tensor) -> Tensor:
    buckets = torch.arange(9).remainder(4).expand(1, 2, 1, 9)
    return lsh_attention(x, x, buckets, num_buckets=4, **WINDOW)[0]


def attend_in_pieces(x: Tensor) -> Tensor:
    return cross_attention(x, x, x, dropout=0.1)[0]


def take_pieces(x: Tensor) -> Tensor:
    return torch.cat([piece.square() for piece in cut_gathering(x, 4)], dim=-2)


@pytest.mark.parametrize(
    "function", [attend_local, attend_lsh, attend_in_pieces, normalise_keys_in_parts, take_pieces]
)
@pytest.mark.parametrize("whole", [False, True])
def test_what_has_a_first_derivative_only_says_so(
    function: Callable[[Tensor], Tensor], whole: bool
) -> None:
    # A weight behind it, whose share of the second derivative would be all that is found.
    x = torch.randn(1, 2, 9, 4, dtype=torch.float64, requires_grad=True)
    weight = torch.ones((), dtype=torch.float64, requires_grad=True)
    loss = (weight * function(x).square()).sum()
    with pytest.raises(RuntimeError, match="create_graph=True.*'eager'.*reversible=False"):
        if whole:
            loss.backward(create_graph=True)
        else:
            torch.autograd.grad(loss, x, create_graph=True)
