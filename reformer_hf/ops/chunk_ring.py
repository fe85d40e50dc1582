"""The ring of the ``chunk`` scope: a row's rounds one after another, the first behind the last.

A row uses the ranks of each round that it is laid out on, whole chunks, and its windows reach
around the ring that these make.
"""

import math
from collections.abc import Iterable
from typing import NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor


def layout_length(seq: Tensor | int, chunk_lengths: tuple[int, ...]) -> Tensor | int:
    """Length of a row with the padding that transformers' Reformer gives it.

    Args:
        seq: real tokens of the row, or of each row.
        chunk_lengths: of all chunked layers of the model.

    Returns:
        ``seq`` up to the shortest chunk length, else the next multiple of the least common
        multiple of the chunk lengths.

    >>> layout_length(40, (64, 48)), layout_length(50, (64, 48))
    (40, 192)
    """
    multiple = math.lcm(*chunk_lengths)
    padded = -(-seq // multiple) * multiple
    if isinstance(seq, Tensor):
        return torch.where(seq <= min(chunk_lengths), seq, padded)
    return seq if seq <= min(chunk_lengths) else padded


class Ring(NamedTuple):
    """The ranks that each row uses, numbered through all rounds.

    Attributes:
        rounds: of hashing.
        chunk_length: tokens.
        used: ranks of each round, a multiple of the chunk length.
    """

    rounds: int
    chunk_length: int
    used: Int[Tensor, " batch"]

    @classmethod
    def of(cls, laid_out: Int[Tensor, " batch"], rounds: int, chunk_length: int) -> "Ring":
        """Make the ring of rows by their tokens with padding; each uses at least one chunk."""
        return cls(rounds, chunk_length, (laid_out // chunk_length).clamp(min=1) * chunk_length)

    def number(
        self, rounds: Int[Tensor, "*#rows"], ranks: Int[Tensor, "*#rows"]
    ) -> Int[Tensor, "*#rows"]:
        """Number ranks around the ring; the first axis is that of the batch.

        >>> ring, rounds = Ring(2, 1, torch.tensor([3])), torch.tensor([0, 1])
        >>> ring.number(rounds, torch.tensor([[2, 2]])).tolist()
        [[2, 5]]
        """
        return rounds * self._used_like(ranks) + ranks

    def locate(
        self, numbers: Int[Tensor, "*#rows"]
    ) -> tuple[Int[Tensor, "*#rows"], Int[Tensor, "*#rows"]]:
        """Find the round, and the rank in it, at numbers that may lie beyond its ends.

        >>> [x.tolist() for x in Ring(2, 1, torch.tensor([3])).locate(torch.tensor([[-1, 6]]))]
        [[[1, 0]], [[2, 0]]]
        """
        used = self._used_like(numbers)
        wrapped = numbers % (self.rounds * used)
        return wrapped // used, wrapped % used

    def show_once(self, offsets: Iterable[int]) -> Bool[Tensor, "batch offsets"]:
        """Say which chunks beside a query's own count: in a short ring, several may be the same.

        Args:
            offsets: of all chunks of a window, counted from the query's own.

        Returns:
            Whether no offset nearer to the own chunk leads to the same chunk.

        >>> Ring(1, 4, torch.tensor([8])).show_once([-1, 0, 1]).tolist()
        [[True, True, False]]
        """
        offsets, count = list(offsets), self.rounds * self.used // self.chunk_length
        columns = []
        for offset in offsets:
            first = torch.ones_like(count, dtype=torch.bool)
            for other in offsets:
                if (abs(other), other) < (abs(offset), offset):
                    first &= (offset - other) % count != 0
            columns.append(first)
        return torch.stack(columns, dim=-1)

    def _used_like(self, numbers: Tensor) -> Tensor:
        return self.used.view(-1, *[1] * (numbers.ndim - 1))
