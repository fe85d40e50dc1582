"""The GPU benchmark, which runs through on a CPU in tiny sizes."""

import pytest
import torch

from scripts.benchmarks.gpu.__main__ import main
from scripts.benchmarks.gpu.arguments import SECTIONS, VARIANTS, GpuBenchmarkArguments
from tests.scripts.benchmarks.tiny import results_of


def test_the_smoke_test_measures_everything(tmp_path, capsys):
    words = ["--smoke", "--output_dir", str(tmp_path)]
    threads = ["--num_threads", str(torch.get_num_threads())]
    assert main([*words, *threads]) == 0
    results = results_of(tmp_path)
    assert {run["section"] for run in results["runs"]} == set(SECTIONS)
    assert {run["variant"] for run in results["runs"]} >= set(VARIANTS)
    for run in results["runs"]:
        if run["section"] == "numerics":
            assert run["output_auto"] <= 4 * run["output_eager"] + 1e-5
    text = (tmp_path / "results.md").read_text()
    assert "on a CPU" in text and all(name in text for name in VARIANTS.values())
    assert main([*words, *threads]) == 0
    assert f"Going on after {len(results['runs'])} finished runs" in capsys.readouterr().out


def test_it_wants_a_gpu(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit):
        main(["--output_dir", str(tmp_path)])
    assert "torch finds no GPU: run it where there is one, or --smoke" in capsys.readouterr().err


def test_only_our_model_is_measured_at_the_longest_lengths():
    cases = GpuBenchmarkArguments().cases()
    longest = {case.variant for case in cases if case.length == 2**20}
    assert longest == {"auto", "blockwise"}
