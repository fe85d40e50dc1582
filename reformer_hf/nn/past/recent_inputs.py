"""The last inputs of a row, which a convolution or n-grams still see, or its last state."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from reformer_hf.ops.recurrence import gated_recurrence


class Joined(NamedTuple):
    """New inputs behind those before them.

    Attributes:
        inputs: in order of the row, each row's real tokens at its end, padding before them. Of a
            row's shard also the inputs behind it, for those who see these.
        target: at which place each new token now stands; None if they simply stand behind the ones
            before them, of which there are as many as a token sees.
        documents: document of each place; None for a single document.
    """

    inputs: Shaped[Tensor, "batch joined dim"]
    target: Int[Tensor, "batch seq"] | None
    documents: Int[Tensor, "batch joined"] | None = None


class RecentInputs:
    """Vectors, ids or states of the last real tokens of each row; zeros before its first.

    Attributes:
        count: how many of them a later token sees.
        stored: these and, while tokens can be taken back, those before; None before the first.
    """

    def __init__(self) -> None:
        self.count = 0
        self.stored: Shaped[Tensor, "batch stored dim"] | None = None

    def join(
        self,
        inputs: Shaped[Tensor, "batch seq dim"],
        count: int,
        real: Bool[Tensor, "batch seq"] | None = None,
        recording: bool = False,
    ) -> Joined:
        """Put new inputs behind the last ones, and remember them.

        Args:
            inputs: of new tokens.
            count: how many of the last ones a later token sees.
            real: true at real tokens; None where there is no padding.
            recording: forget nothing, so that tokens can be taken back.

        Returns:
            Both.
        """
        self.count = count
        if self.stored is None:
            self.stored = inputs.new_zeros(inputs.shape[0], self.count, inputs.shape[2])
        before = self.stored.shape[1]
        joined, target = torch.cat([self.stored, inputs], dim=1), None
        if real is not None:
            known = torch.ones(before, dtype=torch.bool, device=inputs.device)
            whole = torch.cat([known.expand(len(inputs), -1), real], dim=1)
            order = whole.long().argsort(dim=1, stable=True)
            joined = joined.gather(1, order.unsqueeze(-1).expand_as(joined))
            target = order.argsort(dim=1)[:, before:]
        kept = joined.shape[1] if recording else self.count
        self.stored = joined[:, joined.shape[1] - kept :].detach().clone()
        if target is None:  # what was only recorded is not seen
            joined = joined[:, before - count :]
        return Joined(joined, target)

    @property
    def last(self) -> Shaped[Tensor, "batch dim"] | None:
        """The last one of each row; None before the first tokens."""
        return None if self.stored is None else self.stored[:, -1]

    def can_drop(self, count: int) -> bool:
        """Whether the inputs before the last ``count`` tokens are still there."""
        return self.stored is None or self.stored.shape[1] - count >= self.count

    def drop_last(self, count: int) -> None:
        """Forget the last inputs, and what was kept for taking them back."""
        if self.stored is not None:
            end = self.stored.shape[1] - count
            self.stored = self.stored[:, end - self.count : end].clone()

    def change_rows(self, change: Callable[[Tensor], Tensor]) -> None:
        """Replace the inputs by a function of them, such as a choice of rows."""
        if self.stored is not None:
            self.stored = change(self.stored)

    @property
    def allocated_bytes(self) -> int:
        """Bytes held."""
        return 0 if self.stored is None else self.stored.nbytes


class RecentStates(RecentInputs):
    """The last states of recurrent units, side by side."""

    def recur(
        self,
        forget: Float[Tensor, "batch seq dim"],
        inputs: Float[Tensor, "batch seq dim"],
        documents: Int[Tensor, "batch seq"] | None,
        start: Float[Tensor, "batch dim"] | None,
    ) -> Float[Tensor, "batch seq dim"]:
        """Run the recurrence of a unit over new tokens.

        Args:
            forget: how much of the state is kept.
            inputs: of the tokens.
            documents: document of each place; None for a single document.
            start: the last state of the unit; None for zeros.

        Returns:
            The state behind each token.
        """
        return gated_recurrence(forget, inputs, documents, start)
