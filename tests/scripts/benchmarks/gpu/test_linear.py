"""Gated DeltaNet as a peer: when it can run, and how large it is."""

import sys
from types import ModuleType

import pytest
import torch

from scripts.benchmarks.gpu import linear
from scripts.benchmarks.gpu.arguments import GPU_SHAPE, SMOKE_SHAPE


@pytest.mark.parametrize(
    "installed, device, reason",
    [
        (False, "cuda", "not installed: pip install flash-linear-attention"),
        (True, "cpu", "on no CPU"),
        (True, "cuda", "AttributeError from importing flash-linear-attention"),
    ],
)
def test_why_it_cannot_run(installed, device, reason, monkeypatch):
    monkeypatch.setattr(linear, "find_spec", lambda name: name if installed else None)
    monkeypatch.setitem(sys.modules, "fla.models", ModuleType("fla.models"))
    assert reason in linear.why_not(torch.device(device))


def test_its_layers_are_as_large_as_those_of_gpt2():
    width, inner = GPU_SHAPE.hidden_size, GPU_SHAPE.feed_forward_size
    matrices = 5 * width + 3 * linear.intermediate_size(GPU_SHAPE)
    assert matrices == pytest.approx(4 * width + 2 * inner, rel=0.01)
    assert linear.intermediate_size(SMOKE_SHAPE) == 16
