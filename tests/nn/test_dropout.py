"""Dropout from a seed: torch's distribution, one mask in both directions, nothing kept."""

import pytest
import torch
from torch import nn

from reformer_hf.nn import dropout
from reformer_hf.nn.dropout import SeededDropout, drop
from tests.nn.reversible_toys import LiveBytes


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dropout, "PIECE", 100)


def test_numbers_are_dropped_with_the_probability_and_the_mean_stays() -> None:
    torch.manual_seed(0)
    found = SeededDropout(0.25)(torch.ones(2, 1000, 8))
    assert set(found.unique().tolist()) == {0.0, torch.tensor(1 / 0.75).item()}
    assert (found == 0).float().mean() == pytest.approx(0.25, abs=0.02)
    assert not torch.equal(found[0], found[1])


@pytest.mark.parametrize("transposed", [False, True])
def test_backward_drops_the_same_numbers(transposed: bool) -> None:
    x = torch.ones(3, 70, 4, requires_grad=True)
    found = SeededDropout(0.5)(x)
    cotangent = torch.ones(70, 3, 4).transpose(0, 1) if transposed else torch.ones(3, 70, 4)
    found.backward(cotangent)
    assert torch.equal(x.grad, found.detach())


def test_a_pass_draws_anew_and_set_seed_repeats_it() -> None:
    module, x = SeededDropout(0.5), torch.ones(50, 4)
    torch.manual_seed(3)
    first, second = module(x), module(x)
    assert not torch.equal(first, second)
    torch.manual_seed(3)
    assert torch.equal(module(x), first)


@pytest.mark.parametrize("module", [SeededDropout(0.5).eval(), SeededDropout(0.0)])
def test_nothing_happens_outside_training_or_at_probability_0(module: nn.Module) -> None:
    x = torch.ones(5, 4)
    state = torch.get_rng_state()
    assert module(x) is x
    assert torch.equal(torch.get_rng_state(), state)


def test_no_mask_is_kept() -> None:
    held = {}
    for kind in (nn.Dropout, SeededDropout):
        x = torch.ones(1000, 8, requires_grad=True)
        with LiveBytes() as live:
            found = kind(0.5)(x)
            held[kind] = live.now
            del found
    size = 1000 * 8 * 4
    assert held == {nn.Dropout: 2 * size, SeededDropout: size}


def test_in_place_it_writes_to_the_vectors_and_has_the_same_gradient() -> None:
    x = torch.ones(3, 70, 4, requires_grad=True)
    expected = drop(x * 2, 0.5, 7)
    doubled = x * 2
    found = drop(doubled, 0.5, 7, inplace=True)
    assert found.data_ptr() == doubled.data_ptr()
    assert torch.equal(found, expected)
    mine, theirs = (torch.autograd.grad(y.sum(), x)[0] for y in (found, expected))
    assert torch.equal(mine, theirs)


def test_its_second_derivative_drops_the_same_numbers() -> None:
    x = torch.randn(30, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda x: drop(x, 0.4, 3) ** 2, x)
