"""Simple recurrent units beside the feed-forward sub-layer, in rows and with a past."""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from reformer_hf.nn.checks import check_hidden_states
from reformer_hf.nn.layer_norm import StreamLayerNorm, cast_for_products
from reformer_hf.nn.past.base import NewTokens, Past
from reformer_hf.ops.recurrence import gated_recurrence

Recurrence = Callable[..., Tensor]
"""Has the arguments of `gated_recurrence`."""

SKIP_FACTOR = 3**0.5
"""Of the skip connection: the paper's `sqrt(1 + 2 exp(b))` for gates whose biases b are zero."""


class SimpleRecurrentUnit(nn.Module):
    """Gates and a state that goes through a row; all other products are of single tokens.

    Args:
        dim: width of input, state and output.

    Source: Lei et al. 2018, "Simple Recurrent Units" (arXiv 1709.02755), as Terraformer has them:
    gates do not see the state (``v = 0``), which has no activation; the candidate has a bias.
    """

    def __init__(self, dim: int):
        super().__init__()
        self.forget, self.reset, self.candidate = (nn.Linear(dim, dim) for _ in range(3))

    def forward(
        self,
        inputs: Float[Tensor, "batch seq dim"],
        documents: Int[Tensor, "batch seq"] | None = None,
        start: Float[Tensor, "batch dim"] | None = None,
        recur: Recurrence = gated_recurrence,
    ) -> tuple[Float[Tensor, "batch seq dim"], Float[Tensor, "batch seq dim"]]:
        """Run along rows.

        Args:
            inputs: vectors of the tokens.
            documents: document of each place; None for a single document.
            start: state before the first document; None for zeros.
            recur: runs the recurrence.

        Returns:
            Vectors of the tokens, and the states behind them in float32 or wider.
        """
        wide = torch.promote_types(inputs.dtype, torch.float32)
        forget, reset = (gate(inputs).to(wide).sigmoid() for gate in (self.forget, self.reset))
        states = recur(forget, self.candidate(inputs).to(wide), documents, start)
        mixed = reset * states + (1 - reset) * (SKIP_FACTOR * inputs)
        return mixed.to(inputs.dtype), states


class LowRankSRU(nn.Module):
    """LayerNorm, a projection to few numbers, simple recurrent units, a projection back.

    It has no dropout, as in Terraformer.

    Args:
        hidden_size: width of the stream.
        size: width of the recurrent units.
        num_layers: units, one behind the other.
        layer_norm_eps: epsilon of the layer norm.

    Source: Jaszczur et al. 2021, "Sparse is Enough in Scaling Transformers" (arXiv 2111.12763),
    the recurrent part of Terraformer's feed-forward blocks.
    """

    def __init__(
        self, *, hidden_size: int, size: int, num_layers: int = 1, layer_norm_eps: float = 1e-12
    ):
        super().__init__()
        self.layer_norm = StreamLayerNorm(hidden_size, eps=layer_norm_eps)
        self.input = nn.Linear(hidden_size, size)
        self.units = nn.ModuleList(SimpleRecurrentUnit(size) for _ in range(num_layers))
        self.output = nn.Linear(size, hidden_size)

    def forward(
        self,
        hidden_states: Float[Tensor, "batch seq dim"],
        documents: Int[Tensor, "batch seq"] | None = None,
        *,
        past: Past | None = None,
        new: NewTokens | None = None,
    ) -> Float[Tensor, "batch seq dim"]:
        """Read rows from their start, or go on behind a past.

        Args:
            hidden_states: a stream.
            documents: document of each place; None for a single document.
            past: of the layer, which remembers the last states; in place of `documents`.
            new: where the new tokens stand; padding is skipped.

        Returns:
            What is added to the other stream.
        """
        check_hidden_states(hidden_states, self.input.in_features)
        mixed = self.input(cast_for_products(self.layer_norm(hidden_states)))
        starts: list[Tensor | None] = [None] * len(self.units)
        recur: Recurrence = gated_recurrence
        if past is not None and new is not None:
            documents, recur = new.documents, past.states.recur
            if (last := past.states.last) is not None:
                starts = list(last.chunk(len(self.units), dim=-1))
        found = []
        for unit, start in zip(self.units, starts, strict=True):
            mixed, states = unit(mixed, documents, start, recur)
            found.append(states)
        if past is not None and new is not None:
            real = new.real if new.padded else None
            past.states.join(torch.cat(found, dim=-1), 1, real, past.recording)
        return self.output(mixed)
