"""The swapping benchmark: all cases run, the table says what is saved, failures are told."""

import pytest
import torch

from scripts.benchmarks.swapping import __main__ as benchmark
from scripts.benchmarks.swapping import run as one_run
from scripts.benchmarks.swapping.__main__ import main, render
from scripts.benchmarks.swapping.run import MUON, Case, answer
from tests.scripts.benchmarks.tiny import rendered_and_written, results_of, words_of


@pytest.fixture
def here(monkeypatch):
    """Runs are done in this process, and get what a process of their own gets."""

    def run_process(module, request, timeout, environment):
        assert module == one_run.__name__ and environment.keys() >= benchmark.RETURN_LARGE.keys()
        return answer(request)

    monkeypatch.setattr(benchmark, "run_process", run_process)


def test_smoke(here, tmp_path, capsys):
    words = words_of({"output_dir": tmp_path, "num_threads": torch.get_num_threads()})
    assert main([*words, "--smoke"]) == 0
    runs = {Case(run["optimizer"], run["in_backward"]): run for run in results_of(tmp_path)["runs"]}
    assert runs.keys() == {Case(name, value) for name in MUON for value in (False, True)}
    for name in MUON:
        usual, ours = (runs[Case(name, value)] for value in (False, True))
        assert usual["losses"] == pytest.approx(ours["losses"], abs=1e-4)
        assert usual["held_gradient_bytes"] == usual["parameter_bytes"] == 4 * usual["parameters"]
        assert 0 < ours["held_gradient_bytes"] < usual["held_gradient_bytes"]
        assert usual["optimizer_bytes"] == ours["optimizer_bytes"] > 0
    printed = capsys.readouterr().out
    assert printed.count("in backward, layer by layer") == 2
    assert printed.count("The losses of the steps are") == 2


def test_a_run_that_fails_is_told(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(benchmark, "run_process", lambda *_: {"error": "no memory"})
    assert main([*words_of({"output_dir": tmp_path, "optimizers": "adamw"}), "--smoke"]) == 1
    assert "- adamw failed: no memory" in capsys.readouterr().out


@pytest.mark.parametrize("words", [["--optimizers", "sgd"], ["--length", "0"]])
def test_what_cannot_be_is_said(words, capsys):
    with pytest.raises(SystemExit):
        main(words)
    assert words[1] in capsys.readouterr().err


def test_the_table_is_that_of_the_results():
    made, written = rendered_and_written(render, "swapping/results")
    assert made == written
