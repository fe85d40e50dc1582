"""The GPU benchmark, which runs through on a CPU in tiny sizes."""

import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch
from torch import nn

from scripts.benchmarks.gpu import __main__ as benchmark
from scripts.benchmarks.gpu.__main__ import main, measure
from scripts.benchmarks.gpu.arguments import (
    LINEAR,
    SECTIONS,
    SMOKE_SHAPE,
    VARIANTS,
    GpuBenchmarkArguments,
    GpuCase,
)
from scripts.benchmarks.gpu.linear import GatedDeltaNet
from scripts.benchmarks.gpu.profile import OTHER, PARTS
from tests.scripts.benchmarks.tiny import results_of


class Linear(nn.Module):
    """Stands in for flash-linear-attention's model, whose kernels need a GPU."""

    def __init__(self, config):
        super().__init__()
        self.embedding = nn.Embedding(config.vocab_size, config.vocab_size)

    def forward(self, input_ids, past_key_values=0, labels=None, use_cache=True, logits_to_keep=0):
        logits = self.embedding(input_ids)[:, -logits_to_keep:]
        seen = (past_key_values or 0) + input_ids.shape[1]
        loss = logits.sum() if labels is not None else None
        return SimpleNamespace(loss=loss, logits=logits, past_key_values=seen)


@pytest.fixture
def linear(monkeypatch):
    module = ModuleType("fla.models")
    module.GatedDeltaNetConfig = lambda **fields: SimpleNamespace(**fields)
    module.GatedDeltaNetForCausalLM = Linear
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(benchmark, "why_not", lambda device: None)


def test_the_smoke_test_measures_everything(tmp_path, capsys, linear):
    words = ["--smoke", "--output_dir", str(tmp_path)]
    threads = ["--num_threads", str(torch.get_num_threads())]
    assert main([*words, *threads]) == 0
    results = results_of(tmp_path)
    assert {run["section"] for run in results["runs"]} == set(SECTIONS)
    assert {run["variant"] for run in results["runs"]} >= set(VARIANTS)
    for run in results["runs"]:
        if run["section"] == "numerics":
            assert run["output_auto"] <= 4 * run["output_eager"] + 1e-5
        if run["section"] == "profile":
            assert run["missing"] == []
            assert {part for part, *_ in run["parts"]} == {part for part, *_ in PARTS} | {OTHER}
            assert all(host > 0 for _, _, host, _ in run["parts"])
    text = (tmp_path / "results.md").read_text()
    assert "on a CPU" in text and all(name in text for name in VARIANTS.values())
    assert "| attention to candidates |" in text and "failed" not in text
    assert main([*words, *threads]) == 0
    assert f"Going on after {len(results['runs'])} finished runs" in capsys.readouterr().out


def test_the_linear_peer_keeps_its_cache(linear):
    subject = GatedDeltaNet(SMOKE_SHAPE)
    ids = torch.ones(1, 8, dtype=torch.int64)
    subject.prefill(ids)
    assert subject.forward(ids[:, :1]).shape == (1, 1, SMOKE_SHAPE.vocab_size)
    assert subject.cache == 9


def test_what_cannot_run_is_a_line(tmp_path, monkeypatch):
    monkeypatch.setattr(benchmark, "why_not", lambda device: "not installed")
    words = ["--smoke", "--sections", "training", "--variants", LINEAR]
    assert main([*words, "--output_dir", str(tmp_path)]) == 0
    assert f"| all | {LINEAR} | - | not installed |" in (tmp_path / "results.md").read_text()


def test_any_failure_is_an_error(monkeypatch):
    def fail(*arguments):
        raise AssertionError

    monkeypatch.setattr(benchmark, "train", fail)
    case = GpuCase("training", LINEAR, 64)
    assert measure(case, GpuBenchmarkArguments()) == {"error": "AssertionError: "}


def test_it_wants_a_gpu(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit):
        main(["--output_dir", str(tmp_path)])
    assert "torch finds no GPU: run it where there is one, or --smoke" in capsys.readouterr().err


def test_what_costs_the_square_of_a_length_is_left_out_at_the_longest():
    cases = GpuBenchmarkArguments().cases()
    longest = {case.variant for case in cases if case.length == 2**20}
    assert longest == {"auto", "blockwise", LINEAR}
