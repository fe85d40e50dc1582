"""Pieces of rows, and the batches of a run whose rows grow with its steps."""

from collections.abc import Iterator
from itertools import islice
from typing import Any, NamedTuple, SupportsIndex

import torch
from torch.utils.data import Dataset, Sampler

from reformer_hf.training.data.bytes import row_number
from reformer_hf.training.data.collator import IGNORE_INDEX
from reformer_hf.training.row_schedule import RowSchedule


class Piece(NamedTuple):
    """Consecutive tokens of a row, from `start` up to `stop`; none for a blank row."""

    row: int
    start: int
    stop: int


class RowPieces(Dataset):
    """Rows of one length, of which pieces can be asked for as well.

    A piece has the columns of its row. Those that have a value for each token are cut. So a piece
    that begins within a document begins it anew, and nothing predicts its first token.

    Args:
        rows: that have numbers; each with `input_ids`.
        block_size: tokens in each row but the last one, which may be shorter.

    Raises:
        ValueError: if the rows are a stream, have other lengths or hold nothing to predict.
    """

    def __init__(self, rows: Any, block_size: int):
        if not hasattr(rows, "__len__"):
            raise ValueError(
                "row_lengths with a stream, whose rows have no numbers: leave streaming out"
            )
        self.rows, self.block_size = rows, block_size
        self.last_length = len(rows[len(rows) - 1]["input_ids"]) if len(rows) else 0
        if len(rows) < 2 and self.last_length < 2:
            raise ValueError("the training data hold nothing to predict: give more text")
        for number in {0, len(rows) - 1}:
            self._check_length(number, len(rows[number]["input_ids"]))

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def tokens(self) -> int:
        """Tokens in all rows."""
        return (len(self) - 1) * self.block_size + self.last_length

    def length(self, number: int) -> int:
        """Tokens in a row."""
        return self.last_length if number == len(self) - 1 else self.block_size

    def __getitem__(self, index: Piece | SupportsIndex) -> dict[str, Any]:
        if not isinstance(index, Piece):
            return self.rows[row_number(index, len(self))]
        row = self.rows[index.row]
        if index.start == index.stop:
            return cut_row(row, 0, 1) | {"labels": [IGNORE_INDEX]}
        self._check_length(index.row, len(row["input_ids"]))
        return cut_row(row, index.start, index.stop)

    def _check_length(self, number: int, found: int) -> None:
        last = number == len(self) - 1
        if found > self.block_size or (found < self.block_size and not last):
            raise ValueError(
                f"row_lengths with rows of {found} tokens (row {number}) where the last length is "
                f"{self.block_size}: give rows of that length, such as packing='documents' or "
                "'blocks' makes with block_size"
            )


def cut_row(row: dict[str, Any], start: int, stop: int) -> dict[str, Any]:
    """Cut what a row has for each token from `start` up to `stop`; keep the rest."""
    count = len(row["input_ids"])
    return {
        name: values[start:stop] if _is_per_token(values, count) else values
        for name, values in row.items()
    }


def _is_per_token(values: Any, count: int) -> bool:
    """Say whether a column of a row has one value for each of its `count` tokens."""
    if isinstance(values, str) or getattr(values, "ndim", 1) == 0:
        return False
    return hasattr(values, "__len__") and len(values) == count


class PieceBatches(Sampler[list[Piece]]):
    """The batches of a run whose rows grow, from its first step to its last: a `batch_sampler`.

    Seed and pass decide the order of the rows, as in `ShuffledRows`. Each length of the schedule
    cuts the rows that come next and shuffles their pieces. It takes as many rows as it needs; of
    more data than the run needs as many times more, so that pieces come from all over. When all
    rows have been taken they are shuffled anew, so no token is seen twice in a pass. What is left
    of a row when its length ends is not seen in that pass.

    Nothing else decides the order: with another number of batches a step has the same pieces, and
    a run goes on by leaving out the batches that it has seen. accelerate's `prepare` shares batches
    out among processes.

    Args:
        rows: to cut.
        schedule: of the run.
        seed: of the order.
        batches_per_step: processes times forward passes in a step. Each batch has about the same
            number of pieces, or a blank row where there are too few.
        multiple: of which the rows of a batch are made with blank ones, for a process with several
            devices.
    """

    def __init__(
        self,
        rows: RowPieces,
        schedule: RowSchedule,
        seed: int,
        batches_per_step: int = 1,
        multiple: int = 1,
    ):
        self.rows, self.schedule, self.seed = rows, schedule, seed
        self.batches_per_step, self.multiple = batches_per_step, multiple

    def __len__(self) -> int:
        return self.schedule.max_steps * self.batches_per_step

    def __iter__(self) -> Iterator[list[Piece]]:
        blank, count = Piece(0, 0, 0), self.batches_per_step
        for pieces in self.steps():
            borders = [len(pieces) * part // count for part in range(count + 1)]
            for start, stop in zip(borders, borders[1:], strict=False):
                missing = -(stop - start) % self.multiple if stop > start else self.multiple
                yield pieces[start:stop] + [blank] * missing

    def steps(self) -> Iterator[list[Piece]]:
        """The pieces of each step."""
        pieces = self._pieces()
        for steps, rows, _ in self.schedule.phases:
            for _ in range(steps):
                yield list(islice(pieces, rows))

    def tokens(self, steps: int) -> int:
        """Tokens of the first `steps` steps, counted."""
        return sum(p.stop - p.start for step in islice(self.steps(), steps) for p in step)

    def passes(self, steps: int) -> float:
        """Passes over the data in the first `steps` steps."""
        return self.schedule.tokens(steps) / self.rows.tokens

    def _pieces(self) -> Iterator[Piece]:
        """All pieces of the run, as many for each length as its steps take."""
        generator, rows, number = torch.Generator(), [], 0
        phases = [
            (steps * rows_per_step, self.rows.block_size // length, length)
            for steps, rows_per_step, length in self.schedule.phases
        ]
        needed = sum(-(-pieces // in_a_row) for pieces, in_a_row, _ in phases)
        spread = max(1, len(self.rows) // needed)
        for missing, in_a_row, length in phases:
            while missing:
                if not rows:
                    generator.manual_seed(self.seed + number)
                    rows = torch.randperm(len(self.rows), generator=generator).tolist()
                    number += 1
                count = min(len(rows), spread * -(-missing // in_a_row))
                taken, rows = rows[:count], rows[count:]
                for piece in islice(self._cut(taken, length, generator), missing):
                    missing -= 1
                    yield piece

    def _cut(self, rows: list[int], length: int, generator: torch.Generator) -> Iterator[Piece]:
        """Cut rows into pieces and shuffle these; a single token at an end is left out."""
        in_a_row = self.rows.block_size // length
        order = range(len(rows))
        if in_a_row > 1:  # whole rows are shuffled already
            order = torch.randperm(len(rows) * in_a_row, generator=generator).tolist()
        for index in order:
            row, start = rows[index // in_a_row], index % in_a_row * length
            stop = min(start + length, self.rows.length(row))
            if stop - start > 1:
                yield Piece(row, start, stop)
