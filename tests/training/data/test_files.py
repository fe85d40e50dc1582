"""Rows of files as datasets: their values, their types, and what is refused."""

import json

import pytest
from datasets import Dataset, Features, Value
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reformer_hf.training.data.files import open_rows
from reformer_hf.training.data.reading import read_rows


@pytest.fixture
def load(tmp_path):
    """Opens files with the given contents, by name."""

    def load(contents, **options):
        paths = [tmp_path / name for name in contents]
        for path, content in zip(paths, contents.values(), strict=True):
            path.write_text(content, encoding="utf-8", newline="")
        return open_rows({"train": paths}, cache_dir=str(tmp_path / "cache"), **options)["train"]

    return load


def lines(*rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


def test_the_types_are_those_of_all_rows(load):
    rows = [{"n": 1, "s": "x", "none": None}] * 150
    rows += [{"n": 2.5, "list": []}, {"list": ["a"]}, {"d": {"x": 1}}, {"d": {"y": "z"}}]
    found = load({"a.jsonl": lines(*rows[:150]), "b.json": json.dumps(rows[150:])})
    assert found.features == {
        "n": Value("float64"),
        "s": Value("string"),
        "none": Value("null"),
        "list": Features({"x": [Value("string")]})["x"],
        "d": {"x": Value("int64"), "y": Value("string")},
    }
    empty = dict.fromkeys(found.features)
    assert found[149:151]["n"] == [1.0, 2.5]
    assert found[151] == {**empty, "list": ["a"]}
    assert found[153] == {**empty, "d": {"x": None, "y": "z"}}


def test_a_stream_gives_rows_as_they_are_read(load):
    rows = [{"n": 1}, {"n": "x", "m": [1, "y"]}]
    stream = load({"a.jsonl": lines(*rows), "b.jsonl": lines(rows[0])}, streaming=True)
    assert list(stream) == [*rows, rows[0]]


@pytest.mark.parametrize("streaming", [False, True])
def test_names_of_columns_are_given_to_tables_without_a_header(load, streaming):
    found = load({"a.tsv": "x\ty\n"}, columns=["de", "en"], streaming=streaming)
    assert list(found) == [{"de": "x", "en": "y"}]


@pytest.mark.parametrize(
    ("first", "last"), [(1, "x"), ("x", 1), (1, True), (2**40, 2**70), ({"a": 1}, {"a": "x"})]
)
def test_a_column_of_several_kinds_is_named_where_it_is_needed(load, first, last):
    rows = [{"a": first, "b": 1}] * 120 + [{"a": last, "b": 2}]
    contents = {"a.jsonl": lines(*rows[:5]), "b.jsonl": lines(*rows[5:])}
    with pytest.raises(ValueError, match=r"^/.*b\.jsonl: row 116: the value of column 'a'"):
        load(contents)
    assert list(load(contents, choose=lambda names: names[1:])["b"]) == [1] * 120 + [2]


def test_a_file_that_was_changed_is_read_again(load):
    for text in ("before", "behind"):
        assert load({"a.csv": f"text\n{text}\n"})[0] == {"text": text}


def test_what_is_refused(load, tmp_path):
    with pytest.raises(
        ValueError, match=r"a\.xlsx: ends with '\.xlsx'; give a file of rows: \.csv"
    ):
        load({"a.xlsx": ""})
    with pytest.raises(ValueError, match=r"\['\.csv', '\.parquet'\]: give files of one kind"):
        load({"a.csv": "text\nx\n", "b.parquet": ""})
    with pytest.raises(OSError, match=r"could not be loaded from .*b\.parquet"):
        load({"b.parquet": "no parquet"})
    with pytest.raises(ValueError, match=r"a\.csv: column 'a\\x00' has a NUL"):
        load({"a.csv": "a\0\nx\n"})


def test_parquet(tmp_path):
    Dataset.from_dict({"id": [1], "text": ["a"]}).to_parquet(tmp_path / "a.PARQUET")
    for streaming in (False, True):
        options = {"streaming": streaming, "cache_dir": str(tmp_path / "cache")}
        files = {"test": [tmp_path / "a.PARQUET"]}
        rows = open_rows(files, choose=lambda names: names[1:], **options)["test"]
        assert list(rows) == [{"text": "a"}]


TEXT = st.text("a0\",'\t\n\r\ufeff\u2028\x85\0 é🙂", max_size=5)


@settings(
    max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_values_reach_the_dataset_as_they_are_read(load, tmp_path, data):
    kinds = st.sampled_from([st.floats(allow_nan=False), TEXT, st.lists(TEXT, max_size=2)])
    columns = {name: st.none() | data.draw(kinds) for name in "ab"}
    row = st.fixed_dictionaries({}, optional=columns)
    rows = data.draw(st.lists(row.filter(bool), min_size=1, max_size=4))
    found = load({"a.jsonl": lines(*rows)})
    names = found.column_names
    assert list(found) == [{name: row.get(name) for name in names} for row in rows]
    assert list(read_rows(tmp_path / "a.jsonl")) == rows
