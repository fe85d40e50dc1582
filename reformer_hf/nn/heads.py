"""Splitting the width of a stream into heads, and joining them."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from reformer_hf.nn.layer_norm import StreamLayerNorm
from reformer_hf.nn.normalised_projection import project_normalised


def split_heads(
    hidden_states: Float[Tensor, "batch seq dim"], num_heads: int
) -> Float[Tensor, "batch heads seq head_dim"]:
    """Split the last axis into heads.

    Args:
        hidden_states: heads side by side.
        num_heads: heads.

    Returns:
        One sequence per head.
    """
    batch, seq, _ = hidden_states.shape
    return hidden_states.view(batch, seq, num_heads, -1).transpose(1, 2)


def project_heads(
    linears: Sequence[nn.Module],
    hidden_states: Float[Tensor, "batch seq dim"],
    num_heads: int,
    heads: slice | None = None,
    norm: StreamLayerNorm | None = None,
) -> tuple[Float[Tensor, "batch some_heads seq head_dim"], ...]:
    """Project to heads.

    Args:
        linears: projections to all heads side by side.
        hidden_states: what they project.
        num_heads: heads.
        heads: project to these only, in one product; then all must be ``nn.Linear`` without bias.
        norm: what is projected is a stream, which it normalises on the way; only with `heads`.

    Returns:
        Of each projection, one sequence per head.
    """
    if heads is None:
        return tuple(split_heads(linear(hidden_states), num_heads) for linear in linears)
    weights = [linear.weight.unflatten(0, (num_heads, -1))[heads] for linear in linears]  # type: ignore[operator]
    # One product has one gradient by what it reads, which is as large as a stream.
    weight = torch.cat(weights).flatten(0, 1)
    if norm is None:
        joined = nn.functional.linear(hidden_states, weight)
    else:
        joined = project_normalised(hidden_states, norm, weight)
    return split_heads(joined, len(weights) * len(weights[0])).chunk(len(weights), dim=1)


def merge_heads(
    heads: Float[Tensor, "batch heads seq head_dim"],
) -> Float[Tensor, "batch seq dim"]:
    """Undo :func:`split_heads`.

    Args:
        heads: one sequence per head.

    Returns:
        Heads side by side.
    """
    return heads.transpose(1, 2).flatten(2)
