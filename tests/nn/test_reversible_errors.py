"""What reversible coupling refuses, so that no gradient is silently wrong."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from reformer_hf.nn.reversible import ReversibleCoupling
from tests.nn.reversible_toys import DIM, FeedForward, loss_of, make_sublayers, run_stack


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_narrow_streams_are_refused(dtype: torch.dtype) -> None:
    with pytest.raises(ValueError, match=f"dtype is {dtype}.*float32"):
        loss_of([nn.Identity()], dtype=dtype)


def test_streams_out_of_turn_are_refused() -> None:
    x1, x2 = torch.randn(2, 1, 3, DIM, requires_grad=True)
    coupling = ReversibleCoupling()
    x1 = coupling.couple(x1, torch.tanh, x2)
    with pytest.raises(ValueError, match="source and the output of the last couple"):
        coupling.couple(x1, torch.tanh, x2)


@pytest.mark.parametrize(
    "change", [lambda stream: stream + 1, lambda stream: stream.add_(1)], ids=["copy", "in place"]
)
@pytest.mark.parametrize("which", ["target", "source"])
def test_streams_changed_between_the_steps_are_refused(
    change: Callable[[Tensor], Tensor], which: str
) -> None:
    sublayer = nn.Linear(DIM, DIM)
    coupling = ReversibleCoupling()
    first, second = torch.randn(1, 3, DIM), torch.randn(1, 3, DIM)
    streams = {"target": second, "source": coupling.couple(first, sublayer, second)}
    streams[which] = change(streams[which])
    with pytest.raises(ValueError, match="not changed in between"):
        coupling.couple(streams["target"], sublayer, streams["source"])


def test_final_streams_changed_in_place_are_noticed() -> None:
    target, source = run_stack(ReversibleCoupling(), torch.randn(1, 3, DIM), [FeedForward()] * 2)
    loss = (target + source).sum()
    with torch.no_grad():
        source.mul_(2)
    with pytest.raises(RuntimeError, match="final stream was modified in place"):
        loss.backward()


def test_a_sublayer_that_saves_something_else_is_noticed() -> None:
    lengths = iter([3, 4])

    def sublayer(source: Tensor) -> Tensor:
        return source + torch.ones(next(lengths), requires_grad=True).exp().sum()

    with pytest.raises(RuntimeError, match=r"<locals>\.sublayer saved other tensors"):
        loss_of([sublayer]).backward()


def test_requires_grad_changed_before_backward_is_noticed() -> None:
    sublayers = make_sublayers()
    loss = loss_of(sublayers)
    sublayers[2].requires_grad_(False)
    with pytest.raises(RuntimeError, match="Attention saved other tensors.*requires_grad"):
        loss.backward()


def test_train_mode_changed_before_backward_is_noticed() -> None:
    sublayers = make_sublayers()
    loss = loss_of(sublayers)
    for sublayer in sublayers:
        sublayer.eval()
    with pytest.raises(RuntimeError, match="FeedForward saved other tensors.*train/eval"):
        loss.backward()


def test_a_parameter_changed_before_backward_is_noticed() -> None:
    """As plain autograd does; here it would spoil the gradients of all sub-layers below."""
    sublayers = make_sublayers()
    loss = loss_of(sublayers)
    with torch.no_grad():
        sublayers[1][1].weight.mul_(2)
    with pytest.raises(RuntimeError, match="FeedForward uses a tensor that was modified in place"):
        loss.backward()


def test_differentiation_within_a_forward_is_refused() -> None:
    def sublayer(source: Tensor) -> Tensor:
        weight = torch.ones((), dtype=source.dtype, requires_grad=True)
        return source * torch.autograd.grad(weight.exp(), weight)[0]

    with pytest.raises(RuntimeError, match="sublayer was differentiated within its own forward"):
        loss_of([sublayer])
