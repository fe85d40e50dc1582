"""The comparison of scopes, at the size of a test."""

import json

import pytest

from scripts.studies.scopes import VARIANTS, main, render
from tests.scripts.benchmarks.tiny import rendered_and_written, words_of


def test_recorded_results_give_the_same_report():
    rendered, written = rendered_and_written(render, "scopes/results")
    assert rendered == written


def test_each_variant_is_trained_scored_and_kept(tmp_path, capsys):
    (tmp_path / "text").write_bytes(b"def f(x):\n    return x\n" * 60)
    options = {
        "output_dir": tmp_path / "out",
        "text_file": tmp_path / "text",
        "variants": list(VARIANTS),
        "seeds": 1,
        "max_steps": 2,
        "block_size": 96,
        "hidden_size": 16,
        "max_eval_samples": 2,
        "validation_split_percentage": 20,
    }
    assert main(words_of(options)) == 0
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    runs = {run["variant"]: run for run in results["runs"]}
    assert list(runs) == list(VARIANTS)
    for run in runs.values():
        assert run["bytes_scored"] == 2 * 95 and 4 < run["bits_per_byte"] < 10
    # Half of the row at a causal full layer, on average; the same in each call.
    assert runs["full"]["visible_keys_at_start"]["full"] == 48.5
    assert "the file text" in (tmp_path / "out" / "results.md").read_text()
    assert main(words_of(options)) == 0
    again = json.loads((tmp_path / "out" / "results.json").read_text())
    assert again["runs"] == results["runs"]
    with pytest.raises(SystemExit):
        main(words_of(options | {"max_steps": 3}))
    assert "runs with other ['max_steps']" in capsys.readouterr().err
