"""What stands in people's files, with Python's own `open`, `csv` and `json`: nothing is guessed."""

import codecs
import csv
import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from transformers.utils import logging

logger = logging.get_logger(__name__)

_COMPRESSED = {".gz", ".bz2", ".xz", ".zst", ".zip", ".7z"}
_OTHER_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE, codecs.BOM_UTF32_BE)
_LONGEST_FIELD = (1 << 31) - 1  # characters; csv's own limit is 131,072, a mere chapter
_HALF = re.compile(r"\\u[dD]")


@contextmanager
def open_text(path: Path) -> Iterator[TextIO]:
    """Open a UTF-8 file: without its byte-order mark, with its line ends as they stand.

    Args:
        path: of the file.

    Raises:
        OSError: if it cannot be opened.
        ValueError: if it is compressed or, also later while it is read, not UTF-8.
    """
    if path.suffix.lower() in _COMPRESSED:
        raise ValueError(f"{path}: a compressed file; unpack it first")
    if path.exists() and not path.is_file():
        raise OSError(f"{path}: a pipe or a folder; name a file, which may be read twice")
    with path.open("rb") as file:
        if file.read(4).startswith(_OTHER_MARKS):
            raise ValueError(f"{path}: byte 0: UTF-16 or UTF-32 text; save the file as UTF-8")
    with path.open(encoding="utf-8-sig", newline="") as file:
        try:
            yield file
        except UnicodeDecodeError as error:
            raise ValueError(not_utf8(path) or f"{path}: not UTF-8 ({error})") from None


def not_utf8(path: Path) -> str | None:
    """Say where a file stops being UTF-8, if it does; a decoder counts from its buffer's begin.

    Args:
        path: of the file.
    """
    offset = 0
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                line.decode()
            except UnicodeDecodeError as error:
                return (
                    f"{path}: byte {offset + error.start:,} (0x{line[error.start]:02x}, line "
                    f"{number:,}) is not UTF-8 text; save the file as UTF-8"
                )
            offset += len(line)


def read_rows(path: Path, columns: Sequence[str] | None = None) -> Iterator[dict[str, Any]]:
    """Read a file of rows as Python's `csv` and `json` do; every field of a table is text.

    A .csv file is separated by commas and quoted. A .tsv file is separated by tabs, and quotation
    marks are text. A .jsonl or .ndjson file has an object in each line; a .json file, too, or it is
    an array of objects, or one object whose `data` is such an array.

    Args:
        path: of the file.
        columns: names for a table without a header line.

    Yields:
        A row, by column.

    Raises:
        OSError: if the file cannot be opened.
        ValueError: if it is malformed, holds no row, or has another ending.
    """
    readers = {
        **dict.fromkeys((".csv", ".tsv"), _read_table),
        **dict.fromkeys((".jsonl", ".ndjson"), _read_lines),
        ".json": _read_json,
    }
    read = readers.get(path.suffix.lower())
    if read is None:
        raise ValueError(
            f"{path}: ends with {path.suffix!r}; give a file of rows: "
            f"{', '.join(readers)}, .parquet"
        )
    row = None
    for row in read(path, columns):
        yield row
    if row is None:
        raise ValueError(f"{path}: holds no row; remove the file, or put rows into it")


def _read_table(path: Path, names: Sequence[str] | None) -> Iterator[dict[str, str]]:
    is_tsv = path.suffix.lower() == ".tsv"
    for place, fields in read_fields(path):
        if names is None:
            names = _check_header(fields, place)
            continue
        if len(fields) != len(names):
            raise ValueError(
                f"{place}: {len(fields)} fields, and there are {len(names)} columns "
                f"({', '.join(map(repr, names[:5]))}); mend the line"
            )
        if is_tsv and any(re.fullmatch('(?s)".*"', field) for field in fields):
            logger.warning_once(
                f"{path}: fields begin and end with quotation marks, which are text in a .tsv "
                "file; write it without, or as .csv"
            )
        yield dict(zip(names, fields, strict=True))


def read_fields(path: Path) -> Iterator[tuple[str, list[str]]]:
    """The place and the fields of each line of a table that is not blank, the header too.

    Args:
        path: of a .csv or .tsv file.

    Raises:
        OSError: if it cannot be opened.
        ValueError: if it is malformed.
    """
    is_tsv = path.suffix.lower() == ".tsv"
    dialect: Any = {"delimiter": "\t", "quoting": csv.QUOTE_NONE} if is_tsv else {"strict": True}
    with open_text(path) as file:
        rows = csv.reader(file, **dialect)
        while True:
            place = f"{path}: line {rows.line_num + 1:,}"
            try:
                fields = _next_fields(rows)
            except csv.Error as error:
                raise ValueError(
                    f"{place}: {error}; put fields with commas, quotation marks or line ends into "
                    "quotation marks, and double those inside"
                ) from None
            if fields is None:
                return
            if fields:
                yield place, fields


def _next_fields(rows: Any) -> list[str] | None:
    limit = csv.field_size_limit(_LONGEST_FIELD)  # of the whole process, so it is put back
    try:
        return next(rows, None)
    finally:
        csv.field_size_limit(limit)


def _check_header(names: list[str], place: str) -> list[str]:
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"{place}: two columns are named {twice!r}; give each its own name")
    return names


def _read_lines(path: Path, _: Any) -> Iterator[dict[str, Any]]:
    with open_text(path) as file:
        for number, line in enumerate(file, 1):
            if line.strip(" \t\r\n"):
                place = f"{path}: line {number:,}"
                yield _check_row(_parse(line, place), place, _has_halves(line))


def _read_json(path: Path, _: Any) -> Iterator[dict[str, Any]]:
    with open_text(path) as file:
        lines = (line for line in file if line.strip(" \t\r\n"))
        try:
            is_object = isinstance(json.loads(next(lines, "")), dict)
        except (ValueError, RecursionError):
            is_object = False
        has_lines = is_object and next(lines, None) is not None
    if has_lines:
        yield from _read_lines(path, None)
        return
    with open_text(path) as file:
        text = file.read()
    if text.strip(" \t\r\n"):
        has_halves = _has_halves(text)
        for number, row in enumerate(_rows_of(_parse(text, str(path)), path), 1):
            yield _check_row(row, f"{path}: row {number:,}", has_halves)


def _rows_of(content: Any, path: Path) -> list[Any]:
    """The rows of a whole JSON file."""
    if not isinstance(content, dict):
        return content if isinstance(content, list) else [content]
    data = content.get("data")
    if not (isinstance(data, list) and data and isinstance(data[0], dict)):
        return [content]
    others = sorted(content.keys() - {"data", "version"})
    if others:
        raise ValueError(
            f"{path}: one object with a list 'data' beside {', '.join(others)}: unclear which are "
            "the rows; write an array of them"
        )
    return data


def _parse(text: str, place: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{place}: no JSON ({error}); write an object per line or, in a .json file, an array "
            "of objects"
        ) from None


def _has_halves(text: str) -> bool:
    r"""Whether JSON has escapes from \ud800 on, of which two are one character."""
    return _HALF.search(text) is not None


def _check_row(row: Any, place: str, has_halves: bool) -> dict[str, Any]:
    if not isinstance(row, dict):
        raise ValueError(
            f"{place}: holds {shorten(row)}, no object; write {{'column': value}} in JSON"
        )
    if has_halves:
        try:
            json.dumps(row, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            code = ord(error.object[error.start])
            raise ValueError(
                f"{place}: \\u{code:04x} is half a character; write both halves, or none"
            ) from None
    return row


def text_of(value: Any, place: str) -> str:
    """A value that must be text.

    Raises:
        ValueError: naming the place and the value, if it is none.
    """
    if not isinstance(value, str):
        raise ValueError(
            f"{place} holds {shorten(value)}, no text: write it as text, remove the row, or name "
            "another column"
        )
    return value


def shorten(value: Any) -> str:
    """A value for a message."""
    text = "null" if value is None else repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def separator_hint(names: Sequence[str]) -> str:
    """What to add to a message about a missing column, if the one column looks like several."""
    marks = {";": "semicolons", "\t": "tabs", "|": "bars"}
    found = [word for mark, word in marks.items() if len(names) == 1 and mark in names[0]]
    advice = "write commas in a .csv file, or tabs in a .tsv file"
    return f"; the file seems to be separated by {found[0]}: {advice}" if found else ""
