"""The claim about translation: its tables, and tiny runs that go on."""

import json
from importlib import import_module

import datasets
import pytest

from scripts.studies.reproduce import memory, translation
from scripts.studies.reproduce.__main__ import main
from tests.scripts.benchmarks.tiny import results_of


@pytest.fixture
def pairs(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")
    lines = [
        json.dumps({"translation": {"en": f"The file {n} is new.", "de": f"Datei {n} ist neu."}})
        for n in range(40)
    ]
    folder = tmp_path / "pairs"
    folder.mkdir()
    for name, part in (("train", lines[:32]), ("validation", lines[32:])):
        (folder / f"{name}.jsonl").write_text("\n".join(part) + "\n")
    (folder / "sources.json").write_text(json.dumps({"pairs": {"train": 32, "validation": 8}}))
    return folder


def test_pairs_and_names_are_checked(tmp_path, pairs, capsys):
    for words, message in (
        (["--pairs_dir", str(tmp_path)], "run make_translation_pairs.py first"),
        (["--pairs_dir", str(pairs), "--variants", "plain"], "choose from reversible, one stream"),
    ):
        with pytest.raises(SystemExit):
            main(["translation", *words])
        assert message in " ".join(capsys.readouterr().err.split())


def test_smoke(tmp_path, pairs, monkeypatch):
    calls = []

    def run_process(module, request, timeout, environment=None):
        if module.endswith("memory"):
            request["rows"] = 2
        calls.append(module)
        return import_module(module).answer(json.loads(json.dumps(request)))

    for module in (translation, memory):
        monkeypatch.setattr(module, "run_process", run_process)
    words = ["--smoke", "--output_dir", str(tmp_path), "--pairs_dir", str(pairs)]
    assert main(["translation", *words]) == 0
    assert len(calls) == 4 and main(["translation", *words]) == 0 and len(calls) == 4
    folder = tmp_path / "smoke" / "translation"
    runs = results_of(folder)["runs"]
    assert [run["run"]["row"] for run in runs] == ["reversible", "one stream"]
    for run in runs:
        assert [step for step, _ in run["curve"]] == [1, 2, 3, 4]
        assert 0 <= run["bleu"] <= 100 and "version:" in run["bleu_signature"]
        assert run["step_memory"][run["run"]["row"]].keys() == {"1", "2", "4"}
        assert run["references"]
    assert runs[0]["parameters"] == runs[1]["parameters"]
    assert runs[0]["held_out_loss"] != pytest.approx(runs[1]["held_out_loss"], rel=1e-4)
    text = (folder / "results.md").read_text()
    assert f"sacreBLEU {runs[0]['bleu_signature']}" in text and "| one stream | " in text
    assert (folder / "results.png").exists()
