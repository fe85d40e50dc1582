"""Exact attention of one sequence to another, such as of a target to its source."""

import math
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from reformer_hf.ops.attention import Implementation
from reformer_hf.ops.autocast import autocast_off
from reformer_hf.ops.dropout import draw_kept, draw_seed, seeded_generator

PIECE_SCORES = 2**22
"""Scores held at a time where there is dropout."""


def cross_attention(
    query: Float[Tensor, "batch heads seq dim"],
    key: Float[Tensor, "batch heads source dim"],
    value: Float[Tensor, "batch heads source dim"],
    visible: Bool[Tensor, "batch source"] | None = None,
    *,
    dropout: float = 0.0,
    output_map: bool = False,
    implementation: Implementation = "sdpa",
) -> tuple[Float[Tensor, "batch heads seq dim"], Float[Tensor, "batch heads seq source"] | None]:
    """Attend from each query to all visible keys, in memory linear in both lengths.

    Args:
        query: queries.
        key: keys of the other sequence.
        value: its values.
        visible: which keys count; None for all. Where none does, the output is zero.
        dropout: of the probabilities.
        output_map: also return the probabilities, before dropout.
        implementation: ``eager`` holds the scores; for the others they are computed piecewise.

    Returns:
        The output, and the probabilities or None.

    >>> x = torch.eye(2).view(1, 1, 2, 2)
    >>> cross_attention(0 * x, x, x, torch.tensor([[True, False]]))[0][0, 0].tolist()
    [[1.0, 0.0], [1.0, 0.0]]
    """
    blind = None
    if visible is not None:
        blind = ~visible.any(dim=-1)[:, None, None, None]
        visible = visible[:, None, None, :] | blind
    probabilities = None
    if output_map or implementation == "eager":
        output, probabilities = _attend(query, key, value, visible, dropout, None)
    elif dropout and query.device.type == "cpu":
        # Torch draws a CPU's dropout of all scores at once, and keeps it for backward.
        output: Tensor = _AttendInPieces.apply(query, key, value, visible, dropout, draw_seed())  # type: ignore[assignment]
    else:
        output = scaled_dot_product_attention(
            query, key, value, attn_mask=visible, dropout_p=dropout
        )
    if blind is not None:
        output = output.masked_fill(blind, 0)
        probabilities = None if probabilities is None else probabilities.masked_fill(blind, 0)
    return output, probabilities if output_map else None


def _attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    visible: Tensor | None,
    dropout: float,
    generator: torch.Generator | None,
) -> tuple[Tensor, Tensor]:
    """Attend with the scores held; every query sees a key."""
    scores = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
    if visible is not None:
        scores = scores.masked_fill(~visible, -torch.inf)
    probabilities = scores.softmax(dim=-1)
    weights = probabilities
    if dropout:
        weights = probabilities * draw_kept(probabilities, dropout, generator)
    return weights.to(value.dtype) @ value, probabilities


class _AttendInPieces(torch.autograd.Function):
    """Attends with some queries at a time, again in backward with the same dropout."""

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        visible: Tensor | None,
        dropout: float,
        seed: int | None,
    ) -> Tensor:
        ctx.save_for_backward(query, key, value, visible)
        ctx.settings = (dropout, seed)
        output = torch.empty_like(query)
        generator = seeded_generator(seed, query.device)
        with autocast_off(query.device.type):
            for piece in _pieces(query, key):
                attended, _ = _attend(query[piece], key, value, visible, dropout, generator)
                output[piece] = attended
        return output

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, visible = ctx.saved_tensors
        dropout, seed = ctx.settings
        generator = seeded_generator(seed, query.device)
        wide = torch.promote_types(key.dtype, torch.float32)
        by_query = torch.empty_like(query)
        by_key, by_value = (torch.zeros_like(x, dtype=wide) for x in (key, value))
        for piece in _pieces(query, key):
            inputs = [x.detach().requires_grad_() for x in (query[piece], key, value)]
            with torch.enable_grad(), autocast_off(query.device.type):
                attended, _ = _attend(inputs[0], inputs[1], inputs[2], visible, dropout, generator)
                found = torch.autograd.grad(attended, inputs, grads[0][piece])
            by_query[piece] = found[0]
            by_key += found[1]
            by_value += found[2]
        return by_query, by_key.to(key.dtype), by_value.to(value.dtype), None, None, None


def _pieces(query: Tensor, key: Tensor) -> list[tuple]:
    """Indices of as many queries as may be scored at a time."""
    batch, heads, seq, _ = query.shape
    step = max(1, PIECE_SCORES // (batch * heads * key.shape[-2]))
    return [(..., slice(start, start + step), slice(None)) for start in range(0, seq, step)]
