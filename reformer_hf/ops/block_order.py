"""The order in which the blocks of the long order are computed, the same in both directions."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from jaxtyping import Int

from reformer_hf.ops.long_order import LongOrder


class Sizes(NamedTuple):
    """How much is computed at a time.

    Attributes:
        block_ranks: queries of a block.
        group_numbers: numbers in the table of outputs of the heads that are combined together.
    """

    block_ranks: int
    group_numbers: int


class Group(NamedTuple):
    """Heads that are walked over and combined together: whole rows, or some heads of one row.

    Attributes:
        batch: rows.
        heads: heads.
        ranks: their part of the long order.
        bags: for each token of each head, the ranks of its rounds within that part.
        copies: ranks within that part that repeat keys, and those that they repeat.
        continued: whether the group before was of the same heads, in other rounds.
    """

    batch: slice
    heads: slice
    ranks: slice
    bags: Int[torch.Tensor, "batch seq heads rounds"]
    copies: Int[torch.Tensor, "2 repeated"] | None
    continued: bool = False

    def split_rounds(self) -> "Iterator[Group]":
        """Take the rounds one at a time, which must have a part of the ranks each."""
        count = self.bags.shape[-1]
        length = (self.ranks.stop - self.ranks.start) // count
        for round_ in range(count):
            first = self.ranks.start + round_ * length
            bags = self.bags[..., round_ : round_ + 1] - round_ * length
            ranks = slice(first, first + length)
            yield self._replace(ranks=ranks, bags=bags, continued=round_ > 0)


class Block(NamedTuple):
    """Chunks that are computed together.

    Attributes:
        ranks: the first of the long order and the one behind the last.
        inner: their queries' part of the ranks of the group.
        inner_queries: the same in a table with margins.
        inner_windows: the windows' part of a table with margins.
        padded_queries: the queries' part of ``LongOrder.rows``.
        padded_windows: the windows' part of ``LongOrder.rows``.
    """

    ranks: tuple[int, int]
    inner: slice
    inner_queries: slice
    inner_windows: slice
    padded_queries: slice
    padded_windows: slice


class BlockOrder:
    """Cuts the long order into groups of heads, and these into blocks.

    Args:
        order: the long order.
        dim: numbers of a vector.
        sizes: how much is computed at a time.

    >>> from reformer_hf.ops import long_order, sorting, window
    >>> rows, near = sorting.keep_order(1, 1, 64), window.Window(1, 1)
    >>> order = BlockOrder(long_order.segment_order(rows, near, self_mask=False), 1, Sizes(32, 64))
    >>> [block.ranks for group in order.groups() for block in order.blocks(group)]
    [(0, 32), (32, 64)]
    """

    def __init__(self, order: LongOrder, dim: int, sizes: Sizes):
        self.ranks, self.copies, self.geometry = order.ranks, order.copies, order.geometry
        self.block_ranks = sizes.block_ranks
        self.margins = self.geometry.before + self.geometry.after
        self.heads_and_rows = self.ranks.shape[0] * self.ranks.shape[1]
        self.total = order.rows.shape[0] - self.margins
        self.length = self.total // self.heads_and_rows
        self.fitting = max(1, sizes.group_numbers // (self.length * dim))
        # Windows of the chunk scope reach from one round to another.
        self.rounds_apart = self.copies is None and self.fitting == 1

    def table_length(self, margins: bool) -> int:
        """Ranks of the longest group; with margins, of its part and all that its windows reach."""
        count = min(self.fitting, self.heads_and_rows) * self.length
        if not margins:
            return count
        return (count // self.ranks.shape[2] if self.rounds_apart else count) + self.margins

    def groups(self, rounds_apart: bool = False) -> Iterator[Group]:
        """Cut the heads into groups whose tables have a bounded size.

        Args:
            rounds_apart: cut a head that is too long into its rounds, too.
        """
        (batch, heads), length, fitting = self.ranks.shape[:2], self.length, self.fitting
        rows_step, heads_step = max(1, fitting // heads), min(heads, fitting)
        for row in range(0, batch, rows_step):
            for head in range(0, heads, heads_step):
                rows = slice(row, min(batch, row + rows_step))
                some = slice(head, min(heads, head + heads_step))
                first, count = row * heads + head, self.ranks[rows, some, 0, 0].numel()
                part = slice(first * length, (first + count) * length)
                starts = torch.arange(count, device=self.ranks.device, dtype=torch.int32)
                starts = (starts * length).view(-1, some.stop - some.start, 1, 1)
                bags = (self.ranks[rows, some] + starts).permute(0, 3, 1, 2).contiguous()
                copies = None
                if self.copies is not None:
                    copies = (self.copies[rows, some] + starts).permute(2, 0, 1, 3).flatten(1)
                group = Group(rows, some, part, bags, copies)
                if rounds_apart and self.rounds_apart:
                    yield from group.split_rounds()
                else:
                    yield group

    def blocks(self, group: Group) -> Iterator[Block]:
        """Cut a group into blocks, the same in both directions: each draws random numbers."""
        chunk, before, after = self.geometry
        length = group.ranks.stop - group.ranks.start
        part = self.length // self.ranks.shape[2] if self.rounds_apart else length
        step = min(max(1, self.block_ranks // chunk) * chunk, part)
        starts = range(group.ranks.start, group.ranks.stop, part)
        for first, begin in ((f, b) for b in starts for f in range(b, b + part, step)):
            last = min(first + step, begin + part)
            inner, end = first - group.ranks.start, last - group.ranks.start
            yield Block(
                (first, last),
                slice(inner, end),
                slice(inner + before, end + before),
                slice(inner, end + before + after),
                slice(first + before, last + before),
                slice(first, last + before + after),
            )
