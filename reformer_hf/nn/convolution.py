"""The short convolution in front of attention, in rows and with a past."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from reformer_hf.nn.past.base import NewTokens, Past
from reformer_hf.ops.convolution import short_convolution


class ShortConvolution(nn.Module):
    """Mixes each token's vector with those of its nearest tokens, number by number.

    At the start a causal one takes half of a token and half of the one before it; a symmetric one
    half of the token and a quarter of each neighbour.

    Args:
        dim: width of the vectors.
        kernel_size: tokens that a causal convolution sees, its own included. A symmetric one sees
            as many on either side.
        causal: whether later tokens are hidden.

    Source: So et al. 2021, "Primer" (arXiv 2109.08668).
    """

    def __init__(self, dim: int, kernel_size: int, causal: bool = True):
        super().__init__()
        self.before = kernel_size - 1
        self.after = 0 if causal else kernel_size - 1
        self.weight = nn.Parameter(torch.empty(dim, 1, self.before + 1 + self.after))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Set the weights to what they are at the start."""
        self.weight.copy_(self.initial_weight())

    def initial_weight(self) -> Float[Tensor, "dim 1 taps"]:
        """The weights at the start."""
        weight = torch.zeros_like(self.weight)
        weight[..., self.before] = 0.5
        near = 0.25 if self.after else 0.5
        weight[..., self.before - 1] = near
        if self.after:
            weight[..., self.before + 1] = near
        return weight

    def forward(
        self,
        inputs: Float[Tensor, "batch seq dim"],
        documents: Int[Tensor, "batch seq"] | None = None,
        *,
        past: Past | None = None,
        new: NewTokens | None = None,
    ) -> Float[Tensor, "batch seq dim"]:
        """Mix the tokens of rows, or new tokens with those before them.

        Args:
            inputs: vectors of the tokens.
            documents: document of each place; None for a single document.
            past: of the layer, which remembers the last inputs; in place of `documents`.
            new: where the new tokens stand; padding is skipped.

        Returns:
            Vectors of the same shape.
        """
        if past is None or new is None:
            return short_convolution(inputs, self.weight, self.before, documents)
        real = new.real if new.padded else None
        joined, target = past.recent.join(inputs, self.before, real, past.recording)
        mixed = short_convolution(joined, self.weight, self.before)
        if target is None:
            return mixed[:, -inputs.shape[1] :]
        return mixed.gather(1, target.unsqueeze(-1).expand_as(inputs))
