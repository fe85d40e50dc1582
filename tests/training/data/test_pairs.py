"""Translation data: layouts of files and datasets, vocabularies, tokens."""

import json
from types import SimpleNamespace

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


def write(path, layout, encoding="utf-8"):
    rows = [dict(zip(("en", "de"), pair, strict=True)) for pair in PAIRS]
    lines = {
        "nested": lambda: [json.dumps({"translation": row}) for row in rows],
        "flat": lambda: [json.dumps(row) for row in rows],
        "tsv": lambda: ["\t".join(pair) for pair in PAIRS],
        "tsv with header": lambda: ["de\ten", *("\t".join(pair[::-1]) for pair in PAIRS)],
        "tsv with more": lambda: ["de\tn\ten", *("\t7\t".join(pair[::-1]) for pair in PAIRS)],
        "csv": lambda: [quoted(pair) for pair in PAIRS],
        "csv with header": lambda: ["en,de", *map(quoted, PAIRS)],
    }[layout]()
    path.write_text("\n".join(lines) + "\n", encoding=encoding)
    return str(path)


def quoted(fields):
    return ",".join('"{}"'.format(field.replace('"', '""')) for field in fields)


@pytest.mark.parametrize(
    ("name", "layout"),
    [
        ("a.jsonl", "nested"),
        ("a.json", "flat"),
        ("a.tsv", "tsv"),
        ("a.tsv", "tsv with header"),
        ("a.TSV", "tsv with more"),
        ("a.csv", "csv"),
        ("a.csv", "csv with header"),
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_files_of_all_layouts_give_the_same_pairs(tmp_path, name, layout, encoding):
    file = write(tmp_path / name, layout, encoding)
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

    builder = SimpleNamespace(name="parquet")
    monkeypatch.setattr(datasets, "load_dataset_builder", lambda path, **options: builder)
    monkeypatch.setattr(datasets, "load_dataset", load)
    builder = SimpleNamespace(name="parquet")
    monkeypatch.setattr(datasets, "load_dataset_builder", lambda path, **options: builder)
    arguments = {"dataset_name": "wmt14", "dataset_config_name": "de-en"}
    place = {"cache_dir": "kept", "token": "given"}
    splits = load_pairs(
        TranslationArguments(**arguments, source_lang="de", target_lang="en"), **place
    )
    assert splits["validation"][0] == {"source": "Speichern", "target": "Save"}
    with pytest.raises(ValueError, match=r"target_lang='fr': the train data has \['de', 'en'\]"):
        load_pairs(TranslationArguments(**arguments, source_lang="de", target_lang="fr"), **place)


def test_a_local_dataset_is_read_like_a_file(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train.tsv").write_text('\ufeffde\ten\n001\t"NA\n', encoding="utf-8")
    arguments = TranslationArguments(dataset_name=str(tmp_path / "data"), **LANGUAGES)
    assert load_pairs(arguments)["train"][0] == {"source": '"NA', "target": "001"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"target_lang": "en"}, "source_lang='en' and target_lang='en'"),
        ({"train_file": None}, "dataset_name, train_file, validation_file, test_file are all miss"),
        ({"dataset_name": "wmt14"}, "train_file='a.tsv' has no effect with dataset_name"),
        ({"max_target_length": 1}, "max_target_length=1"),
        ({"num_beams": 0}, "num_beams=0"),
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
    for content, message in (
        ("one\ttwo\tthree\n", "a.tsv: its first line has 3 columns"),
        ("en\tes\nyes\tsí\n", r"target_lang='de': .* has \['en', 'es'\] in .*a.tsv"),
        ("Source\tTarget\nyes\tja\n", "looks like names of columns"),
        ("ger \tDE \nyes\tja\n", "looks like names of columns"),
        ("EN\tDE\nyes\tja\n", r"a.tsv: the first line \['EN', 'DE'\] looks like names"),
        ("pt-BR\tfr\nsim\toui\n", r"a.tsv: the first line \['pt-BR', 'fr'\] looks like names"),
        ("en\tde\n", "a.tsv: holds no row"),
        ("", "a.tsv: holds no row"),
        ("a\tb\nc\n", "a.tsv: line 2: 1 fields, and there are 2 columns"),
    ):
        with pytest.raises(ValueError, match=message):
            load_text(tmp_path / "a.tsv", content)
    with pytest.raises(
        ValueError, match="a.txt: ends with '.txt'; give a file of rows: .csv, .tsv"
    ):
        load_text(tmp_path / "a.txt", "en\tde\nyes\tja\n")
    with pytest.raises(ValueError, match="a.jsonl: line 1: no JSON"):
        load_text(tmp_path / "a.jsonl", "{broken\n")
    (tmp_path / "a.tsv").write_bytes("ja\tnö".encode("latin-1"))
    with pytest.raises(ValueError, match="a.tsv: byte 4 .* is not UTF-8"):
        load_pairs(TranslationArguments(**LANGUAGES, test_file=str(tmp_path / "a.tsv")))


def load_text(path, content):
    path.write_text(content, encoding="utf-8")
    splits = load_pairs(TranslationArguments(**LANGUAGES, validation_file=str(path)))
    return [(row["source"], row["target"]) for row in splits["validation"]]


def test_a_table_that_names_no_languages_begins_with_a_pair_and_says_so(tmp_path, monkeypatch):
    notes = []
    monkeypatch.setattr("reformer_hf.training.data.pairs.logger.warning", notes.append)
    assert load_text(tmp_path / "b.tsv", "No\tja\n") == [("No", "ja")]
    notes.clear()
    pairs = load_text(tmp_path / "a.tsv", "English\tGerman\nyes\tja\n")
    assert pairs == [("English", "German"), ("yes", "ja")]
    assert notes == [
        f"{tmp_path / 'a.tsv'}: no line names the languages; ['English', 'German'] is the first "
        "pair"
    ]


@pytest.mark.parametrize("form", ["{}", '{{"translation": {}}}'])
@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (('{"en": "a", "de": "b"}', '{"en": "c", "de": null}'), "row 2 of .*: 'de' holds null, no"),
        (('{"en": "a"}', '{"en": "c", "de": "d"}'), "row 1 of validation: 'de' holds null"),
        (('{"en": "a", "de": 1}', '{"en": "c", "de": 2}'), "row 1 of validation: 'de' holds 1, no"),
        (('{"en": "a", "de": "b"}', '{"en": "c", "de": 2}'), "a.jsonl: row 2: the value of column"),
        (('{"en": ["a"], "de": "b"}',), r"row 1 of validation: 'en' holds \['a'\], no text"),
        (('{"EN": "a", "de": "b"}',), r"source_lang='en': .* has \['EN', 'de'\] in .*; give one"),
        (("null", '{"en": "a", "de": "b"}'), "(row|line) 1"),
        (('"text"',), r"(line 1: holds|source_lang='en': .* has \[\])"),
    ],
)
def test_a_row_that_is_no_pair_of_texts_is_named(tmp_path, form, rows, message):
    with pytest.raises(ValueError, match=message) as caught:
        load_text(tmp_path / "a.jsonl", "\n".join(map(form.format, rows)))
    assert "a.jsonl" in str(caught.value)


def test_what_is_cut_and_what_is_empty_is_counted(tmp_path, monkeypatch):
    notes = []
    monkeypatch.setattr("reformer_hf.training.data.pairs.logger.warning", notes.append)
    sides = [("abcd", "xyz"), ("abc", ""), ("", "wxyz"), ("a", "wxyz")]
    pairs = datasets.Dataset.from_list([{"source": s, "target": t} for s, t in sides])
    arguments = TranslationArguments(
        **LANGUAGES, train_file="a.tsv", max_source_length=4, max_target_length=4
    )
    rows = tokenize_pairs(pairs, ReformerHFByteTokenizer(), arguments)
    assert rows.column_names == ["input_ids", "labels"] and rows[1]["labels"] == [1]
    assert notes == [
        "train: 1 of 4 sources are cut at max_source_length=4",
        "train: 1 of 4 sources are empty",
        "train: 2 of 4 targets are cut at max_target_length=4",
        "train: 1 of 4 targets are empty",
    ]


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
    (row,) = tokenize_pairs(pairs, tokenizer, arguments, "test")
    assert row["labels"] == [*tokenizer("uvwxy").input_ids, 1]
