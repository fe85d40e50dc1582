"""Where text comes from: documents of bytes, from files, folders or the Hub."""

import errno
import os
import sys
import sysconfig
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from reformer_hf.training.arguments import CorpusArguments

_PROBE = 8192  # bytes in which a NUL marks a file as binary, as git does it


class Document(NamedTuple):
    """A piece of text with a name that is the same on every machine."""

    name: str
    content: np.ndarray  # uint8; of a file, a view of the disk


@dataclass(frozen=True)
class Corpus:
    """A source of documents.

    Attributes:
        description: what it is, for records and cards.
        documents: starts a new pass over the documents, in the same order each time.
    """

    description: str
    documents: Callable[[], Iterator[Document]]


def open_corpus(arguments: CorpusArguments, exclude: Path | None = None) -> Corpus:
    """Choose the source that the arguments name.

    Args:
        arguments: which corpus.
        exclude: a folder to leave out, such as the run's own output.

    Raises:
        OSError: if the corpus can be found neither here nor on the Hub.
        ValueError: if it holds no text.
    """
    if arguments.corpus is None:
        return _standard_library()
    path = Path(arguments.corpus).expanduser()
    if path.is_dir():
        files = [file for file in _walk(path) if not _is_inside(file, exclude)]
        return Corpus(f"the text files in {path.name or path}", lambda: _folder(path, files))
    if path.exists():
        return Corpus(f"the file {path.name}", lambda: iter([_file(path, path.name)]))
    return _hub_dataset(arguments)


def _standard_library() -> Corpus:
    root = Path(sysconfig.get_path("stdlib"))
    files = [
        file
        for file in _walk(root)
        if file.suffix == ".py" and not {"site-packages", "dist-packages"} & set(file.parts)
    ]
    version = ".".join(map(str, sys.version_info[:3]))
    return Corpus(
        f"the source of Python {version}'s standard library", lambda: _folder(root, files)
    )


def _walk(root: Path) -> list[Path]:
    """List the files below a folder by relative path, hidden ones left out."""
    found = []
    for folder, subfolders, names in os.walk(root, onerror=_raise):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        found += [Path(folder, name) for name in names if not name.startswith(".")]
    return sorted(found, key=lambda file: file.relative_to(root).as_posix())


def _raise(error: OSError) -> None:
    raise error


def _is_inside(file: Path, folder: Path | None) -> bool:
    return folder is not None and file.resolve().is_relative_to(folder.resolve())


def _folder(root: Path, files: list[Path]) -> Iterator[Document]:
    """Read the files that are text; binary and empty ones are left out."""
    found_text = False
    for file in files:
        content = _read(file)
        if content.size and not _is_binary(content):
            found_text = True
            yield Document(file.relative_to(root).as_posix(), content)
    if not found_text:
        raise ValueError(
            f"corpus {root}: none of its {len(files)} files is text "
            "(each is empty or has NUL bytes); name a folder of text files"
        )


def _file(path: Path, name: str) -> Document:
    content = _read(path)
    if not content.size:
        raise ValueError(f"corpus {path}: the file is empty (0 bytes); name a file with text")
    if _is_binary(content):
        raise ValueError(
            f"corpus {path}: {content.size:,} bytes, but binary (a NUL byte near its start); "
            "name a text file, or convert UTF-16 to UTF-8"
        )
    return Document(name, content)


def _read(path: Path) -> np.ndarray:
    try:
        if path.stat().st_size == 0:
            return np.empty(0, np.uint8)
        return np.memmap(path, np.uint8, mode="r")
    except OSError as error:
        reason = f"cannot read this part of the corpus ({error.strerror}); remove it or mend it"
        raise OSError(error.errno, reason, str(path)) from error


def _is_binary(content: np.ndarray) -> bool:
    return bool((content[:_PROBE] == 0).any())


def _hub_dataset(arguments: CorpusArguments) -> Corpus:
    import datasets

    name, column = str(arguments.corpus), arguments.text_column_name
    try:
        rows = datasets.load_dataset(name, arguments.dataset_config_name, split="train")
    except Exception as error:  # offline, unknown, no such split: datasets has a class for each
        raise OSError(
            errno.ENOENT,
            "no such file or folder, and no dataset of that name could be loaded from the Hub "
            f"({type(error).__name__}: {error}). Check the spelling and the connection, or leave "
            "out --corpus to train on Python's standard library",
            name,
        ) from error
    if column not in rows.column_names:
        raise ValueError(
            f"text_column_name={column!r}: dataset {name} has the columns {rows.column_names}"
        )
    return Corpus(f"the Hub dataset {name}", lambda: _rows(rows, column))


def _rows(rows, column: str) -> Iterator[Document]:
    for index, row in enumerate(rows):
        content = np.frombuffer((row[column] or "").encode(), np.uint8)
        if content.size:
            yield Document(f"train/{index}", content)
