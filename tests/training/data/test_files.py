"""What stands in files is what the rows hold; what is malformed is named with its place."""

import json

import pytest

from reformer_hf.training.data.files import open_rows, read_rows


def write(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_fields_of_tables_are_text(tmp_path):
    content = '\ufefftext,label\r\n"a, ""b""\n\n c",null\n\n00000101,NA\n1e5,\n'
    expected = [('a, "b"\n\n c', "null"), ("00000101", "NA"), ("1e5", "")]
    path = write(tmp_path / "a.CSV", content)
    for streaming in (False, True):
        rows = open_rows({"train": [path]}, streaming=streaming, cache_dir=str(tmp_path / "cache"))
        assert [(row["text"], row["label"]) for row in rows["train"]] == expected


def test_lines_of_json(tmp_path):
    rows = [{"text": "a\u2028b\x85"}, {"text": "😀", "n": 1}, {"n": 2.5, "m": {"x": [1]}}]
    lines = [json.dumps(row, ensure_ascii=index == 1) for index, row in enumerate(rows)]
    path = write(tmp_path / "a.jsonl", "\ufeff" + "\r\n\r\n".join(lines))
    assert list(read_rows(path)) == rows
    opened = open_rows({"train": [path]}, cache_dir=str(tmp_path / "cache"))["train"]
    full = [{"text": None, "n": None, "m": None} | row for row in rows]
    assert list(opened) == full


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", 'text\n"open\nand on', "a.csv: line 2: unexpected end"),
        ("a.csv", "text\né".encode("latin-1"), r"a.csv: byte 5 \(0xe9, line 2\) is not UTF-8"),
    ],
)
def test_what_is_malformed_is_named(tmp_path, name, content, message):
    with pytest.raises(ValueError, match=message):
        list(read_rows(write(tmp_path / name, content)))
