"""What all self-attention modules have in common."""

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from reformer_hf.nn.checks import check_sizes
from reformer_hf.nn.past.base import NewTokens, Past
from reformer_hf.nn.reversible import Decision
from reformer_hf.ops.attend import Implementation
from reformer_hf.ops.attention_map import AttentionMap

Attention = tuple[Float[Tensor, "batch seq all_heads"], AttentionMap | None]
"""Heads side by side, and the map or None."""


class Hashing(NamedTuple):
    """How a pass hashes, for the kinds that do.

    Attributes:
        seed: of the model's rotations.
        num_hashes: rounds, if other than the module's.
        decision: remembers the bucket ids for replay, or brings those of another pass.
    """

    seed: int = 0
    num_hashes: int | None = None
    decision: Decision | None = None


DEFAULT_HASHING = Hashing()
"""Seed 0, and the module's own rounds."""


class SelfAttention(nn.Module, ABC):
    """Self-attention between projections to heads and their output, side by side.

    Args:
        hidden_size: width of the input.
        num_heads: heads.
        head_dim: dimension of a head.
        dropout: of the attention probabilities, in training.

    Raises:
        TypeError: naming an argument of another type.
        ValueError: naming the argument, its value and the fix.
    """

    def __init__(self, hidden_size: int, num_heads: int, head_dim: int, dropout: float):
        super().__init__()
        check_sizes(dropout, hidden_size=hidden_size, num_heads=num_heads, head_dim=head_dim)
        self.num_heads, self.head_dim, self.dropout = num_heads, head_dim, dropout

    @abstractmethod
    def forward(
        self,
        hidden_states: Float[Tensor, "batch seq dim"],
        documents: Int[Tensor, "batch seq"] | None = None,
        *,
        hashing: Hashing = DEFAULT_HASHING,
        output_map: bool = False,
        implementation: Implementation = "blockwise",
        heads: slice | None = None,
    ) -> Attention:
        """Attend from all tokens of a row to each other.

        Args:
            hidden_states: normalised stream.
            documents: document of each place, padding last; None for a single document.
            hashing: how to hash; nothing to kinds that attend by distance.
            output_map: also return the attention map.
            implementation: how to compute attention.
            heads: attend with these only.

        Returns:
            Heads side by side, and the map or None.
        """

    @abstractmethod
    def new_past(
        self, hashing: Hashing = DEFAULT_HASHING, device: torch.device | str = "cpu"
    ) -> Past:
        """Make an empty past, for :meth:`attend_cached`.

        Args:
            hashing: its rotations and rounds are those of all passes with this past.
            device: of the tokens to come.

        Returns:
            The past.
        """

    @abstractmethod
    def attend_cached(
        self,
        hidden_states: Float[Tensor, "batch seq dim"],
        past: Past,
        new: NewTokens,
        *,
        hashing: Hashing = DEFAULT_HASHING,
        output_map: bool = False,
        implementation: Implementation = "blockwise",
    ) -> Attention:
        """Attend from new tokens to the past and to each other; the past remembers them.

        Args:
            hidden_states: normalised stream of the new tokens.
            past: from :meth:`new_past`.
            new: where the tokens stand.
            hashing: brings or keeps a decision; the past knows the rotations.
            output_map: also return the attention map.
            implementation: how to compute attention, if the past is empty.

        Returns:
            Heads side by side, and the map or None.
        """

    @property
    def active_dropout(self) -> float:
        """Dropout of the probabilities now: none in evaluation."""
        return self.dropout if self.training else 0.0
