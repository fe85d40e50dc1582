"""Translation data: layouts of files and datasets, vocabularies, tokens."""

import json

import datasets
import pytest

from reformer_hf import ReformerHFByteTokenizer
from reformer_hf.training.data.pairs import (
    TranslationArguments,
    load_pairs,
    tokenize_pairs,
)

PAIRS = [
    ("Save", "Speichern"),
    ('"No", he said', '"Nein", sagte er'),
    ("null", "Größe: 5 µm"),
    ("12", "0012"),
]
LANGUAGES = {"source_lang": "en", "target_lang": "de"}


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")


def write(path, layout):
    rows = [dict(zip(("en", "de"), pair, strict=True)) for pair in PAIRS]
    lines = {
        "nested": lambda: [json.dumps({"translation": row}) for row in rows],
        "flat": lambda: [json.dumps(row) for row in rows],
        "tsv": lambda: ["\t".join(pair) for pair in PAIRS],
        "tsv with header": lambda: ["de\ten", *("\t".join(pair[::-1]) for pair in PAIRS)],
    }[layout]()
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(path)


@pytest.mark.parametrize(
    ("name", "layout"),
    [
        ("a.jsonl", "nested"),
        ("a.json", "flat"),
        ("a.tsv", "tsv"),
        ("a.tsv", "tsv with header"),
    ],
)
def test_files_of_all_layouts_give_the_same_pairs(tmp_path, name, layout):
    file = write(tmp_path / name, layout)
    arguments = TranslationArguments(
        **LANGUAGES, train_file=file, test_file=file, max_predict_samples=2, source_prefix="de: "
    )
    splits = load_pairs(arguments)
    assert splits.keys() == {"train", "test"} and len(splits["test"]) == 2
    rows = [(row["source"], row["target"]) for row in splits["train"]]
    assert rows == [(f"de: {source}", target) for source, target in PAIRS]


def test_a_dataset_of_the_hub_has_its_own_splits(monkeypatch):
    def load(path, **options):
        place = {"cache_dir": "kept", "token": "given"}
        assert (path, options) == ("wmt14", {"name": "de-en"} | place)
        rows = [{"translation": dict(zip(("en", "de"), pair, strict=True))} for pair in PAIRS]
        kind = datasets.Features({"translation": datasets.Translation(languages=["de", "en"])})
        data = datasets.Dataset.from_list(rows, kind)
        return datasets.DatasetDict(train=data, validation=data.select([0]))

    monkeypatch.setattr(datasets, "load_dataset", load)
    arguments = {"dataset_name": "wmt14", "dataset_config_name": "de-en"}
    place = {"cache_dir": "kept", "token": "given"}
    splits = load_pairs(
        TranslationArguments(**arguments, source_lang="de", target_lang="en"), **place
    )
    assert splits["validation"][0] == {"source": "Speichern", "target": "Save"}
    with pytest.raises(ValueError, match=r"target_lang='fr': the train data has \['de', 'en'\]"):
        load_pairs(TranslationArguments(**arguments, source_lang="de", target_lang="fr"), **place)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"target_lang": "en"}, "source_lang='en' and target_lang='en'"),
        ({"train_file": "a.txt"}, "a.txt: must be a .jsonl"),
        ({"train_file": None}, "dataset_name=None and train_file=None"),
        ({"dataset_name": "wmt14"}, "dataset_name='wmt14' and train_file='a.tsv'"),
        ({"max_target_length": 1}, "max_target_length=1"),
        ({"val_max_target_length": 1}, "val_max_target_length=1"),
        ({"max_eval_samples": 0}, "max_eval_samples=0"),
    ],
)
def test_impossible_arguments_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        TranslationArguments(**{**LANGUAGES, "train_file": "a.tsv"} | changes)


def test_files_that_are_missing_or_malformed_are_named(tmp_path):
    with pytest.raises(OSError, match="none.tsv: there is no such file"):
        load_pairs(TranslationArguments(**LANGUAGES, train_file=str(tmp_path / "none.tsv")))
    (tmp_path / "a.tsv").write_text("one\ttwo\tthree\n")
    with pytest.raises(ValueError, match="first line has 3 columns"):
        load_pairs(TranslationArguments(**LANGUAGES, train_file=str(tmp_path / "a.tsv")))
    (tmp_path / "a.jsonl").write_text("{broken\n")
    with pytest.raises(OSError, match="pairs could not be loaded from .*a.jsonl"):
        load_pairs(TranslationArguments(**LANGUAGES, train_file=str(tmp_path / "a.jsonl")))


def test_both_sides_end_with_the_end_of_sequence_even_if_cut():
    tokenizer = ReformerHFByteTokenizer()
    pairs = datasets.Dataset.from_list([{"source": "abcdef", "target": "xy"}])
    arguments = TranslationArguments(
        **LANGUAGES, train_file="a.tsv", max_source_length=4, max_target_length=4
    )
    (row,) = tokenize_pairs(pairs, tokenizer, arguments)
    assert row["input_ids"] == [*tokenizer("abc").input_ids, 1]
    assert row["labels"] == [*tokenizer("xy").input_ids, 1]


def test_held_out_targets_are_as_long_as_generation_may_be():
    tokenizer = ReformerHFByteTokenizer()
    pairs = datasets.Dataset.from_list([{"source": "a", "target": "uvwxyz"}])
    limits = {"max_target_length": 4, "val_max_target_length": 6}
    arguments = TranslationArguments(**LANGUAGES, train_file="a.tsv", **limits)
    (row,) = tokenize_pairs(pairs, tokenizer, arguments)
    assert row["labels"] == [*tokenizer("uvw").input_ids, 1]
    (row,) = tokenize_pairs(pairs, tokenizer, arguments, held_out=True)
    assert row["labels"] == [*tokenizer("uvwxy").input_ids, 1]
