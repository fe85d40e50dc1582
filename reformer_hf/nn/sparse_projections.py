"""Sparse queries, keys and values: what they share, in rows and with a past."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from reformer_hf.nn.past.base import NewTokens, Past
from reformer_hf.nn.sparse_dense import LocallyConvolutionalDense, MultiplicativeDense
from reformer_hf.ops.convolution import neighbourhoods


class SharedProjection(MultiplicativeDense):
    """The multiplicative layer that queries, keys and values are made of, by a convolution each.

    Args:
        hidden_size: width of the input.
        width: of all heads side by side.
        num_modules: modules of the layer and of the convolutions.
        length: tokens that a convolution sees, the own one included, and as many behind it if not
            causal.
        causal: whether later tokens are hidden.

    Source: Jaszczur et al. 2021 (arXiv 2111.12763), section 3.2; trax's
    `MultiplicativeConvCausalAttention`.
    """

    def __init__(
        self, hidden_size: int, width: int, num_modules: int, length: int, causal: bool = True
    ):
        super().__init__(hidden_size, width, num_modules)
        self.before, self.causal = length - 1, causal

    def new_convolution(self, kernel_size: int) -> LocallyConvolutionalDense:
        """Make a layer that reads what this one returns.

        Args:
            kernel_size: modules that it sees.

        Returns:
            The layer.
        """
        sizes = (self.out_features, len(self.gates), kernel_size, self.before + 1)
        return LocallyConvolutionalDense(*sizes, causal=self.causal)

    def forward(
        self,
        inputs: Float[Tensor, "batch seq dim"],
        documents: Int[Tensor, "batch seq"] | None = None,
        *,
        past: Past | None = None,
        new: NewTokens | None = None,
    ) -> Float[Tensor, "images height outputs"]:
        """Project the tokens of rows, or new tokens, and lay them out with their neighbours.

        Args:
            inputs: vectors of the tokens.
            documents: document of each place; None for a single document.
            past: of the layer, which remembers the last vectors; in place of `documents`.
            new: where the new tokens stand; padding is skipped.

        Returns:
            What the convolutions read.
        """
        shared, after = super().forward(inputs), 0 if self.causal else self.before
        if past is None or new is None or not self.before:
            return neighbourhoods(shared, self.before, after, documents)
        real = new.real if new.padded else None
        joined, target, documents = past.recent_shared.join(
            shared, self.before, real, past.recording
        )
        if documents is not None:
            images = neighbourhoods(joined, self.before, after, documents)
            images = images.unflatten(0, joined.shape[:2])[:, self.before :]
            return images[:, : inputs.shape[1]].flatten(0, 1)
        if target is None:
            return joined
        places = target.unsqueeze(-1) + torch.arange(-self.before, 1, device=target.device)
        rows = torch.arange(len(joined), device=target.device).view(-1, 1, 1)
        # Of padding, which may stand first in its row, any will do.
        return joined[rows, places.clamp(min=0)].flatten(0, 1)
