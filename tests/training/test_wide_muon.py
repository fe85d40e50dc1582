"""Muon in float32, for processors that multiply bfloat16 slowly, against torch's own."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from reformer_hf.training import wide_muon
from reformer_hf.training.wide_muon import WideMuon, orthogonalise

SHAPES = ((24, 24), (48, 16), (16, 48))
SETTINGS = {"lr": 0.1, "weight_decay": 0.2, "momentum": 0.8}


def steps(optimizer: torch.optim.Optimizer, parameters: list[nn.Parameter]) -> None:
    """Three steps on gradients of a fixed seed; one matrix has none in the second."""
    generator = torch.Generator().manual_seed(1)
    for step in range(3):
        for index, parameter in enumerate(parameters):
            gradient = torch.randn(parameter.shape, generator=generator)
            parameter.grad = None if (step, index) == (1, 0) else gradient
        optimizer.step()


def matrices() -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(shape, generator=generator)) for shape in SHAPES]


@pytest.mark.parametrize("nesterov", [True, False])
def test_steps_are_those_of_torch_up_to_its_rounding(nesterov, monkeypatch):
    monkeypatch.setattr(wide_muon, "multiplies_bfloat16", lambda: False)
    ours, theirs = matrices(), matrices()
    optimizer = WideMuon(ours, nesterov=nesterov, **SETTINGS)
    other = torch.optim.Muon(theirs, nesterov=nesterov, **SETTINGS)
    steps(optimizer, ours)
    steps(other, theirs)
    for mine, right, start in zip(ours, theirs, matrices(), strict=True):
        # A step is about 0.1 long in each of at least 16 directions; bfloat16 has 8 bits.
        assert_close(mine, right, atol=3e-3, rtol=0)
        assert (right - start).abs().max() > 0.05
        assert not torch.equal(mine, right)
    found, expected = optimizer.state_dict(), other.state_dict()
    assert_close(found["state"], expected["state"])
    assert found["param_groups"] == expected["param_groups"]


def test_where_bfloat16_is_fast_a_step_is_that_of_torch(monkeypatch):
    monkeypatch.setattr(wide_muon, "multiplies_bfloat16", lambda: True)
    ours, theirs = matrices(), matrices()
    steps(WideMuon(ours, **SETTINGS), ours)
    steps(torch.optim.Muon(theirs, **SETTINGS), theirs)
    assert all(map(torch.equal, ours, theirs))


def test_singular_vectors_stay_and_values_come_near_to_one():
    matrix = torch.randn(12, 30, generator=torch.Generator().manual_seed(0))
    found = orthogonalise(matrix, (3.4445, -4.775, 2.0315), 5, 1e-7)
    u, _, v = torch.linalg.svd(matrix, full_matrices=False)
    inner = u.T @ found @ v.T
    values = inner.diag()
    assert_close(inner, values.diag(), atol=1e-4, rtol=0)
    assert values.min() > 0.6 and values.max() < 1.3
    assert_close(orthogonalise(matrix.T, (3.4445, -4.775, 2.0315), 5, 1e-7), found.T)


def test_a_closure_is_called_once(monkeypatch):
    monkeypatch.setattr(wide_muon, "multiplies_bfloat16", lambda: False)
    (parameter,) = matrices()[:1]
    optimizer = WideMuon([parameter], **SETTINGS)

    def closure():
        optimizer.zero_grad()
        loss = parameter.square().sum()
        loss.backward()
        return loss

    before = parameter.square().sum().item()
    assert optimizer.step(closure).item() == pytest.approx(before)
    assert parameter.square().sum().item() < before
