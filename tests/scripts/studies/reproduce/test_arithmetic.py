"""The study of the talk's arithmetic: what it counts, and all of it at a test's size."""

import json

import pytest

from scripts.studies.reproduce import costs, timed
from scripts.studies.reproduce.arithmetic import (
    PLAIN,
    REVERSIBLE,
    TALK,
    bytes_of_layers,
    counted,
    run,
    stored,
)
from tests.scripts.benchmarks.tiny import RESULTS, results_of, words_of


def test_the_count_of_the_talk():
    assert stored(10**6, 512, 12) == pytest.approx(TALK["activations"], rel=0.03)
    step = json.loads((RESULTS / "million" / "result.json").read_text(encoding="utf-8"))
    found = dict(counted(step))
    assert found["embeddings"] == 2**20 * 512 * 4 == pytest.approx(TALK["embeddings"], rel=0.08)
    assert found["reversible: both streams"] == 2 * found["embeddings"]
    # Three layers that hash, of four rounds and eight heads, two bytes each.
    assert found["reversible: bucket ids of all rounds"] == 3 * 4 * 8 * 2**20 * 2


def test_bytes_of_a_layer_are_the_slope():
    subject = {"length": 10}
    runs = [
        {"variant": PLAIN, "layers": n, "repeat": 0, "memory_bytes": b, "subject": subject}
        for n, b in ((2, 500), (6, 900))
    ]
    assert bytes_of_layers(runs, PLAIN) == (10.0, 30.0)
    assert bytes_of_layers(runs, REVERSIBLE) is None


def test_layers_are_measured_once(tmp_path, monkeypatch, capsys):
    def run_here(module, request, timeout, environment):
        layers, is_reversible = request["subject"]["layers"], request["subject"]["reversible"]
        size = 64 * (100 if is_reversible else 100 * layers)
        return costs.answer(request) | {"memory_bytes": size}

    monkeypatch.setattr(timed, "run_process", run_here)
    step = json.loads((RESULTS / "million" / "result.json").read_text(encoding="utf-8"))
    recorded = tmp_path / "step.json"
    recorded.write_text(json.dumps(step | {"peak_memory_gib": 10.0}), encoding="utf-8")
    options = {"output_dir": tmp_path, "smoke": True, "million": recorded}
    assert run(words_of(options)) == 0
    folder = tmp_path / "smoke" / "arithmetic"
    runs = results_of(folder)["runs"]
    cases = [(variant, n) for n in (1, 2) for variant in (PLAIN, REVERSIBLE)]
    assert [(one["variant"], one["layers"]) for one in runs] == cases
    text = (folder / "results.md").read_text()
    assert f"| {PLAIN} | 100 | 0 |" in text and f"| {REVERSIBLE} | 0 | 100 |" in text
    assert "the peak of the whole step | 10.7 GB" in text
    assert run(words_of(options)) == 0
    assert results_of(folder)["runs"] == runs
    with pytest.raises(SystemExit):
        run(words_of(options | {"million": tmp_path / "none.json"}))
    assert "none.json" in capsys.readouterr().err
