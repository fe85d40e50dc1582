"""The comparison of classifiers, on short rows."""

import json

import numpy as np
import pytest

from scripts import compare_classification
from scripts.compare_classification import STYLES, CompareArguments, plan
from scripts.compare_classification_data import (
    LIBRARIES,
    Pieces,
    byte_pair_bayes,
    load_pieces,
)
from scripts.compare_classification_run import ClassificationRun, train

TINY = {
    "length": 64,
    "train_rows": 2,
    "held_out_rows": 1,
    "max_steps": 2,
    "per_device_train_batch_size": 2,
    "hidden_size": 16,
}


def test_pieces_are_of_different_files_and_the_same_each_time():
    train_rows, held_out = load_pieces(64, 3, 2)
    assert train_rows.bytes.shape == (3 * len(LIBRARIES), 64) and held_out.bytes.shape == (14, 64)
    assert np.bincount(train_rows.labels).tolist() == [3] * len(LIBRARIES)
    rows = [row.tobytes() for row in (*train_rows.bytes, *held_out.bytes)]
    assert len(set(rows)) == len(rows)
    assert all(map(np.array_equal, load_pieces(64, 3, 2)[1], held_out))


def test_too_few_files_are_an_error():
    with pytest.raises(ValueError, match="matplotlib: 0 files of 1000000000 bytes or more, not 2"):
        load_pieces(10**9, 1, 1)


def test_naive_bayes_tells_what_it_has_seen():
    rows = np.arange(7, dtype=np.uint8)[:, None].repeat(20, axis=1)
    pieces = Pieces(rows, np.arange(7))
    assert byte_pair_bayes(pieces, pieces) == 1.0
    assert byte_pair_bayes(pieces, Pieces(rows, np.roll(np.arange(7), 1))) == 0.0


@pytest.mark.parametrize("variant", STYLES)
def test_each_variant_trains(variant):
    (run,) = plan(CompareArguments(seeds=1, variants=[variant], **TINY))
    result = train(run)
    assert len(result["curve"]) == 2 and 0 <= result["accuracy"] <= 1
    assert result["parameters"] > 0


def test_a_seed_repeats_a_run():
    (run,) = plan(CompareArguments(seeds=1, variants=["Reformer"], **TINY))
    assert train(run)["curve"] == train(run)["curve"]


def test_results_are_written_and_kept(tmp_path, monkeypatch, capsys):
    asked = []

    def run_process(child, request, timeout, environment):
        asked.append(request)
        if len(asked) == 2:
            return {"error": "out of memory"}
        return {"run": request, **train(ClassificationRun(**request))}

    monkeypatch.setattr(compare_classification, "run_process", run_process)
    options = ["--output_dir", str(tmp_path), "--seeds", "1"]
    options += [text for name, value in TINY.items() for text in (f"--{name}", str(value))]
    assert compare_classification.main(options) == 1
    assert "out of memory" in capsys.readouterr().err
    assert compare_classification.main(options) == 0
    assert len(asked) == 4  # only what was missing
    results = json.loads((tmp_path / "results.json").read_text())
    assert len(results["runs"]) == 3 and set(results["libraries"]) == set(LIBRARIES)
    table = (tmp_path / "results.md").read_text()
    assert all(f"| {name} |" in table for name in [*STYLES, "naive Bayes on byte pairs"])
    assert (tmp_path / "results.png").exists()
    with pytest.raises(SystemExit):
        compare_classification.main([*options, "--max_steps", "3"])
    assert "choose another output_dir" in capsys.readouterr().err
