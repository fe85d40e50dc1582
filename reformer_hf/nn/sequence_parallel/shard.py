"""A shard: the consecutive tokens of some rows that one process holds."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Int, Shaped
from torch import Tensor

from reformer_hf.nn.sequence_parallel.row_group import RowGroup
from reformer_hf.ops.sorting import number_documents


class Border(NamedTuple):
    """The documents at one end of a shard.

    Attributes:
        numbers: documents of the tokens of the neighbour there, in the order of the row.
        real: true at the real ones among them.
        incoming: document of the nearest real token of all processes beyond this end; a lower
            number than any where there is none.
        outgoing: the same as it is beyond the other end, where this shard is passed, too.
    """

    numbers: Int[Tensor, "batch reach"]
    real: Bool[Tensor, "batch reach"]
    incoming: Int[Tensor, " batch"]
    outgoing: Int[Tensor, " batch"]


class Marks(NamedTuple):
    """Which documents the tokens of a shard, and those around it, belong to.

    Documents have numbers that all processes share, and that grow along the row.

    Attributes:
        numbers: document of each token; of padding anything.
        real: true at real tokens.
        borders: of the left end, and where layers look to both sides, of the right one.
    """

    numbers: Int[Tensor, "batch seq"]
    real: Bool[Tensor, "batch seq"]
    borders: tuple[Border, ...]


class Shard:
    """The tokens of this process, and where they stand in their rows.

    Args:
        group: the processes that hold the rows together.
        end: tokens of each row up to the last one here, padding included.
        marks: of documents and padding; None where no process has either.
    """

    def __init__(self, group: RowGroup, end: int, marks: Marks | None = None):
        self.group, self.end, self.marks = group, end, marks

    def handed_on(self, step: int) -> Bool[Tensor, "batch seq"] | None:
        """Tokens of the document that goes on where ``step`` leads; None for all.

        Args:
            step: 1 to the right, -1 to the left.
        """
        if self.marks is None:
            return None
        outgoing = self._border(step).outgoing.unsqueeze(1)
        return self.marks.real & (self.marks.numbers == outgoing)

    def goes_on(self, step: int) -> Bool[Tensor, " batch"] | None:
        """Rows of which one document comes in, and goes on where ``step`` leads; None for all."""
        if self.marks is None:
            return None
        return self._border(step).incoming == self._border(step).outgoing

    def comes_in(self) -> Bool[Tensor, " batch"] | None:
        """Rows whose first document here has begun on a process before; None for all."""
        if self.marks is None:
            return None
        first = self.marks.real & (self.marks.numbers == self._border(1).incoming.unsqueeze(1))
        return first.any(dim=1)

    @property
    def documents(self) -> Int[Tensor, "batch seq"] | None:
        """Document of each token; None for a single document."""
        return self.documents_with_tails(0)

    def with_neighbours(
        self, tensor: Shaped[Tensor, "*lead seq dim"], before: int, after: int = 0
    ) -> Shaped[Tensor, "*lead joined dim"]:
        """Put tokens of the neighbours around those of this shard.

        Args:
            tensor: of this shard.
            before: tokens, the last ones of the process before; zeros where there is none.
            after: tokens, the first ones of the process behind; the same.

        Returns:
            All of them, with the gradient.
        """
        parts, seq = [tensor], tensor.shape[-2]
        if before:
            parts.insert(0, self.group.from_neighbour(tensor[..., seq - before :, :], 1))
        if after:
            parts.append(self.group.from_neighbour(tensor[..., :after, :], -1))
        return torch.cat(parts, dim=-2)

    def documents_with_neighbours(
        self, before: int, after: int = 0
    ) -> Int[Tensor, "batch joined"] | None:
        """Documents of this shard's tokens with so many of the neighbours around them."""
        if self.marks is None:
            return None
        left = self._border(1)
        first = left.numbers.shape[1] - before
        parts = [(left.numbers[:, first:], left.real[:, first:]), self.marks[:2]]
        if after:
            right = self._border(-1)
            parts.append((right.numbers[:, :after], right.real[:, :after]))
        return _number(*zip(*parts, strict=True))

    def documents_with_tails(
        self, before: int, after: int = 0
    ) -> Int[Tensor, "batch joined"] | None:
        """Documents of this shard's tokens with so many of tails around them."""
        if self.marks is None:
            return None
        parts = [self.marks[:2]]
        for step, count in ((1, before), (-1, after)):
            if count:
                numbers = self._border(step).incoming.unsqueeze(1).expand(-1, count)
                part = (numbers, torch.ones_like(numbers, dtype=torch.bool))
                parts = [part, *parts] if step > 0 else [*parts, part]
        return _number(*zip(*parts, strict=True))

    def _border(self, step: int) -> Border:
        """The end at which what goes on by ``step`` comes in."""
        assert self.marks is not None
        return self.marks.borders[0 if step > 0 else 1]


def _number(numbers: tuple[Tensor, ...], real: tuple[Tensor, ...]) -> Tensor:
    documents = number_documents(torch.cat(real, dim=1), torch.cat(numbers, dim=1))
    assert documents is not None
    return documents
