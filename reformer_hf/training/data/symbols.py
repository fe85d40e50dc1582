"""Rows of tokens as the bytes that they stand for, or as numbers: what can be counted."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from datasets import IterableDataset

from reformer_hf.training.data.token_bytes import TokenBytes

_PIECE = 1 << 20  # tokens at a time, which bounds the memory
_GOLDEN = (math.sqrt(5) - 1) / 2


class Symbols(NamedTuple):
    """Texts as numbers, side by side.

    Attributes:
        codes: the symbols, (symbols,).
        before: how many symbols of its text stand before each, (symbols,).
        scored: whether a causal model is asked for it, (symbols,).
    """

    codes: np.ndarray
    before: np.ndarray
    scored: np.ndarray


def byte_symbols(rows: Sequence[Mapping[str, Any]], known: TokenBytes) -> Symbols:
    """The bytes of rows.

    A text begins with a row, with a document in it, and behind a token without bytes. The first
    token of a row or document is not scored, as nothing predicts it.

    Args:
        rows: with `input_ids`, and `seq_idx` where they hold documents.
        known: what the tokens stand for.
    """
    ids, begins = _tokens(rows)
    vocabulary = known.sizes.numpy()
    ids = ids.clip(0, len(vocabulary) - 1)
    sizes, starts = vocabulary[ids], (np.cumsum(vocabulary) - vocabulary)[ids]
    if known.adds_space and known.begin is not None:  # the space in front is no byte of the text
        is_space = _after(ids == known.begin) & ~begins & (sizes > 0)
        sizes, starts = sizes - is_space, starts + is_space
    first = np.cumsum(sizes) - sizes
    places = np.arange(sizes.sum())
    codes = known.joined[places + np.repeat(starts - first, sizes)]
    text_starts = np.maximum.accumulate(np.where(begins | _after(sizes == 0), first, 0))
    before = places - np.repeat(text_starts, sizes)
    return Symbols(codes.astype(np.int64), before, np.repeat(~begins, sizes))


def token_symbols(rows: Sequence[Mapping[str, Any]], left_out: Iterable[int] = ()) -> Symbols:
    """The tokens of rows, but those that are left out; a text is a row or a document in it."""
    ids, begins = _tokens(rows)
    places = np.arange(len(ids))
    before = places - np.maximum.accumulate(np.where(begins, places, 0))
    kept = ~np.isin(ids, list(left_out))
    return Symbols(ids[kept], before[kept], ~begins[kept])


def spread(rows: Any) -> Iterator[Mapping[str, Any]]:
    """All rows, in an order of which every beginning is spread evenly; a stream as it comes."""
    if isinstance(rows, IterableDataset):
        yield from rows
        return
    count = len(rows)
    step = max(1, round(count * _GOLDEN))
    while math.gcd(step, count) > 1:
        step += 1
    for index in range(count):
        yield rows[index * step % count]


def pieces(rows: Iterable[Mapping[str, Any]]) -> Iterator[list[Mapping[str, Any]]]:
    """Rows together, of about a million tokens."""
    together, tokens = [], 0
    for row in rows:
        together.append(row)
        tokens += len(row["input_ids"])
        if tokens >= _PIECE:
            yield together
            together, tokens = [], 0
    if together:
        yield together


def _tokens(rows: Sequence[Mapping[str, Any]]) -> tuple[np.ndarray, np.ndarray]:
    """Ids, and which of them are the first of a row or of a document."""
    parts = [np.asarray(row["input_ids"], np.int64) for row in rows]
    ids = np.concatenate(parts)
    begins = np.zeros(len(ids), bool)
    if "seq_idx" in rows[0]:
        begins = np.diff(np.concatenate([row["seq_idx"] for row in rows]), prepend=0) != 0
    lengths = np.array([len(part) for part in parts])
    begins[(np.cumsum(lengths) - lengths)[lengths > 0]] = True
    return ids, begins


def _after(marks: np.ndarray) -> np.ndarray:
    """Which places stand behind a marked one."""
    return np.concatenate([[False], marks[:-1]])
