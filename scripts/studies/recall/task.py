"""Rows in which something far back is asked for: pairs of a key and a value, or a text to copy."""

from typing import NamedTuple

import torch
from torch import Generator, Tensor

SYMBOLS = 64
"""Symbols of each alphabet: keys, values and filler."""

KEYS, VALUES, FILLER, COPY_MARK = 0, SYMBOLS, 2 * SYMBOLS, 3 * SYMBOLS
"""First symbol of each alphabet, and the one that says that the copy begins."""

VOCABULARY = 3 * SYMBOLS + 1
IGNORED = -100
"""Target of a place that is not asked for anything."""


class Rows(NamedTuple):
    """A batch.

    Attributes:
        ids: tokens, (rows, seq).
        targets: token that each place is to predict, (rows, seq); `IGNORED` where none is.
    """

    ids: Tensor
    targets: Tensor


class Size(NamedTuple):
    """Sizes of the rows of a task.

    Attributes:
        count: pairs, or symbols to copy.
        stretch: tokens over which the pairs are scattered. What is copied stands in one piece, at
            a random place of the stretch.
        distance: tokens of filler between the stretch and the first question.
    """

    count: int
    stretch: int
    distance: int


def recall_rows(size: Size, rows: int, generator: Generator) -> Rows:
    """Pairs of a key and a value, filler, then every key again, in another order.

    Each key stands once before it is asked for. At its place the value is to be predicted, which
    follows it there, too: key, value, key, value. Values are drawn with repetition, so that a
    guess is right once in `SYMBOLS` times.

    Args:
        size: `count` pairs; at most `SYMBOLS`, and half as many as the stretch has tokens.
        rows: of the batch.
        generator: of all draws.

    Returns:
        Rows of `stretch + distance + 2 * count` tokens.

    Raises:
        ValueError: if the pairs do not fit.
    """
    count, stretch, distance = size
    if not 1 <= count <= min(SYMBOLS, stretch // 2):
        raise ValueError(
            f"count={count} pairs: give 1 to {min(SYMBOLS, stretch // 2)}, of {SYMBOLS} keys and a "
            f"stretch of {stretch} tokens"
        )
    keys = KEYS + _choices(rows, SYMBOLS, count, generator)
    values = torch.randint(VALUES, VALUES + SYMBOLS, (rows, count), generator=generator)
    ids = _filler(rows, stretch + distance + 2 * count, generator)
    places = 2 * _choices(rows, stretch // 2, count, generator)
    ids.scatter_(1, places, keys).scatter_(1, places + 1, values)
    order = _choices(rows, count, count, generator)
    ids[:, stretch + distance :: 2] = keys.gather(1, order)
    ids[:, stretch + distance + 1 :: 2] = values.gather(1, order)
    targets = torch.full_like(ids, IGNORED)
    targets[:, stretch + distance :: 2] = values.gather(1, order)
    return Rows(ids, targets)


def copy_rows(size: Size, rows: int, generator: Generator) -> Rows:
    """Different symbols in one piece, filler, a mark, then the same symbols again.

    Each symbol of the copy but the first is to be predicted, at the one before it.

    Args:
        size: `count` symbols; at least 2, at most `SYMBOLS` and as many as the stretch has tokens.
        rows: of the batch.
        generator: of all draws.

    Returns:
        Rows of `stretch + distance + 1 + count` tokens.

    Raises:
        ValueError: if the symbols do not fit.
    """
    count, stretch, distance = size
    if not 2 <= count <= min(SYMBOLS, stretch):
        raise ValueError(
            f"count={count} symbols to copy: give 2 to {min(SYMBOLS, stretch)}, of {SYMBOLS} "
            f"symbols and a stretch of {stretch} tokens"
        )
    text = KEYS + _choices(rows, SYMBOLS, count, generator)
    ids = _filler(rows, stretch + distance + 1 + count, generator)
    start = torch.randint(stretch - count + 1, (rows, 1), generator=generator)
    ids.scatter_(1, start + torch.arange(count), text)
    ids[:, stretch + distance] = COPY_MARK
    ids[:, -count:] = text
    targets = torch.full_like(ids, IGNORED)
    targets[:, -count:-1] = text[:, 1:]
    return Rows(ids, targets)


TASKS = {"recall": recall_rows, "copy": copy_rows}


def row_length(task: str, size: Size) -> int:
    """Tokens of a row of a task."""
    count, stretch, distance = size
    return stretch + distance + (2 * count if task == "recall" else 1 + count)


def _filler(rows: int, seq: int, generator: Generator) -> Tensor:
    return torch.randint(FILLER, FILLER + SYMBOLS, (rows, seq), generator=generator)


def _choices(rows: int, total: int, count: int, generator: Generator) -> Tensor:
    """Different numbers below a total, in random order, for each row."""
    return torch.rand(rows, total, generator=generator).argsort(dim=1)[:, :count]
