"""The short convolution in front of attention, in rows and with a past."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from reformer_hf.nn.past.base import NewTokens, Past
from reformer_hf.ops.convolution import short_convolution


class ShortConvolution(nn.Module):
    """Mixes each token's vector with those of its nearest tokens, number by number.

    Where later tokens are not hidden, neighbours at one distance have one weight. So a causal
    model's weights fit a bidirectional one. At the start a token gives half of itself, and the
    nearest ones the other half.

    Args:
        dim: width of the vectors.
        kernel_size: tokens that it sees before a token, the token included, and behind it if not
            causal.
        causal: whether later tokens are hidden.

    Source: So et al. 2021, "Primer" (arXiv 2109.08668).
    """

    def __init__(self, dim: int, kernel_size: int, causal: bool = True):
        super().__init__()
        self.before, self.causal = kernel_size - 1, causal
        self.weight = nn.Parameter(torch.empty(dim, 1, kernel_size))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Set the weights to what they are at the start."""
        self.weight.copy_(self.initial_weight())

    def initial_weight(self) -> Float[Tensor, "dim 1 kernel"]:
        """The weights at the start."""
        weight = torch.zeros_like(self.weight)
        weight[..., -1] = 0.5
        weight[..., -2] = 0.5 if self.causal else 0.25
        return weight

    def taps(self) -> Float[Tensor, "dim 1 taps"]:
        """The weights of all neighbours, the earliest first."""
        if self.causal:
            return self.weight
        return torch.cat([self.weight, self.weight[..., :-1].flip(-1)], dim=-1)

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
            return short_convolution(inputs, self.taps(), self.before, documents)
        real = new.real if new.padded else None
        joined, target, documents = past.recent.join(inputs, self.before, real, past.recording)
        mixed = short_convolution(joined, self.taps(), self.before, documents)
        if target is None:
            return mixed[:, self.before : self.before + inputs.shape[1]]
        return mixed.gather(1, target.unsqueeze(-1).expand_as(inputs))
