"""Steps that keep their activations within a budget, before others that are rebuilt."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from reformer_hf.nn.reversible import PlainCoupling, ReversibleCoupling
from tests.nn.reversible_toys import (
    DIM,
    FeedForward,
    LiveBytes,
    loss_of,
    make_sublayers,
    parameters_of,
    run_stack,
)

NUM_STEPS = 6
ALL = 2**20


def gradients(sublayers: list[nn.Module], coupling: PlainCoupling) -> tuple[Tensor, ...]:
    torch.manual_seed(1)
    return torch.autograd.grad(loss_of(sublayers, coupling), parameters_of(sublayers))


def bytes_kept_by(num_steps: int) -> int:
    """Bytes that the first steps of a stack save."""
    torch.manual_seed(1)
    coupling = ReversibleCoupling(ALL)
    loss_of(make_sublayers(num_steps), coupling)
    return coupling._kept.bytes


@pytest.mark.parametrize("kept_steps", range(NUM_STEPS + 1))
@pytest.mark.parametrize("spare", [0, -1])
def test_gradients_are_plain_ones_and_only_what_does_not_fit_is_replayed(
    kept_steps: int, spare: int
) -> None:
    budget = max(0, bytes_kept_by(kept_steps) + spare) if kept_steps else 0
    kept_steps -= spare < 0 < kept_steps
    sublayers = make_sublayers(NUM_STEPS)
    expected = gradients(sublayers, PlainCoupling())
    found = gradients(sublayers, ReversibleCoupling(budget))
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
    calls = [2] * kept_steps + [3] * (NUM_STEPS - kept_steps)
    assert [sublayer.calls for sublayer in sublayers] == calls


@pytest.mark.parametrize("budget", [0, 2000, 4000, 8000, ALL])
def test_pieces_and_terms_have_plain_gradients(budget: int) -> None:
    sublayers = make_sublayers(NUM_STEPS)
    attentions, feed_forwards = sublayers[::2], sublayers[1::2]

    def run(coupling: PlainCoupling) -> tuple[Tensor, ...]:
        torch.manual_seed(1)
        target = source = torch.randn(2, 5, DIM, dtype=torch.float64)
        for attend, feed_forward in zip(attentions, feed_forwards, strict=True):
            target, source = source, coupling.couple(target, [attend, torch.sin], source)
            target, source = source, coupling.couple(target, feed_forward, source, piece_length=2)
        return torch.autograd.grad((target * source.cos()).sum(), parameters_of(sublayers))

    torch.testing.assert_close(
        run(ReversibleCoupling(budget)), run(PlainCoupling()), rtol=1e-10, atol=1e-12
    )


def held_bytes(sublayers: list[nn.Module], budget: int) -> int:
    """Bytes alive after a forward pass of the sub-layers."""
    with LiveBytes() as live:
        streams = run_stack(ReversibleCoupling(budget), torch.randn(2, 64, DIM), sublayers)
        held = live.now
        del streams
    return held


def test_what_is_held_stays_within_the_budget() -> None:
    sublayers = [FeedForward() for _ in range(NUM_STEPS)]
    nothing, everything = held_bytes(sublayers, 0), held_bytes(sublayers, ALL)
    for share in (0.2, 0.5, 0.9):
        budget = int(share * everything)
        assert nothing < held_bytes(sublayers, budget) <= nothing + budget


def test_memory_is_flat_in_depth_beyond_the_budget() -> None:
    budget = held_bytes([FeedForward()] * 3, ALL)
    assert held_bytes([FeedForward()] * 8, budget) == held_bytes([FeedForward()] * 24, budget)


@pytest.mark.parametrize("budget", [4000, ALL])
def test_a_retained_graph_gives_the_same_gradients_again(budget: int) -> None:
    sublayers = make_sublayers(NUM_STEPS)
    loss = loss_of(sublayers, ReversibleCoupling(budget))
    grad: Callable = partial(torch.autograd.grad, loss, parameters_of(sublayers))
    torch.testing.assert_close(grad(retain_graph=True), grad())


def test_a_kept_tensor_changed_before_backward_is_noticed() -> None:
    sublayers = make_sublayers()
    loss = loss_of(sublayers, ReversibleCoupling(ALL))
    with torch.no_grad():
        sublayers[1][1].weight.mul_(2)
    with pytest.raises(RuntimeError, match="FeedForward uses a tensor that was modified in place"):
        loss.backward()


def test_a_step_is_kept_whole_or_not_at_all() -> None:
    sublayers = [FeedForward() for _ in range(2)]
    nothing, one = held_bytes(sublayers, 0), held_bytes(sublayers[:1], ALL)
    assert held_bytes(sublayers, (one - nothing) // 2) == nothing
