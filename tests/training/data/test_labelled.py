"""Labelled rows: files, columns, tokens and their labels."""

import csv
import json

import pytest
from datasets import Dataset

from reformer_hf import ReformerHFByteTokenizer
from reformer_hf.training.data.labelled import (
    ClassificationDataArguments,
    choose_columns,
    hold_out,
    load_rows,
)
from reformer_hf.training.data.labelled_tokens import tokenize_rows
from reformer_hf.training.data.labels import LabelSpace

TOKENIZER = ReformerHFByteTokenizer()
CLASSES = LabelSpace("single_label_classification", ("a", "b"))
WORDS = LabelSpace("token", ("O", "B-X"))


def open_splits(chosen, cache, seed=0):
    return hold_out(load_rows(chosen, cache), chosen, seed)


def arguments(**fields) -> ClassificationDataArguments:
    return ClassificationDataArguments(**{"train_file": "x.csv", **fields})


def write(path, rows: list[dict]):
    if path.suffix in (".csv", ".tsv"):
        mark = "\t" if path.suffix == ".tsv" else ","
        lines = [mark.join(rows[0]), *(mark.join(map(str, row.values())) for row in rows)]
    elif path.suffix == ".parquet":
        Dataset.from_list(rows).to_parquet(path)
        return str(path)
    else:
        lines = map(json.dumps, rows)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(path)


ROWS = [{"text": f"text {number}", "label": "ab"[number % 2]} for number in range(20)]


@pytest.mark.parametrize("ending", ["csv", "tsv", "json", "jsonl", "parquet"])
def test_files(ending, tmp_path):
    path = write(tmp_path / f"rows.{ending}", ROWS)
    options = {"train_file": path, "max_eval_samples": 1, "max_train_samples": 15}
    splits = open_splits(arguments(**options), str(tmp_path / "cache"))
    assert {name: len(part) for name, part in splits.items()} == {"train": 15, "validation": 1}
    texts = [*splits["train"]["text"], *splits["validation"]["text"]]
    assert len(set(texts)) == 16 and set(texts) <= {row["text"] for row in ROWS}
    again = open_splits(arguments(**options), str(tmp_path / "cache"))
    assert list(again["validation"]["text"]) == list(splits["validation"]["text"])

    files = {"train_file": path, "validation_file": path, "test_file": path}
    splits = open_splits(arguments(**files, max_predict_samples=3), str(tmp_path / "cache"))
    assert [len(splits[name]) for name in ("train", "validation", "test")] == [20, 20, 3]


ODD_TEXTS = ["null", "00000101", '"Hi" he said, twice', " \u2028é\n", "1e5", "-"] * 2
ODD_LABELS = ["NA", "null", "nan"] * 4


@pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl"])
def test_what_stands_in_a_file_is_in_the_rows(ending, tmp_path):
    texts = [text.strip("\n") if ending == "tsv" else text for text in ODD_TEXTS]
    rows = [{"text": t, "label": n} for t, n in zip(texts, ODD_LABELS, strict=True)]
    path = tmp_path / f"a.{ending}"
    with path.open("w", encoding="utf-8-sig", newline="") as file:
        if ending == "jsonl":
            file.writelines(json.dumps(row) + "\n" for row in rows)
        elif ending == "tsv":
            file.write(
                "\n".join("\t".join(row) for row in [["text", "label"], *map(dict.values, rows)])
            )
        else:
            writer = csv.DictWriter(file, ["text", "label"])
            writer.writeheader()
            writer.writerows(rows)
    splits = open_splits(
        arguments(train_file=str(path), validation_file=str(path)), str(tmp_path / "cache")
    )
    for split in splits.values():
        assert list(zip(split["text"], split["label"], strict=True)) == list(
            zip(texts, ODD_LABELS, strict=True)
        )


def test_numbers_of_a_table_are_recognised_in_its_labels_only(tmp_path):
    rows = [{"text": str(number), "label": number} for number in (10, 9, 10)]
    path = write(tmp_path / "a.csv", rows)
    found = open_splits(arguments(validation_file=path, train_file=path), str(tmp_path / "cache"))
    assert list(found["train"]["text"]) == ["10", "9", "10"]
    assert list(found["train"]["label"]) == [10, 9, 10]


@pytest.mark.parametrize("label", ["1e5", "1.50", "007"])
def test_a_class_is_the_same_in_validation_data(tmp_path, label):
    files = {}
    for split, labels in {"train": (label, "x"), "validation": (label, label)}.items():
        rows = [{"text": "a", "label": each} for each in labels]
        files[f"{split}_file"] = write(tmp_path / f"{split}.csv", rows)
    found = load_rows(arguments(**files), str(tmp_path / "cache"))
    assert list(found["validation"]["label"]) == [label, label]


def test_a_test_file_may_have_any_labels(tmp_path):
    rows = [{"text": "a", "label": 1}, {"text": "b", "label": "?"}]
    path = write(tmp_path / "a.jsonl", rows)
    found = load_rows(arguments(train_file=None, test_file=path), str(tmp_path / "cache"))
    assert list(found["test"]["text"]) == ["a", "b"]


def test_tables_of_a_local_dataset_are_read_like_files(tmp_path):
    (tmp_path / "data").mkdir()
    for split, numbers in {"train": "01 2 NA", "test": "001 x null"}.items():
        lines = "".join(f"{number},{number}\n" for number in numbers.split())
        (tmp_path / "data" / f"{split}.csv").write_text(f"\ufefftext,label\n{lines}", "utf-8")
    options = {"train_file": None, "dataset_name": str(tmp_path / "data")}
    found = load_rows(arguments(**options), str(tmp_path / "cache"))
    assert list(found["train"]["text"]) == list(found["train"]["label"]) == ["01", "2", "NA"]
    assert list(found["test"]["text"]) == ["001", "x", "null"]


def test_some_training_rows_remain(tmp_path):
    path = write(tmp_path / "a.csv", ROWS[:5])
    chosen = arguments(train_file=path, validation_split_percentage=99)
    splits = open_splits(chosen, str(tmp_path / "cache"))
    assert [len(splits[split]) for split in ("train", "validation")] == [1, 4]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"text": "a", "label": "a"}, {"text": 5, "label": "b"}], "row 2: the value of column"),
        ([{"text": 5, "label": "a"}, {"text": 6, "label": "b"}], "column 'text' holds 5, no text"),
        ([{"text": "a", "label": "a"}, {"text": None, "label": "b"}], "row 2: .* holds null, no t"),
        ([{"text": "a", "label": "a"}, {"text": "", "label": "b"}], "row 2 has no text"),
        ([{"text": "a", "label": "a"}, {"text": "b"}], "row 2: no label"),
        ([{"text": "a", "label": "a"}, {"text": "b", "label": 5}], "row 2: the value of column"),
    ],
)
def test_the_row_of_a_fault_is_named_wherever_it_went(tmp_path, rows, message):
    path = tmp_path / "a.jsonl"
    more = [{**rows[0]}] * 3
    path.write_text("\n".join(json.dumps(row) for row in [*rows, *more]))
    with pytest.raises(ValueError, match=message) as caught:
        # Which rows are held out, and their order, depend on the seed.
        splits = open_splits(arguments(train_file=str(path)), str(tmp_path / "cache"), seed=1)
        for part in splits.values():
            tokenize_rows(part, TOKENIZER, arguments(), CLASSES, None)
    assert str(caught.value).startswith(f"{path}: row ")


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.csv: there is no such file"):
        load_rows(arguments(train_file=str(tmp_path / "none.csv")))
    path = write(tmp_path / "rows.jsonl", ROWS)
    (tmp_path / "rows.txt").write_text("text")
    with pytest.raises(ValueError, match=r"rows\.txt: ends with '\.txt'; give a file of rows"):
        load_rows(arguments(train_file=path, validation_file=str(tmp_path / "rows.txt")))
    broken = tmp_path / "broken.jsonl"
    broken.write_text('{"text": ')
    with pytest.raises(ValueError, match="^/.*broken.jsonl: line 1: no JSON"):
        open_splits(arguments(train_file=str(broken)), str(tmp_path / "cache"))
    one = write(tmp_path / "one.csv", ROWS[:1])
    with pytest.raises(ValueError, match="one row"):
        open_splits(arguments(train_file=one), str(tmp_path / "cache"))


def test_columns():
    rows = ["sentence", "labels", "title"]
    assert choose_columns(arguments(), rows) == (["sentence"], "labels")
    named = arguments(text_column_names="title,sentence", label_column_name="title")
    assert choose_columns(named, rows) == (["title", "sentence"], "title")
    assert choose_columns(arguments(), ["sentence", "title"])[1] is None
    named = arguments(label_column_name="labels")
    assert choose_columns(named, ["sentence"], labelled=False) == (["sentence"], None)
    with pytest.raises(ValueError, match="none is named text or sentence.*text_column_names"):
        choose_columns(arguments(), ["labels", "title"])
    with pytest.raises(ValueError, match="separated by semicolons: write commas"):
        choose_columns(arguments(), ["text;label"])
    with pytest.raises(ValueError, match="column 'body' is not among"):
        choose_columns(arguments(text_column_names="body"), rows)
    with pytest.raises(ValueError, match="words are in one column"):
        choose_columns(arguments(task_name="token", text_column_names="title,sentence"), rows)


class TestTexts:
    def test_tokens_and_labels(self):
        rows = Dataset.from_list([{"text": "ab", "title": "é", "label": "b"}])
        options = {"text_column_names": "title,text", "text_column_delimiter": "|"}
        found = tokenize_rows(rows, TOKENIZER, arguments(**options), CLASSES, None)[0]
        assert found["input_ids"] == [byte + 2 for byte in "é|ab".encode()]
        assert found["labels"] == 1 and found["attention_mask"] == [1] * 5
        assert found.keys() == {"input_ids", "attention_mask", "labels"}

    def test_they_are_cut_at_the_longest_input(self):
        rows = Dataset.from_list([{"text": "abcdef", "label": "b"}, {"text": "a", "label": "a"}])
        for fields, limit, expected in (({}, None, 6), ({}, 4, 4), ({"max_seq_length": 3}, 4, 3)):
            found = tokenize_rows(rows, TOKENIZER, arguments(**fields), CLASSES, limit)
            assert [len(ids) for ids in found["input_ids"]] == [expected, 1]
        with pytest.raises(ValueError, match="max_seq_length=5: the model has 4 positions"):
            tokenize_rows(rows, TOKENIZER, arguments(max_seq_length=5), CLASSES, 4)

    def test_rows_without_text_are_refused(self):
        rows = Dataset.from_list([{"text": "a", "label": "b"}, {"text": "", "label": "b"}])
        with pytest.raises(ValueError, match="row 2 has no text"):
            tokenize_rows(rows, TOKENIZER, arguments(), CLASSES, None)

    def test_labels_of_a_test_split_may_be_made_up(self):
        rows = Dataset.from_list([{"text": "a", "label": "-1"}])
        with pytest.raises(ValueError, match="label '-1' is not among"):
            tokenize_rows(rows, TOKENIZER, arguments(), CLASSES, None)
        found = tokenize_rows(rows, TOKENIZER, arguments(), CLASSES, None, labelled=False)
        assert "labels" not in found.column_names

    def test_without_labels(self):
        rows = Dataset.from_list([{"text": "a"}])
        found = tokenize_rows(rows, TOKENIZER, arguments(), CLASSES, None)
        assert "labels" not in found.column_names


class TestWords:
    ROWS = Dataset.from_list([{"tokens": ["ab", "c", "é"], "ner_tags": ["O", "B-X", "B-X"]}])

    def tokenize(self, limit=None, **fields):
        fields = arguments(task_name="token", **fields)
        return tokenize_rows(self.ROWS, TOKENIZER, fields, WORDS, limit)[0]

    def test_a_label_stands_at_the_last_token_of_its_word(self):
        found = self.tokenize()
        assert found["input_ids"] == [byte + 2 for byte in "ab c é".encode()]
        assert found["words"] == [0, 0, 1, 1, 2, 2, 2]
        assert found["labels"] == [-100, 0, -100, 1, -100, -100, 1]

    def test_or_at_all_of_them(self):
        assert self.tokenize(label_all_tokens=True)["labels"] == [0, 0, 1, 1, 1, 1, 1]

    def test_what_begins_an_entity_goes_on_inside_it(self):
        words = LabelSpace("token", ("O", "B-X", "I-X"))
        fields = arguments(task_name="token", label_all_tokens=True)
        found = tokenize_rows(self.ROWS, TOKENIZER, fields, words, None)[0]
        assert found["labels"] == [0, 0, 1, 2, 1, 2, 2]
        found = tokenize_rows(self.ROWS, TOKENIZER, arguments(task_name="token"), words, None)[0]
        assert found["labels"] == [-100, 0, -100, 1, -100, -100, 1]

    def test_cut(self):
        assert self.tokenize(limit=4)["labels"] == [-100, 0, -100, 1]

    def test_one_label_per_word(self):
        rows = Dataset.from_list([{"tokens": ["ab", "c"], "ner_tags": ["O"]}])
        with pytest.raises(ValueError, match="row 1: 2 words and 1 labels"):
            tokenize_rows(rows, TOKENIZER, arguments(task_name="token"), WORDS, None)

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            ("ab", "column 'tokens' holds 'ab': give a list of words"),
            ([1, 2], "column 'tokens' holds 1, no text"),
            (["a", None], "column 'tokens' holds null, no text"),
        ],
    )
    def test_words_are_text(self, words, message):
        rows = Dataset.from_list([{"tokens": words, "ner_tags": ["O", "O"]}])
        with pytest.raises(ValueError, match=f"row 1: {message}"):
            tokenize_rows(rows, TOKENIZER, arguments(task_name="token"), WORDS, None)


@pytest.mark.parametrize(
    "fields, message",
    [
        ({}, "dataset_name, train_file, validation_file, test_file are all missing"),
        ({"train_file": "a", "validation_split_percentage": 100}, "validation_split_percentage="),
        ({"train_file": "a", "task_name": "token", "do_regression": True}, "words have classes"),
        ({"train_file": "a", "task_name": "tokens"}, "task_name='tokens': choose from sequence,"),
        ({"train_file": "a", "max_seq_length": 0}, "max_seq_length=0: must be above 0"),
        ({"train_file": "a", "max_predict_samples": -1}, "max_predict_samples=-1"),
    ],
)
def test_arguments_that_make_no_sense(fields, message):
    with pytest.raises(ValueError, match=message):
        ClassificationDataArguments(**fields)


def test_each_kind_of_data_is_enough():
    for name in ("dataset_name", "train_file", "validation_file", "test_file"):
        ClassificationDataArguments(**{name: "a"})
