"""The feed-forward sub-layer of which each token uses one unit of every block."""

from collections.abc import Callable

import torch
from jaxtyping import Float, Integer
from torch import Tensor, nn

from reformer_hf.nn.feed_forward import ChunkedSubLayer
from reformer_hf.nn.layer_norm import cast_for_products
from reformer_hf.nn.reversible import recalled_decision
from reformer_hf.ops.checks import require_ints
from reformer_hf.ops.derivatives import transform_runs
from reformer_hf.ops.dropout import draw_seed
from reformer_hf.ops.sparse_feed_forward import (
    Units,
    choose,
    chosen_feed_forward,
    gumbel_noise,
    masked_feed_forward,
    one_hot_mask,
    straight_through,
)

TOKENS_PER_BLOCK_SIZE = 0.5
"""Up to so many tokens for each unit of a block, reading the chosen weights alone is faster."""


def default_rank(hidden_size: int, feed_forward_size: int, block_size: int) -> int:
    """Rank of a controller whose user names none.

    Args:
        hidden_size: width of the stream.
        feed_forward_size: number of units.
        block_size: units of a block.

    Returns:
        The number of blocks, as in trax, but at most half the width: with a larger rank the two
        factors are hardly smaller than their product.
    """
    return max(1, min(feed_forward_size // block_size, hidden_size // 2))


class Controller(nn.Module):
    """Logits of the units, from a product of two thin matrices.

    Args:
        hidden_size: width of the stream.
        feed_forward_size: number of units.
        block_size: units of a block.
        rank: width between the matrices.
    """

    def __init__(self, hidden_size: int, feed_forward_size: int, block_size: int, rank: int):
        super().__init__()
        self.block_size = block_size
        self.reduce = nn.Linear(hidden_size, rank, bias=False)
        self.expand = nn.Linear(rank, feed_forward_size)

    def forward(self, vectors: Float[Tensor, "*lead dim"]) -> Float[Tensor, "*lead blocks size"]:
        """Compute the logits.

        Args:
            vectors: of the tokens.

        Returns:
            Logits of all units.
        """
        return self.expand(self.reduce(vectors)).unflatten(-1, (-1, self.block_size))


class SparseFeedForward(ChunkedSubLayer):
    """LayerNorm, linear, mask, activation, linear, dropout: one unit of each block is used.

    In evaluation that is the unit of the controller's largest logit. Few tokens without gradients
    then read the weights of the chosen units alone. In training all units are computed. One draw
    per call, which is per chunk or piece, decides for all of its tokens: the mask is the softmax of
    the logits, or it is one unit, chosen with Gumbel noise, with the gradient of the softmax. A
    reversible replay remembers the choice.

    Args:
        hidden_size: width of the stream.
        feed_forward_size: number of units.
        activation: elementwise function that gives 0 for 0.
        block_size: units of a block.
        controller_rank: rank of the controller; None for :func:`default_rank`.
        temperature: factor of the noise.
        hard_share: probability with which a call in training chooses units.
        dropout: probability, of the mask and at the end.
        chunk_size: tokens of each row computed at a time; 0 for all. Any length is accepted.
        layer_norm_eps: epsilon of the layer norm.

    Raises:
        ValueError: if `feed_forward_size` is no multiple of `block_size`.

    Source: Jaszczur et al. 2021, "Sparse is Enough in Scaling Transformers" (arXiv 2111.12763),
    section 3.1; trax, `SparseFF`. Here the units have a bias, as those of the dense layer.
    """

    def __init__(
        self,
        *,
        hidden_size: int,
        feed_forward_size: int,
        activation: Callable[[Tensor], Tensor],
        block_size: int,
        controller_rank: int | None = None,
        temperature: float = 0.1,
        hard_share: float = 0.3,
        dropout: float = 0.0,
        chunk_size: int = 0,
        layer_norm_eps: float = 1e-12,
    ):
        super().__init__(hidden_size, chunk_size, layer_norm_eps)
        require_ints(1, block_size=block_size, feed_forward_size=feed_forward_size)
        if feed_forward_size % block_size:
            raise ValueError(
                f"feed_forward_size={feed_forward_size} with block_size={block_size}: give a "
                "multiple of it"
            )
        if controller_rank is None:
            controller_rank = default_rank(hidden_size, feed_forward_size, block_size)
        self.block_size, self.temperature = block_size, temperature
        self.hard_share, self.activation = hard_share, activation
        self.controller = Controller(hidden_size, feed_forward_size, block_size, controller_rank)
        self.up_weight = nn.Parameter(torch.empty(feed_forward_size, hidden_size))
        self.up_bias = nn.Parameter(torch.empty(feed_forward_size))
        self.down_weight = nn.Parameter(torch.empty(feed_forward_size, hidden_size))
        self.down_bias = nn.Parameter(torch.empty(hidden_size))
        self.dropout = nn.Dropout(dropout)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set the units' weights to what those of two `nn.Linear` are at the start."""
        units, width = self.up_weight.shape
        for weight, inputs in ((self.up_weight, width), (self.down_weight, units)):
            nn.init.uniform_(weight, -(inputs**-0.5), inputs**-0.5)
        nn.init.zeros_(self.up_bias)
        nn.init.zeros_(self.down_bias)

    def _forward_chunk(self, chunk: Tensor) -> Tensor:
        normalised = cast_for_products(self.layer_norm(chunk))
        logits = self.controller(normalised)
        units = Units(self.up_weight, self.up_bias, self.down_weight, self.down_bias)
        if not self.training and self._reads_chosen(chunk):
            return chosen_feed_forward(normalised, choose(logits), units, self.activation)
        mask = self.dropout(self._draw_mask(logits) if self.training else self._mask(logits))
        return self.dropout(masked_feed_forward(normalised, mask, units, self.activation))

    def _reads_chosen(self, chunk: Tensor) -> bool:
        """Whether to read the weights of the chosen units alone."""
        tokens = chunk.shape[0] * chunk.shape[1]
        if tokens > TOKENS_PER_BLOCK_SIZE * self.block_size or torch.is_grad_enabled():
            return False
        return torch.compiler.is_compiling() or not transform_runs()

    def _mask(self, logits: Tensor) -> Tensor:
        """The mask of evaluation."""
        return one_hot_mask(_remembered(lambda: choose(logits)), self.block_size, logits.dtype)

    def _draw_mask(self, logits: Tensor) -> Tensor:
        """A mask of training. The replay draws the same seed, and no noise."""
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        soft = logits.softmax(dim=-1)
        if torch.compiler.is_compiling() or transform_runs():
            # They take no generator, and cannot go by what is drawn.
            noisy = logits + self.temperature * gumbel_noise(logits, None)
            is_drawn = torch.rand((), device=logits.device) < self.hard_share
            return torch.where(is_drawn, straight_through(choose(noisy), soft), soft)
        seed = draw_seed()
        if not is_hard(seed, self.hard_share):
            return soft

        def decide() -> Tensor:
            return choose(logits + self.temperature * gumbel_noise(logits, seed))

        return straight_through(_remembered(decide), soft)


def is_hard(seed: int | None, hard_share: float) -> bool:
    """Whether a call in training chooses units.

    Args:
        seed: drawn for the call, from 0 to 2**63 - 1; None where there is none to be drawn.
        hard_share: the share of seeds for which it does.

    Returns:
        If not, the call weighs all units by the softmax.
    """
    return seed is not None and seed < hard_share * 2**63


def _remembered(decide: Callable[[], Tensor]) -> Integer[Tensor, "*lead blocks"]:
    """A choice, which is that of the forward pass in a replay."""
    decision = recalled_decision()
    with torch.no_grad():
        return decide() if decision is None else decision.recall(decide)
