"""The comparison of reversible and plain: its runs, its tables, and going on."""

import json

import datasets
import pytest

from scripts.studies.reversible import __main__ as study
from scripts.studies.reversible.__main__ import (
    STYLES,
    CompareArguments,
    largest_gap,
    plan,
    render,
    spread_of_seeds,
)
from scripts.studies.reversible.run import ReversibleRun, Settings, measure_memory, train
from tests.scripts.benchmarks.tiny import rendered_and_written


def trained(variant, seed, curve, loss=2.0):
    return {
        "run": {"variant": variant, "seed": seed, "layers": 1},
        "curve": curve,
        "held_out_loss": loss,
        "parameters": 1234,
        "peak_bytes": 500e6,
        "before_bytes": 450e6,
    }


RUNS = [
    trained("reversible", 0, [[10, 3.0], [20, 2.0]]),
    trained("plain", 0, [[10, 3.0], [20, 2.25]]),
    trained("reversible", 1, [[10, 3.5], [20, 2.0]]),
    trained("plain", 1, [[10, 3.375], [20, 2.0]]),
    {
        "run": {"variant": "plain", "seed": None, "layers": 8},
        "peak_bytes": 900e6,
        "before_bytes": 450e6,
        "parameters": 1,
    },
]


def test_recorded_results_give_the_same_report():
    rendered, written = rendered_and_written(render, "reversible/results")
    assert rendered == written


def test_curves_are_compared_seed_by_seed():
    assert largest_gap(RUNS, "plain") == 0.25
    assert largest_gap(RUNS, "one stream") is None
    assert spread_of_seeds(RUNS) == 0.5


def test_every_variant_has_every_seed_and_every_depth():
    runs = plan(
        CompareArguments(seeds=2, memory_layers=[1, 3]), Settings(memory_tokens=256, max_length=32)
    )
    assert [(run.variant, run.seed) for run in runs[:6]] == [
        (variant, seed) for seed in (0, 1) for variant in STYLES
    ]
    assert {(run.variant, run.layers) for run in runs[6:]} == {
        (variant, layers) for variant in STYLES for layers in (1, 3)
    }
    assert all(run.batch_size == 8 for run in runs[6:])


def test_the_tables_say_what_was_measured():
    header = {
        "machine": {
            "date": "2026-01-02T03:04:05",
            "processor": "abacus",
            "torch_threads": 1,
            "versions": {"torch": "2", "transformers": "5"},
        },
        "summary": "Tiny.",
        "settings": {"memory_tokens": 4096},
    }
    text = render(header, RUNS)
    assert "| plain | 1,234 | 2.0000, 2.0000 | 2.0000 | 0.2500 | 500, 500 |" in text
    assert "up to 0.5000 apart" in text
    assert "| plain | 900 (450) |" in text


@pytest.fixture
def pairs(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")
    lines = [
        json.dumps({"translation": {"en": f"The file {n} is new.", "de": f"Datei {n} ist neu."}})
        for n in range(40)
    ]
    (tmp_path / "pairs").mkdir()
    for name, part in (("train", lines[:32]), ("validation", lines[32:])):
        (tmp_path / "pairs" / f"{name}.jsonl").write_text("\n".join(part) + "\n")
    return tmp_path / "pairs"


def tiny_run(pairs, tmp_path, variant, seed=0):
    return ReversibleRun(
        variant=variant,
        seed=seed,
        layers=1,
        pairs_dir=str(pairs),
        folder=str(tmp_path / "out"),
        settings=Settings(
            max_steps=20,
            per_device_train_batch_size=4,
            max_length=16,
            hidden_size=16,
            vocab_size=310,
            learning_rate=1e-3,
            dropout=0.1,
            memory_tokens=64,
        ),
    )


def test_reversible_and_plain_learn_the_same_and_one_stream_learns_too(pairs, tmp_path):
    results = {variant: train(tiny_run(pairs, tmp_path, variant)) for variant in STYLES}
    for result in results.values():
        assert [step for step, _ in result["curve"]] == [10, 20]
        assert result["curve"][1][1] < result["curve"][0][1]
        assert result["peak_bytes"] >= result["before_bytes"] > 0
    reversible, plain = results["reversible"], results["plain"]
    assert reversible["parameters"] == plain["parameters"]
    assert reversible["curve"][1][1] == pytest.approx(plain["curve"][1][1], rel=1e-3)
    assert reversible["held_out_loss"] == pytest.approx(plain["held_out_loss"], rel=1e-3)
    assert results["one stream"]["held_out_loss"] != pytest.approx(plain["held_out_loss"], rel=1e-3)
    memory = measure_memory(tiny_run(pairs, tmp_path, "plain", None))
    assert memory["peak_bytes"] >= memory["before_bytes"]


def test_only_what_is_missing_is_done(pairs, tmp_path, capsys, monkeypatch):
    (pairs / "sources.json").write_text(json.dumps({"pairs": {"train": 32, "validation": 8}}))
    done = []

    def run_process(child, request, timeout, environment):
        done.append(request)
        if len(done) == 3:
            return {"error": "killed by signal 9"}
        kind = request["variant"], request["seed"], [[10, 3.0]]
        return {name: value for name, value in trained(*kind).items() if name != "run"}

    monkeypatch.setattr(study, "run_process", run_process)
    options = ["--pairs_dir", str(pairs), "--output_dir", str(tmp_path / "out")]
    options += ["--seeds", "1", "--memory_layers", "2"]
    assert study.main(options) == 1
    assert "killed by signal 9" in capsys.readouterr().err
    assert len(done) == 6
    assert study.main(options) == 0
    assert len(done) == 7 and done[6] == done[2]
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names >= {"results.json", "results.md", "results.png"}
    with pytest.raises(SystemExit):
        study.main([*options, "--max_steps", "3"])
    assert "runs with other ['max_steps']" in capsys.readouterr().err
