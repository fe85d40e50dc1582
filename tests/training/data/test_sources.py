"""Rows from files and from the Hub: what is named, what is missing, what is limited."""

import datasets
import pytest

from reformer_hf.training.data.sources import RowArguments, load, tables_of_folder, take_first


def test_the_named_files_are_found(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "a.csv").write_text("text")
    arguments = RowArguments(train_file="~/a.csv", test_file=str(tmp_path / "a.csv"))
    assert arguments.find_files() == {"train": tmp_path / "a.csv", "test": tmp_path / "a.csv"}
    with pytest.raises(FileNotFoundError, match=r"none\.csv: there is no such file"):
        RowArguments(validation_file=str(tmp_path / "none.csv")).find_files()
    with pytest.raises(OSError, match="a folder; name a file of rows"):
        RowArguments(validation_file=str(tmp_path)).find_files()


@pytest.mark.parametrize("ending", ["csv", "tsv"])
def test_a_folder_of_tables_is_a_dataset_whose_fields_are_not_dropped(tmp_path, ending):
    (tmp_path / "data").mkdir()
    rows = [("text", "label"), ("null", "NA"), ("x", ""), ("", "1")]
    mark = "\t" if ending == "tsv" else ","
    content = "".join(f"{mark.join(row)}\n" for row in rows)
    (tmp_path / "data" / f"train.{ending}").write_text(content)
    found = load(str(tmp_path / "data"), cache_dir=str(tmp_path / "cache"))["train"]
    assert list(zip(found["text"], found["label"], strict=True)) == rows[1:]


def test_a_folder_of_texts_is_a_dataset_of_lines_without_byte_order_marks(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train.txt").write_text("NA\né\n", encoding="utf-8-sig")
    found = load(str(tmp_path / "data"), cache_dir=str(tmp_path / "cache"))["train"]
    assert list(found["text"]) == ["NA", "é"]
    (tmp_path / "data" / "train-2.txt").write_bytes(b"\n\xe9\n")
    with pytest.raises(OSError, match=r"train-2\.txt: byte 1 \(0xe9, line 2\) is not UTF-8"):
        load(str(tmp_path / "data"), cache_dir=str(tmp_path / "cache"))


CARDS = {
    "separator": "configs:\n- config_name: default\n  data_files: a.csv\n  sep: ';'\n",
    "types": "dataset_info:\n  features:\n  - name: text\n    dtype: string\n",
}


@pytest.mark.parametrize("card", CARDS)
def test_a_card_that_describes_the_tables_of_a_folder_holds(tmp_path, card):
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "a.csv").write_text("text\n01\n")
    assert tables_of_folder(str(folder)) == {"train": [folder / "a.csv"]}
    (folder / "README.md").write_text(f"---\n{CARDS[card]}---\n")
    assert tables_of_folder(str(folder)) == tables_of_folder("of/the_hub") == {}


@pytest.mark.parametrize("name", ["max_train_samples", "max_eval_samples", "max_predict_samples"])
def test_limits_are_positive(name):
    with pytest.raises(ValueError, match=f"{name}=0: must be above 0"):
        RowArguments(**{name: 0})


def test_the_first_rows_of_known_splits_are_taken():
    rows = datasets.Dataset.from_dict({"number": list(range(5))})
    splits = datasets.DatasetDict(train=rows, test=rows, unsupervised=rows)
    taken = take_first(splits, RowArguments(max_train_samples=2, max_predict_samples=9))
    assert {name: list(part["number"]) for name, part in taken.items()} == {
        "train": [0, 1],
        "test": [0, 1, 2, 3, 4],
    }


def test_what_cannot_be_loaded_is_named_with_the_cause(tmp_path):
    broken = tmp_path / "broken.jsonl"
    broken.write_text('{"text": ')
    options = {"data_files": str(broken), "cache_dir": str(tmp_path / "cache")}
    message = r"the pairs could not be loaded from a file \(ArrowInvalid: JSON .*Check the name"
    with pytest.raises(OSError, match=message):
        load("json", "pairs", "a file", **options)
