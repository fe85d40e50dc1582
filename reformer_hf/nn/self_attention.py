"""What all self-attention modules have in common."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from reformer_hf.nn.checks import check_kernel, check_pass, check_sizes
from reformer_hf.nn.convolution import ShortConvolution
from reformer_hf.nn.heads import merge_heads, project_heads, split_heads
from reformer_hf.nn.layer_norm import StreamLayerNorm
from reformer_hf.nn.past.base import NewTokens, Past
from reformer_hf.nn.reversible import Decision
from reformer_hf.nn.sequence_parallel.shard import Shard
from reformer_hf.nn.sparse_projections import SharedProjection
from reformer_hf.ops.attend import Implementation
from reformer_hf.ops.attention_map import AttentionMap, HeadsAndMap, MapForm
from reformer_hf.ops.rotary import Rotary

DenseMap = Float[Tensor, "batch heads seq keys"]
Attention = tuple[Float[Tensor, "batch seq all_heads"], AttentionMap | DenseMap | None]
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

    Sparse projections share a multiplicative layer. Behind it queries, keys and values have a
    convolution each, over modules and tokens.

    Args:
        hidden_size: width of the input.
        num_heads: heads.
        head_dim: dimension of a head.
        dropout: of the attention probabilities, in training.
        conv_kernel: tokens that a short convolution on the input sees; 0 for no convolution.
        causal: whether later places are hidden from it.
        sparsity: modules of sparse projections; 0 for dense ones.
        sparsity_kernel: tokens that their convolutions see, the own one included, and as many
            behind it if not causal.

    Raises:
        TypeError: naming an argument of another type.
        ValueError: naming the argument, its value and the fix.
    """

    def __init__(
        self,
        hidden_size: int,
        num_heads: int,
        head_dim: int,
        dropout: float,
        conv_kernel: int = 0,
        causal: bool = True,
        sparsity: int = 0,
        sparsity_kernel: int = 3,
    ):
        super().__init__()
        check_sizes(dropout, hidden_size=hidden_size, num_heads=num_heads, head_dim=head_dim)
        check_kernel(conv_kernel)
        self.hidden_size, self.dropout = hidden_size, dropout
        self.num_heads, self.head_dim = num_heads, head_dim
        self.convolution = None
        if conv_kernel:
            self.convolution = ShortConvolution(hidden_size, conv_kernel, causal)
        self.shared_projection = None
        if sparsity:
            sizes = (hidden_size, num_heads * head_dim, sparsity, sparsity_kernel)
            self.shared_projection = SharedProjection(*sizes, causal)

    @abstractmethod
    def forward(
        self,
        hidden_states: Float[Tensor, "batch seq dim"],
        documents: Int[Tensor, "batch seq"] | None = None,
        *,
        hashing: Hashing = DEFAULT_HASHING,
        output_map: MapForm | None = None,
        implementation: Implementation = "auto",
        heads: slice | None = None,
        norm: StreamLayerNorm | None = None,
        rotary: Rotary | None = None,
    ) -> Attention:
        """Attend from all tokens of a row to each other.

        Args:
            hidden_states: normalised stream, or one that `norm` is to normalise.
            documents: document of each place, padding last; None for a single document.
            hashing: how to hash; nothing to kinds that attend by distance.
            output_map: also return the attention map in this form. The output is then computed
                from a dense one, (batch, heads, seq, seq), which gradients go through.
            implementation: how to compute attention.
            heads: attend with these only.
            norm: normalises the stream on its way into the projections, so that no normalised copy
                of it is kept. Only with `heads`, neither behind a convolution nor with sparse
                projections, and for a first derivative.
            rotary: turn queries and keys by these angles.

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

    def new_shard_past(
        self,
        shard: Shard,
        hashing: Hashing = DEFAULT_HASHING,
        device: torch.device | str = "cpu",
        kept: Past | None = None,
    ) -> Past:
        """Make the past of a row's shard, for :meth:`attend_cached`: other ranks hold it.

        Args:
            shard: of this rank.
            hashing: brings the seed and the rounds, the same on all ranks.
            device: of the tokens.
            kept: an empty one from :meth:`new_past`, which is to remember what tokens behind the
                shard see.

        Returns:
            The past, with gradients.

        Raises:
            ValueError: if a layer of this kind cannot be cut into shards.
        """
        raise ValueError(
            f"{type(self).__name__} sees whole documents: a row over several processes needs local "
            "and LSH layers"
        )

    @abstractmethod
    def attend_cached(
        self,
        hidden_states: Float[Tensor, "batch seq dim"],
        past: Past,
        new: NewTokens,
        *,
        hashing: Hashing = DEFAULT_HASHING,
        output_map: MapForm | None = None,
        implementation: Implementation = "auto",
        rotary: Rotary | None = None,
    ) -> Attention:
        """Attend from new tokens to the past and to each other; the past remembers them.

        Args:
            hidden_states: normalised stream of the new tokens.
            past: from :meth:`new_past`.
            new: where the tokens stand.
            hashing: brings or keeps a decision; the past knows the rotations.
            output_map: also return the attention map in this form; a dense one is of shape (batch,
                heads, seq, keys), its keys all tokens so far, padding included.
            implementation: how to compute attention, if the past is empty.
            rotary: turn queries and keys by these angles.

        Returns:
            Heads side by side, and the map or None.
        """

    def new_projection(self, modules_seen: int) -> nn.Module:
        """Make a projection to all heads side by side.

        Args:
            modules_seen: of a sparse projection, modules that its convolution sees.

        Returns:
            A linear layer or, behind a shared one, a convolution.
        """
        if self.shared_projection is not None:
            return self.shared_projection.new_convolution(modules_seen)
        return nn.Linear(self.hidden_size, self.num_heads * self.head_dim, bias=False)

    def check(
        self,
        hidden_states: Any,
        documents: Any,
        value: nn.Module,
        heads: slice | None = None,
        norm: nn.Module | None = None,
    ) -> None:
        """Check what a pass is given against the projections, of which `value` is one."""
        between = self.convolution or self.shared_projection
        if norm is not None and (heads is None or between is not None):
            raise ValueError(
                f"norm with heads={heads} and {between} before the heads: give some heads of a "
                "layer without it, or normalise hidden_states before"
            )
        normalised_to: Any = None if norm is None else norm.weight.dtype
        check_pass(hidden_states, documents, self.shared_projection or value, normalised_to)

    def project_input(
        self,
        projections: Sequence[nn.Module],
        hidden_states: Float[Tensor, "batch seq dim"],
        documents: Int[Tensor, "batch seq"] | None = None,
        *,
        heads: slice | None = None,
        norm: StreamLayerNorm | None = None,
        past: Past | None = None,
        new: NewTokens | None = None,
    ) -> tuple[Float[Tensor, "batch some_heads seq head_dim"], ...]:
        """Project to heads, after the short convolution if there is one.

        Args:
            projections: made by :meth:`new_projection`.
            hidden_states: normalised stream, or one that `norm` is to normalise.
            documents: document of each place; None for a single document.
            heads: of these heads only; None for all.
            norm: normalises the stream on the way, as in :meth:`forward`.
            past: of the layer, in place of `documents`.
            new: where the tokens stand, in a pass with a past.

        Returns:
            Of each projection, one sequence per head.
        """
        remembered: dict[str, Any] = {"past": past, "new": new}
        if self.convolution is not None:
            hidden_states = self.convolution(hidden_states, documents, **remembered)
        if self.shared_projection is None:
            return project_heads(projections, hidden_states, self.num_heads, heads, norm)
        shared = self.shared_projection(hidden_states, documents, **remembered)
        rows = (*hidden_states.shape[:2], -1)
        made = [projection(shared).view(rows) for projection in projections]
        made = [split_heads(each, self.num_heads) for each in made]
        return tuple(made if heads is None else (each[:, heads] for each in made))

    @property
    def active_dropout(self) -> float:
        """Dropout of the probabilities now: none in evaluation."""
        return self.dropout if self.training else 0.0


def join_heads(
    attended: HeadsAndMap,
    output_map: MapForm | None,
    keys: int,
    value: Float[Tensor, "batch heads keys dim"] | None = None,
) -> Attention:
    """Put heads side by side, with the map in the form that was asked for.

    Args:
        attended: the output, and the sparse map or None.
        output_map: form of the map.
        keys: tokens of a row so far, padding included.
        value: their values, for the output to be what a dense map makes of them, so that gradients
            go through it; None in a pass with a past, which has none.

    Returns:
        Heads side by side, and the map or None.
    """
    output, found = attended
    if found is None or output_map != "dense":
        return merge_heads(output), found
    dense = found.to_dense(keys).to(output.dtype)
    return merge_heads(output if value is None else dense @ value), dense
