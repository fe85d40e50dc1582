"""Pieces of Python source, labelled with the library that they are from.

The libraries are installed with this package. Files are chosen and split by a hash of their names,
so that a library gives the same files wherever it is installed in the same version.
"""

import hashlib
import importlib.metadata
import importlib.util
from pathlib import Path
from typing import NamedTuple

import numpy as np

LIBRARIES = ("matplotlib", "networkx", "numpy", "pandas", "sympy", "torch", "transformers")


class Pieces(NamedTuple):
    """Rows of bytes and the number of their library."""

    bytes: np.ndarray  # uint8, (rows, length)
    labels: np.ndarray  # int64, (rows,)


def load_pieces(length: int, train_rows: int, held_out_rows: int) -> tuple[Pieces, Pieces]:
    """Cut one piece out of the middle of each of some files of each library.

    Args:
        length: bytes of a piece.
        train_rows: pieces of each library to train on.
        held_out_rows: pieces of each library to test on, of other files.

    Returns:
        Training and held-out pieces.

    Raises:
        ValueError: if a library has too few files of that length.
    """
    parts: tuple[list, list] = ([], [])
    for label, library in enumerate(LIBRARIES):
        pieces = _pieces_of(library, length, train_rows + held_out_rows)
        parts[0].append((pieces[:train_rows], label))
        parts[1].append((pieces[train_rows:], label))
    train, held_out = (
        Pieces(
            np.concatenate([pieces for pieces, _ in part]),
            np.concatenate([np.full(len(pieces), label) for pieces, label in part]),
        )
        for part in parts
    )
    return train, held_out


def describe() -> dict[str, str]:
    """The libraries and their versions."""
    return {library: importlib.metadata.version(library) for library in LIBRARIES}


def byte_pair_bayes(train: Pieces, held_out: Pieces) -> float:
    """Accuracy of naive Bayes on counts of pairs of neighbouring bytes, smoothed by one."""
    kinds = len(LIBRARIES)
    counts = np.ones((kinds, 2**16))
    for row, label in zip(train.bytes, train.labels, strict=True):
        counts[label] += np.bincount(_pairs(row), minlength=2**16)
    logs = np.log(counts / counts.sum(axis=1, keepdims=True))
    scores = np.stack([logs[:, _pairs(row)].sum(axis=1) for row in held_out.bytes])
    return float((scores.argmax(axis=1) == held_out.labels).mean())


def _pairs(row: np.ndarray) -> np.ndarray:
    return row[:-1].astype(np.int64) * 256 + row[1:]


def _pieces_of(library: str, length: int, count: int) -> np.ndarray:
    spec = importlib.util.find_spec(library)
    if spec is None or spec.origin is None:
        raise ValueError(f"{library} is not installed; it comes with this package's extras")
    root = Path(spec.origin).parent
    names = (path.relative_to(root).as_posix() for path in root.rglob("*.py"))
    pieces = []
    for name in sorted(names, key=lambda name: hashlib.sha256(name.encode()).digest()):
        content = (root / name).read_bytes()
        if len(content) >= length:
            first = (len(content) - length) // 2
            pieces.append(np.frombuffer(content, np.uint8, length, first))
        if len(pieces) == count:
            return np.stack(pieces)
    raise ValueError(f"{library}: {len(pieces)} files of {length} bytes or more, not {count}")
