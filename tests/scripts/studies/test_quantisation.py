"""The study of quantised weights, at the size of a test."""

import json

import pytest

from scripts.studies.quantisation import main, render
from tests.scripts.benchmarks.tiny import rendered_and_written, words_of

FORMATS = ["float32", "bfloat16, int8 weights", "bfloat16, int4 weights in groups of 32"]


def test_recorded_results_give_the_same_report():
    rendered, written = rendered_and_written(render, "quantisation/results")
    assert rendered == written


def test_each_format_is_scored_and_its_bytes_are_counted(tmp_path, capsys):
    pytest.importorskip("torchao", reason="torchao, the extra `quantization`, is missing")
    (tmp_path / "text").write_bytes(b"def f(x):\n    return x\n" * 60)
    options = {"output_dir": tmp_path / "out", "text_files": tmp_path / "text"}
    options["formats"] = FORMATS
    assert main([*words_of(options), "--smoke"]) == 0
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    runs = {run["format"]: run for run in results["runs"]}
    assert list(runs) == FORMATS
    sizes = {}
    for name, run in runs.items():
        assert run["bytes_scored"] == 1380 % 64 - 1 and 6 < run["bits_per_byte"] < 10
        sizes[name] = run["bytes_of_layers"] / run["parameters_of_layers"]
    exact, int8, int4 = (sizes[name] for name in FORMATS)
    assert exact == 4 and 1 < int8 < 1.1 and 0.5 < int4 < 0.7
    with pytest.raises(SystemExit):
        main(words_of(options))
    assert "--model_name_or_path is missing" in capsys.readouterr().err
