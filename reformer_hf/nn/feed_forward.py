"""The feed-forward sub-layer, computed a chunk of the sequence at a time."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from reformer_hf.nn.checks import check_hidden_states
from reformer_hf.nn.dropout import drop
from reformer_hf.nn.layer_norm import StreamLayerNorm, cast_for_products

CPU_TOKENS = 4096
"""Tokens of all rows that a CPU computes at a time: new memory costs it more than arithmetic."""


class _Dropped(nn.Module):
    """A linear layer and dropout, named as in the published checkpoints."""

    def __init__(self, in_features: int, out_features: int, bias: bool, dropout: float):
        super().__init__()
        self.dense = nn.Linear(in_features, out_features, bias=bias)
        self.dropout = nn.Dropout(dropout)

    def forward(self, hidden_states: Tensor) -> Tensor:
        hidden_states = self.dense(hidden_states)
        # In a decoding step, calling a dropout that does nothing costs as much as a small product.
        return self.dropout(hidden_states) if self.dropout.training else hidden_states


class OutputProjection(_Dropped):
    """Projection of the heads' outputs back to the stream, without a bias."""

    def __init__(self, in_features: int, out_features: int, dropout: float = 0.0):
        super().__init__(in_features, out_features, bias=False, dropout=dropout)

    def project_some(
        self,
        hidden_states: Float[Tensor, "batch seq some"],
        num_heads: int,
        heads: slice,
        dropout_seed: int | None = None,
    ) -> Float[Tensor, "batch seq dim"]:
        """Project the outputs of some heads; the results of all heads add up to the whole.

        Args:
            hidden_states: these heads' outputs, side by side.
            num_heads: number of all heads.
            heads: which heads they are.
            dropout_seed: the same for all heads, since dropout is of their sum.

        Returns:
            Their part of the projection.
        """
        weight = self.dense.weight.unflatten(1, (num_heads, -1))[:, heads].flatten(1)
        part = nn.functional.linear(hidden_states, weight)
        if not (self.dropout.training and self.dropout.p):
            return part
        return drop(part, self.dropout.p, dropout_seed, inplace=True)


class ChunkedSubLayer(nn.Module):
    """A sub-layer that treats each token by itself, behind a layer norm.

    Args:
        hidden_size: width of the stream.
        chunk_size: tokens of each row computed at a time; 0 for all. Any length is accepted.
        layer_norm_eps: epsilon of the layer norm.

    Source: paper section 3, "Chunking".
    """

    def __init__(self, hidden_size: int, chunk_size: int, layer_norm_eps: float):
        super().__init__()
        self.chunk_size = chunk_size
        self.layer_norm = StreamLayerNorm(hidden_size, eps=layer_norm_eps)

    def piece_length(self, hidden_states: Float[Tensor, "batch seq dim"]) -> int:
        """How many tokens of each row are best computed at a time.

        Args:
            hidden_states: a stream.

        Returns:
            The chunk size; if it is 0, what fits the caches of a CPU, and elsewhere 0 for all.
        """
        if self.chunk_size or hidden_states.device.type != "cpu":
            return self.chunk_size
        return max(1, CPU_TOKENS // hidden_states.shape[0])

    def forward(
        self, hidden_states: Float[Tensor, "batch seq dim"]
    ) -> Float[Tensor, "batch seq dim"]:
        """Apply the sub-layer to each token.

        Args:
            hidden_states: a stream.

        Returns:
            What is added to the other stream.
        """
        check_hidden_states(hidden_states, self.layer_norm.normalized_shape[0])
        if not 0 < self.chunk_size < hidden_states.shape[1]:
            return self._forward_chunk(hidden_states)
        chunks = hidden_states.split(self.chunk_size, dim=1)
        return torch.cat([self._forward_chunk(chunk) for chunk in chunks], dim=1)

    def _forward_chunk(self, chunk: Tensor) -> Tensor:
        raise NotImplementedError


class ChunkedFeedForward(ChunkedSubLayer):
    """LayerNorm, linear, dropout, activation, linear, dropout: sub-layer g of a reversible block.

    Args:
        hidden_size: width of the stream.
        feed_forward_size: width inside.
        activation: elementwise function.
        dropout: probability, before the activation and at the end.
        chunk_size: tokens of each row computed at a time; 0 for all. Any length is accepted.
        layer_norm_eps: epsilon of the layer norm.
    """

    def __init__(
        self,
        *,
        hidden_size: int,
        feed_forward_size: int,
        activation: Callable[[Tensor], Tensor],
        dropout: float = 0.0,
        chunk_size: int = 0,
        layer_norm_eps: float = 1e-12,
    ):
        super().__init__(hidden_size, chunk_size, layer_norm_eps)
        self.dense = _Dropped(hidden_size, feed_forward_size, bias=True, dropout=dropout)
        self.activation = activation
        self.output = _Dropped(feed_forward_size, hidden_size, bias=True, dropout=dropout)

    def _forward_chunk(self, chunk: Tensor) -> Tensor:
        normalised = cast_for_products(self.layer_norm(chunk))
        return self.output(self.activation(self.dense(normalised)))
