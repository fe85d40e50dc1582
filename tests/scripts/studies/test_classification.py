"""The comparison of classifiers, on short rows of invented languages."""

import json
from dataclasses import asdict

import numpy as np
import pytest

from scripts.studies.classification import __main__ as study
from scripts.studies.classification import data
from scripts.studies.classification.__main__ import STYLES, render
from scripts.studies.classification.data import (
    LANGUAGES,
    Rows,
    byte_pair_bayes,
    draw_rows,
    load_messages,
)
from scripts.studies.classification.run import Settings, train
from tests.scripts.benchmarks.tiny import rendered_and_written

TINY = {
    "length": 64,
    "held_out_rows": 1,
    "max_steps": 2,
    "per_device_train_batch_size": 2,
    "hidden_size": 16,
}


@pytest.fixture(autouse=True)
def catalogues(monkeypatch):
    """Languages that say the same 40 things, each with its own ending."""

    def collect_pairs(wheels, language, max_length):
        return [(f"thing {i}", f"thing {i} {language}") for i in range(40)], []

    monkeypatch.setattr(data, "download_wheel", lambda name, cache: name)
    monkeypatch.setattr(data, "collect_pairs", collect_pairs)


def test_held_out_rows_have_messages_that_nobody_trains_on(tmp_path):
    messages, held_out = load_messages(64, 2, tmp_path)
    assert held_out.bytes.shape == (2 * len(LANGUAGES), 64)
    assert np.bincount(held_out.labels).tolist() == [2] * len(LANGUAGES)
    for label, language in enumerate(LANGUAGES):
        known, text = set(messages[label]), held_out.bytes[2 * label : 2 * label + 2].tobytes()
        whole = {line + b"\n" for line in text.split(b"\n")[:-1]}
        assert len(whole) > 5 and not whole & known
        assert all(message.endswith(f" {language}\n".encode()) for message in known)
    assert all(map(np.array_equal, load_messages(64, 2, tmp_path).held_out, held_out))


def test_too_few_messages_are_an_error(tmp_path):
    with pytest.raises(ValueError, match="held_out_rows=9: ca has [0-9]+ bytes to test on"):
        load_messages(64, 9, tmp_path)
    with pytest.raises(ValueError, match="length=64: a language has fewer bytes to train on"):
        draw_rows([[b"short\n"]], 1, 64, np.random.default_rng(0))


def test_rows_to_train_on_are_full_and_say_their_language():
    known = [[f"{i} {language}\n".encode() for i in range(20)] for language in LANGUAGES]
    rows = draw_rows(known, 50, 64, np.random.default_rng(0))
    assert rows.bytes.shape == (50, 64) and len(set(rows.labels)) > 10
    for row, label in zip(rows.bytes, rows.labels, strict=True):
        assert f" {LANGUAGES[label]}\n".encode() in row.tobytes()
    assert len({row.tobytes() for row in rows.bytes}) == 50


def test_naive_bayes_tells_what_it_has_seen():
    known = [[bytes([label]) * 20] for label in range(7)]
    rows = np.arange(7, dtype=np.uint8)[:, None].repeat(20, axis=1)
    assert byte_pair_bayes(known, Rows(rows, np.arange(7))) == 1.0
    assert byte_pair_bayes(known, Rows(rows, np.roll(np.arange(7), 1))) == 0.0


@pytest.mark.parametrize("variant", STYLES)
def test_each_variant_trains_and_a_seed_repeats_it(variant, tmp_path):
    messages = load_messages(64, 1, tmp_path)
    result = train(variant, 0, Settings(**TINY), messages)
    assert len(result["curve"]) == 2 and 0 <= result["accuracy"] <= 1
    assert result["parameters"] > 0
    assert train(variant, 0, Settings(**TINY), messages)["curve"] == result["curve"]


def test_recorded_results_give_the_same_report():
    rendered, written = rendered_and_written(render, "classification/results")
    assert rendered == written


def test_results_are_written_and_kept(tmp_path, monkeypatch, capsys):
    asked = []

    def run_process(child, request, timeout):
        asked.append(request)
        if len(asked) == 2:
            return {"error": "out of memory"}
        messages = load_messages(64, 1, tmp_path)
        assert request["settings"] == asdict(Settings(**TINY))
        return train(request["variant"], request["seed"], Settings(**TINY), messages)

    monkeypatch.setattr(study, "run_process", run_process)
    options = ["--output_dir", str(tmp_path), "--seeds", "1"]
    options += [text for name, value in TINY.items() for text in (f"--{name}", str(value))]
    assert study.main(options) == 1
    assert "out of memory" in capsys.readouterr().err
    assert study.main([*options, "--cache_dir", "elsewhere"]) == 0
    assert len(asked) == 4  # only what was missing
    results = json.loads((tmp_path / "results.json").read_text())
    assert len(results["runs"]) == 3 and results["packages"]
    table = (tmp_path / "results.md").read_text()
    assert all(f"| {name} |" in table for name in [*STYLES, "naive Bayes on byte pairs"])
    assert (tmp_path / "results.png").exists()
    with pytest.raises(SystemExit):
        study.main([*options, "--max_steps", "3"])
    assert "choose another output_dir" in capsys.readouterr().err
