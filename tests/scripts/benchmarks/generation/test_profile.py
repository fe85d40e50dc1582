"""The profile counts the operators that Python calls, by the part of the model that calls them."""

from types import SimpleNamespace

import torch
from torch import nn

from scripts.benchmarks.generation.profile import OUTSIDE, profile_steps, render_profile


class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = nn.Linear(4, 4)
        self.feed_forward = nn.Sequential(nn.Linear(4, 4), nn.ReLU())

    def forward(self, x):
        x = x + self.attention(x)
        return x + self.feed_forward(x)


def two_layers():
    layers = nn.ModuleList([Layer(), Layer()])
    model = SimpleNamespace(
        config=SimpleNamespace(attn_layers=["local", "lsh"]),
        reformer=SimpleNamespace(encoder=SimpleNamespace(layers=layers)),
    )
    return SimpleNamespace(model=model, forward=lambda x: layers[1](layers[0](x)) * 2)


@torch.no_grad()
def test_operators_inside_operators_are_not_counted():
    profiled = profile_steps(two_layers(), torch.ones(1, 4), steps=3)
    assert {label: calls for label, calls, _ in profiled["parts"]} == {
        **{f"{kind} layer, attention": 1 for kind in ("local", "lsh")},
        **{f"{kind} layer, feed_forward": 2 for kind in ("local", "lsh")},
        **{f"{kind} layer, sums of the streams": 2 for kind in ("local", "lsh")},
        OUTSIDE: 1,
    }
    # A linear map is an operator that calls others.
    counts = {name: calls for name, calls, _ in profiled["operators"]}
    assert counts["aten::linear"] == counts["aten::addmm"] == 4
    assert profiled["layers"] == {"local": 1, "lsh": 1}


def test_the_table_is_per_layer():
    profiled = {
        "steps": 2,
        "layers": {"lsh": 3},
        "parts": [["lsh layer, attention", 12.0, 6.0], [OUTSIDE, 4.0, 1.0]],
        "operators": [["aten::mm", 5.0, 0.5]],
    }
    machine = {"date": "2026-01-02T03", "processor": "abacus", "torch_threads": 1}
    machine["versions"] = {"torch": "2", "transformers": "5"}
    text = render_profile({"machine": machine, "summary": "Tiny."}, 1024, profiled)
    assert "at 1K tokens" in text
    assert "16.0 operator calls from Python per step, 7.000 ms in them" in text
    assert "| lsh layer, attention | 3 | 4.0 | 2.000 |" in text
    assert f"| {OUTSIDE} | 1 | 4.0 | 1.000 |" in text
    assert "| aten::mm | 5.0 | 0.500 |" in text
