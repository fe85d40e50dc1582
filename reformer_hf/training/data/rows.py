"""Rows to train and evaluate on: how they are held out, limited, shuffled and shared out."""

import math
from collections.abc import Callable, Iterator
from typing import Any, SupportsIndex

import numpy as np
import torch
from datasets import Dataset, IterableDataset
from torch.utils.data import Dataset as TorchDataset
from torch.utils.data import IterableDataset as TorchIterableDataset
from torch.utils.data import Sampler, Subset
from transformers.trainer_pt_utils import get_length_grouped_indices
from transformers.utils import logging

from reformer_hf.training.data.bytes import ByteRows, row_number
from reformer_hf.training.data.collator import IGNORE_INDEX

logger = logging.get_logger(__name__)

BlankRow = Callable[[dict[str, Any]], dict[str, Any]]


def split_validation(rows: Any, percentage: int) -> tuple[Any, Any]:
    """Hold out a share of the rows.

    Args:
        rows: on the disk: the first ones are held out, as in transformers' example scripts, or of a
            bytes the last ones, or whole files of many. A stream: the first ones of each hundred.
        percentage: their share; on the disk at least one row.

    Returns:
        Rows to train on, and rows held out.

    Raises:
        ValueError: if there is only one row.
    """
    if isinstance(rows, ByteRows):
        return rows.split(percentage)
    if isinstance(rows, IterableDataset):
        return tuple(
            rows.filter(lambda _, i, held=held: (i % 100 < percentage) == held, with_indices=True)
            for held in (False, True)
        )  # type: ignore[return-value]
    count = len(rows)
    if count < 2:
        raise ValueError(
            f"the data are {count} rows, and none is left to hold out: give a validation file, "
            "more text or a smaller block_size"
        )
    held_out = min(max(1, count * percentage // 100), count - 1)
    return rows.select(range(held_out, count)), rows.select(range(held_out))


def first_rows(rows: Any, count: int | None) -> Any:
    """Keep at most `count` rows, the first ones; all if None."""
    if count is None:
        return rows
    if isinstance(rows, IterableDataset):
        return rows.take(count)
    count = min(count, len(rows))
    return rows.select(range(count)) if isinstance(rows, Dataset) else Subset(rows, range(count))


def spread_rows(rows: Any, count: int | None) -> Any:
    """Keep at most `count` rows, evenly spread over all of them; all if None."""
    if count is None or rows is None:
        return rows
    count = min(count, len(rows))
    return Subset(rows, [index * len(rows) // count for index in range(count)])


def check_length(name: str, rows: Any, block_size: int) -> None:
    """Say if all the data are shorter than a row could be; of a stream it is not known.

    Raises:
        ValueError: if they are one token.
    """
    if rows is None or isinstance(rows, IterableDataset) or len(rows) != 1:
        return
    length = len(rows[0]["input_ids"])
    if length < 2:
        raise ValueError(f"the {name} data are one token, and nothing predicts it: give more")
    if length < block_size:
        logger.warning(
            f"block_size={block_size}: all the {name} data are one row of {length} tokens, and "
            "longer texts are never seen; give more data, or a smaller block_size"
        )


def blank_row(row: dict[str, Any]) -> dict[str, Any]:
    """Make a row of one token without a label, with the columns of a given row."""
    blank = {name: values[:1] for name, values in row.items()}
    return {**blank, "labels": [IGNORE_INDEX]}


def blank_labelled_row(row: dict[str, Any]) -> dict[str, Any]:
    """The same for rows whose labels are their own: classes, numbers, tokens of a target, or none.

    Args:
        row: with `labels`: a class, a number, a list of numbers or of classes of tokens; or none.

    Returns:
        Lists are cut to the first token. In place of the labels stand -100 or, where they are
        numbers, NaN.

    Raises:
        ValueError: if labels have another name, since they would count.
    """
    if others := sorted({"label", "label_ids"} & row.keys()):
        raise ValueError(f"rows with a column {others[0]!r}: rename it to 'labels'")
    blank = {name: value[:1] if isinstance(value, list) else value for name, value in row.items()}
    return {**blank, "labels": _no_label(row["labels"])} if "labels" in row else blank


def _no_label(labels: Any) -> Any:
    if isinstance(labels, torch.Tensor | np.ndarray | np.generic):  # of rows with a format
        labels = labels.tolist()
    if not isinstance(labels, list):
        return math.nan if isinstance(labels, float) else IGNORE_INDEX
    blank = [_no_label(each) for each in labels]
    return blank if isinstance(labels[0], float) else blank[:1]


class FilledRows(TorchDataset):
    """Rows, and blank ones behind them which have no label and so change nothing.

    With them the number of rows is a multiple of what all processes take at a time, and none of
    them has to see a row twice.

    Args:
        rows: of any length.
        multiple: what the number of rows is rounded up to.
        blank: makes a blank row of another one.

    Attributes:
        total_dataset_length: rows without blank ones; accelerate's `gather_for_metrics` looks for
            it, and leaves the blank ones out.
    """

    def __init__(self, rows: Any, multiple: int, blank: BlankRow = blank_row):
        self.rows, self.blank = rows, blank
        self.length = -(-len(rows) // multiple) * multiple
        self.total_dataset_length = len(rows)

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: SupportsIndex) -> dict[str, Any]:
        number = row_number(index, self.length)
        return self.rows[number] if number < len(self.rows) else self.blank(self.rows[0])

    def lengths(self, column: str) -> list[int]:
        """Tokens of each row but the blank ones: what a column of that name says, or counted."""
        if column in (getattr(self.rows, "column_names", None) or ()):
            return list(self.rows[column])
        return [len(self.rows[index]["input_ids"]) for index in range(len(self.rows))]


class FilledStream(TorchIterableDataset):
    """A stream with blank rows behind it, up to a multiple; see `FilledRows`.

    Args:
        rows: a stream that starts anew each time.
        multiple: what the number of rows is rounded up to.
        blank: makes a blank row of another one.
    """

    def __init__(self, rows: Any, multiple: int, blank: BlankRow = blank_row):
        self.rows, self.multiple, self.blank = rows, multiple, blank

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of an epoch."""
        self.rows.set_epoch(epoch)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        count, row = 0, None
        for row in self.rows:
            count += 1
            yield row
        if row is not None:
            yield from [self.blank(row)] * (-count % self.multiple)


def fill(rows: Any, multiple: int, blank: BlankRow = blank_row) -> Any:
    """Put blank rows behind rows of either kind."""
    kind = FilledStream if isinstance(rows, IterableDataset) else FilledRows
    return kind(rows, multiple, blank)


class ShuffledRows(Sampler[int]):
    """The rows in an order that the seed and the epoch decide, blank ones last.

    The order does not depend on the number of processes, on what else draws random numbers, or on
    where a run was interrupted.

    Args:
        rows: what :class:`FilledRows` wraps.
        seed: of the order.
        lengths: of the rows, to put rows of about the same length side by side; any order if None.
        together: rows that share a step, for which that matters.
    """

    def __init__(
        self, rows: FilledRows, seed: int, lengths: list[int] | None = None, together: int = 1
    ):
        self.real, self.length, self.seed = len(rows.rows), len(rows), seed
        self.lengths, self.together = lengths, together
        self.epoch = 0

    def __len__(self) -> int:
        return self.length

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of an epoch."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        if self.lengths is None:
            yield from torch.randperm(self.real, generator=generator).tolist()
        elif self.lengths:
            yield from get_length_grouped_indices(self.lengths, self.together, generator=generator)
        yield from range(self.real, self.length)
