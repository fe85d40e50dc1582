"""Files are read as Python's own open, csv and json read them; what is malformed is named."""

import codecs
import csv
import io
import json
import os

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reformer_hf.training.data.reading import open_text, read_rows, separator_hint

FUZZ = settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
ODD = "a0b\",;'\t\n\r\\\ufeff\u2028\x85\x0b\x1c\0 é🙂"
MARKS = st.sampled_from(["", "\ufeff"])
ENDS = st.sampled_from(["\n", "\r\n", "\r"])


def write(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def read(path):
    """The rows, or the message, which names the file."""
    try:
        return list(read_rows(path))
    except ValueError as error:
        message = str(error)
        assert message.startswith(f"{path}: ") and "\n" not in message
        return message


def rows_of_csv(text, **dialect):
    """What Python's csv reads under the header; None if it is malformed or no table."""
    try:
        lines = [line for line in csv.reader(io.StringIO(text, newline=""), **dialect) if line]
    except csv.Error:
        return None
    if len(lines) < 2 or len(set(lines[0])) < len(lines[0]):
        return None
    if any(len(line) != len(lines[0]) for line in lines):
        return None
    return [dict(zip(lines[0], line, strict=True)) for line in lines[1:]]


TSV = {"delimiter": "\t", "quoting": csv.QUOTE_NONE}


@pytest.mark.parametrize(("ending", "dialect"), [("csv", {"strict": True}), ("tsv", TSV)])
class TestTables:
    @FUZZ
    @given(mark=MARKS, content=st.text(ODD, max_size=30), header=st.sampled_from(["", "x,y\n"]))
    def test_any_text(self, tmp_path, ending, dialect, mark, content, header):
        text = header.replace(",", dialect.get("delimiter", ",")) + content.lstrip("\ufeff")
        found = read(write(tmp_path / f"a.{ending}", mark + text))
        expected = rows_of_csv(text, **dialect)
        assert isinstance(found, str) if expected is None else found == expected

    @FUZZ
    @given(data=st.data(), mark=MARKS, end=ENDS)
    def test_what_csv_writes(self, tmp_path, ending, dialect, data, mark, end):
        alphabet = ODD if ending == "csv" else ODD.translate({ord(c): None for c in "\t\n\r"})
        field = st.text(alphabet, max_size=6) | st.sampled_from(["null", "NA", "00000101", "1e5"])
        rows = data.draw(st.lists(st.tuples(field, field), min_size=1, max_size=4))
        text = io.StringIO(newline="")
        if ending == "csv":
            writer = csv.writer(text, lineterminator=end, quoting=csv.QUOTE_ALL)
            writer.writerows([("x", "y"), *rows])
        else:
            text.write(end.join("\t".join(row) for row in [("x", "y"), *rows]))
        found = read(write(tmp_path / f"a.{ending}", mark + text.getvalue()))
        assert found == [{"x": x, "y": y} for x, y in rows]


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(ODD, max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(ODD), inner, max_size=3),
    max_leaves=5,
)
OBJECTS = st.lists(st.dictionaries(st.text(ODD, max_size=3), VALUES, max_size=3), min_size=1)


class TestJson:
    @FUZZ
    @given(rows=OBJECTS, mark=MARKS, end=ENDS, blanks=st.integers(1, 2), ascii_=st.booleans())
    def test_lines(self, tmp_path, rows, mark, end, blanks, ascii_):
        lines = [json.dumps(row, ensure_ascii=ascii_) for row in rows]
        content = mark + (end * blanks).join(lines) + end
        assert repr(read(write(tmp_path / "a.jsonl", content))) == repr(rows)
        if len(rows) > 1:
            assert repr(read(write(tmp_path / "a.json", content))) == repr(rows)

    @FUZZ
    @given(rows=OBJECTS, mark=MARKS, indent=st.sampled_from([None, 1]), wrapped=st.booleans())
    def test_arrays(self, tmp_path, rows, mark, indent, wrapped):
        content = json.dumps({"data": rows} if wrapped else rows, indent=indent)
        assert repr(read(write(tmp_path / "a.JSON", mark + content))) == repr(rows)

    @FUZZ
    @given(
        content=st.text('{}[]":,1.-\\udce n\n\r\u2028\x85a', max_size=20), ending=st.just("jsonl")
    )
    def test_any_text(self, tmp_path, content, ending):
        found = read(write(tmp_path / f"a.{ending}", '{"a": 1}\n' + content))
        lines = [line for line in io.StringIO(content, newline="") if line.strip(" \t\r\n")]
        try:
            rows = [{"a": 1}, *map(json.loads, lines)]
            json.dumps(rows, ensure_ascii=False).encode()
        except ValueError:
            rows = None
        if rows is None or not all(isinstance(row, dict) for row in rows):
            assert isinstance(found, str)
        else:
            assert found == rows


@FUZZ
@given(content=st.binary(max_size=20) | st.text(ODD).map(str.encode), mark=st.booleans())
def test_texts(tmp_path, content, mark):
    content = codecs.BOM_UTF8 + content if mark else content
    path = write(tmp_path / "a.txt", content)
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            expected = file.read()
    except UnicodeDecodeError:
        with pytest.raises(ValueError, match=r"a\.txt: byte (\d+)") as caught, open_text(path) as f:
            f.read()
        with pytest.raises(UnicodeDecodeError) as where:
            content.decode()
        assert f"byte {where.value.start}" in str(caught.value)
    else:
        with open_text(path) as file:
            assert file.read() == expected


def test_the_byte_that_is_no_text_is_found_far_behind(tmp_path):
    path = write(tmp_path / "a.csv", "text\n" + "é\n" * 20_000 + "caf")
    with path.open("ab") as file:
        file.write(b"\xe9\n")
    assert read(path) == (
        f"{path}: byte 60,008 (0xe9, line 20,002) is not UTF-8 text; save the file as UTF-8"
    )


def test_long_fields(tmp_path):
    limit = csv.field_size_limit()
    text = "x" * 200_000
    assert read(write(tmp_path / "a.csv", f"text\n{text}\n")) == [{"text": text}]
    assert csv.field_size_limit() == limit


def test_quotation_marks_of_a_tsv_are_text_and_remarked_on(tmp_path, caplog):
    path = write(tmp_path / "quoted.tsv", 'text\tlabel\n"a ""b"""\tx\n')
    with caplog.at_level("WARNING"):
        assert read(path) == [{"text": '"a ""b"""', "label": "x"}]
    assert "quotation marks, which are text in a .tsv" in caplog.text


MALFORMED = {
    "open quotation": (
        "csv",
        'text,label\na,b\n"c,d\ne,f\n',
        "line 3: unexpected end of data; put",
    ),
    "text behind one": ("csv", 'text,label\n"a" b,c\n', "line 2: ',' expected after '\"'"),
    "too few": ("csv", "text,label\n\n\nc\n", "line 4: 1 fields, and there are 2 columns"),
    "too many": ("tsv", "text\tlabel\na\tb\tc\n", "line 2: 3 fields"),
    "twice": ("csv", "text,text\na,b\n", "line 1: two columns are named 'text'"),
    "no rows": ("csv", "text\n", "holds no row"),
    "nothing": ("jsonl", "", "holds no row"),
    "no elements": ("json", "[]", "holds no row"),
    "utf-16": ("csv", "text\na".encode("utf-16"), "byte 0: UTF-16 or UTF-32 text; save"),
    "half": ("jsonl", '{"a": 1}\n{"a": "\\uD800"}', "line 2: \\ud800 is half a character"),
    "half in an array": ("json", '[{"a": "\\uDFFF"}]', "row 1: \\udfff is half a character"),
    "no object": ("jsonl", '{"a": 1}\n[2]', "line 2: holds [2], no object"),
    "no object in an array": ("json", '[{"a": 1}, "b"]', "row 2: holds 'b', no object"),
    "cut": ("jsonl", '{"a": 1}\n{"a"', "line 2: no JSON (Expecting"),
    "deep": ("json", "[" * 100_000, "no JSON (maximum recursion"),
    "unclear": (
        "json",
        '{"data": [{"a": 1}], "b": 2}',
        "one object with a list 'data' beside b: unclear",
    ),
    "another ending": ("xlsx", "PK", "ends with '.xlsx'; give a file of rows: .csv"),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_what_is_malformed_is_named(tmp_path, case):
    ending, content, message = MALFORMED[case]
    path = write(tmp_path / f"a.{ending}", content)
    assert read(path).startswith(f"{path}: {message}")


def test_one_object_is_a_row(tmp_path):
    row = {"text": "a", "data": ["x"]}
    assert read(write(tmp_path / "a.json", json.dumps(row, indent=1))) == [row]
    rows = [{"data": [{"a": 1}]}] * 2
    content = "\n".join(map(json.dumps, rows))
    assert read(write(tmp_path / "a.json", content)) == rows
    assert read(write(tmp_path / "a.jsonl", json.dumps(rows[0]))) == rows[:1]


def test_what_is_no_file_of_text_is_refused(tmp_path):
    for name, message in (("a.txt.gz", "compressed file; unpack"), ("pipe", "a pipe or a folder")):
        path = tmp_path / name
        os.mkfifo(path) if name == "pipe" else path.write_bytes(b"\x1f\x8b")
        with pytest.raises((OSError, ValueError), match=message), open_text(path):
            pass


def test_names_are_given_to_tables_without_a_header(tmp_path):
    path = write(tmp_path / "a.tsv", "\ufeffHallo\thello\n")
    assert list(read_rows(path, ["de", "en"])) == [{"de": "Hallo", "en": "hello"}]


def test_a_column_that_looks_like_several():
    assert "separated by semicolons: write commas" in separator_hint(["text;label"])
    assert "tabs" in separator_hint(["text\tlabel"])
    assert separator_hint(["text"]) == separator_hint(["a;b", "c"]) == ""
