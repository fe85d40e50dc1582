"""A shard: the consecutive tokens of some rows that one process holds."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Int, Shaped
from torch import Tensor

from reformer_hf.nn.sequence_parallel.row_group import RowGroup
from reformer_hf.ops.sorting import number_documents


class Marks(NamedTuple):
    """Which documents the tokens of a shard, and those around it, belong to.

    Documents have numbers that all processes share, and that grow along the row.

    Attributes:
        numbers: document of each token; of padding anything.
        real: true at real tokens.
        left_numbers: documents of the last tokens of the process before.
        left_real: true at the real ones among them.
        incoming: document of the last real token of all processes before; a lower number than any
            where there is none.
        outgoing: the same of all processes up to this one.
    """

    numbers: Int[Tensor, "batch seq"]
    real: Bool[Tensor, "batch seq"]
    left_numbers: Int[Tensor, "batch reach"]
    left_real: Bool[Tensor, "batch reach"]
    incoming: Int[Tensor, " batch"]
    outgoing: Int[Tensor, " batch"]


class Shard:
    """The tokens of this process, and where they stand in their rows.

    Args:
        group: the processes that hold the rows together.
        marks: of documents and padding; None where no process has either.
    """

    def __init__(self, group: RowGroup, marks: Marks | None = None):
        self.group, self.marks = group, marks

    @property
    def carried_on(self) -> Bool[Tensor, "batch seq"] | None:
        """Tokens of the document that goes on behind this shard; None for all."""
        if self.marks is None:
            return None
        return self.marks.real & (self.marks.numbers == self.marks.outgoing.unsqueeze(1))

    @property
    def goes_on(self) -> Bool[Tensor, " batch"] | None:
        """Rows whose document came from before this shard and goes on behind it; None for all."""
        return None if self.marks is None else self.marks.incoming == self.marks.outgoing

    def behind_neighbours(self, count: int) -> Int[Tensor, "batch joined"] | None:
        """Documents of the last ``count`` tokens of the process before, and of this shard."""
        if self.marks is None:
            return None
        first = self.marks.left_numbers.shape[1] - count
        left = self.marks.left_numbers[:, first:], self.marks.left_real[:, first:]
        return self._join(*left)

    def behind_tails(self, count: int) -> Int[Tensor, "batch joined"] | None:
        """Documents of ``count`` tokens of the tails that come in, and of this shard."""
        if self.marks is None:
            return None
        numbers = self.marks.incoming.unsqueeze(1).expand(-1, count)
        return self._join(numbers, torch.ones_like(numbers, dtype=torch.bool))

    def _join(self, numbers: Tensor, real: Tensor) -> Tensor:
        assert self.marks is not None
        joined = torch.cat([numbers, self.marks.numbers], dim=1)
        documents = number_documents(torch.cat([real, self.marks.real], dim=1), joined)
        assert documents is not None
        return documents

    def take_left(
        self, tensor: Shaped[Tensor, "*lead seq dim"], count: int
    ) -> Shaped[Tensor, "*lead joined dim"]:
        """Put the last ``count`` tokens of the process before in front of those of this shard.

        Args:
            tensor: of this shard.
            count: tokens; on the first process they are zeros.

        Returns:
            Both, with the gradient.
        """
        seq = tensor.shape[-2]
        left = self.group.from_left(tensor[..., seq - count :, :])
        return torch.cat([left, tensor], dim=-2)
