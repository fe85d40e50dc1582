"""Exact attention to all keys: of a document to itself, and of one sequence to another."""

import math
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from reformer_hf.ops.attend import Implementation, attend
from reformer_hf.ops.attention_map import AttentionMap
from reformer_hf.ops.checks import require_choice
from reformer_hf.ops.derivatives import first_derivative_only, refuse_transforms
from reformer_hf.ops.dropout import draw_kept, draw_seed, seeded_generator
from reformer_hf.ops.precision import autocast_off

PIECE_SCORES = 2**22
"""Scores held at a time where there is dropout."""


def full_attention(
    query: Float[Tensor, "batch heads seq dim"],
    key: Float[Tensor, "batch heads seq dim"],
    value: Float[Tensor, "batch heads seq dim"],
    documents: Int[Tensor, "batch seq"] | None = None,
    *,
    causal: bool = True,
    self_mask: bool = False,
    dropout: float = 0.0,
    output_map: bool = False,
    implementation: Implementation = "auto",
) -> tuple[Float[Tensor, "batch heads seq dim"], AttentionMap | None]:
    """Attend to every token of the same document.

    A causal single document needs no square mask, and so linear memory; otherwise the mask is
    square in the length.

    Args:
        query: queries.
        key: keys; for shared-QK attention the queries at unit length.
        value: values.
        documents: document of each place, padding last; None for a single document.
        causal: whether later places are hidden.
        self_mask: the own place counts only when there is no other key.
        dropout: of the probabilities.
        output_map: also return the attention map.
        implementation: ``eager`` holds the scores; for the others torch computes them piecewise.

    Returns:
        The output, and the map or None.

    >>> x = torch.eye(3).view(1, 1, 3, 3)
    >>> full_attention(x, 0 * x, x, self_mask=True)[0][0, 0].tolist()
    [[1.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.5, 0.5, 0.0]]
    """
    require_choice(Implementation, implementation=implementation)
    if output_map or implementation == "eager":
        output, attention_map = _with_map(query, key, value, documents, causal, self_mask, dropout)
        return output, attention_map if output_map else None
    if causal and documents is None:
        if not self_mask:
            return scaled_dot_product_attention(
                query, key, value, dropout_p=dropout, is_causal=True
            ), None
        # Strictly earlier keys: the query of place t + 1 stands against the keys up to place t.
        later = scaled_dot_product_attention(
            query[..., 1:, :], key[..., :-1, :], value[..., :-1, :], dropout_p=dropout,
            is_causal=True,
        )  # fmt: skip
        return torch.cat([value[..., :1, :], later.to(value.dtype)], dim=-2), None
    visible = _visible(query, documents, causal)
    if self_mask:
        own = torch.eye(query.shape[-2], dtype=torch.bool, device=query.device)
        others = visible & ~own
        visible = others | (own & ~others.any(dim=-1, keepdim=True))
    output = scaled_dot_product_attention(query, key, value, attn_mask=visible, dropout_p=dropout)
    return output, None


def _visible(
    query: Tensor, documents: Tensor | None, causal: bool
) -> Bool[Tensor, "#batch 1 seq seq"]:
    """Who shares a document, and stands earlier if causal."""
    seq = query.shape[-2]
    visible = torch.ones(1, 1, seq, seq, dtype=torch.bool, device=query.device)
    if causal:
        visible = visible.tril()
    if documents is not None:
        visible = visible & (documents[:, None, :, None] == documents[:, None, None, :])
    return visible


def _with_map(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    documents: Tensor | None,
    causal: bool,
    self_mask: bool,
    dropout: float,
) -> tuple[Tensor, AttentionMap]:
    """The same with the probabilities kept, quadratic in the length."""
    own = torch.eye(query.shape[-2], dtype=torch.bool, device=query.device) if self_mask else None
    visible = _visible(query, documents, causal)
    attended = attend(query, key, value, visible, own=own, dropout=dropout)
    assert attended.probabilities is not None
    probabilities = attended.probabilities.unsqueeze(2)
    places = torch.arange(query.shape[-2], device=query.device).expand(probabilities.shape)
    return attended.output, AttentionMap(probabilities, places.masked_fill(probabilities == 0, -1))


def cross_attention(
    query: Float[Tensor, "batch heads seq dim"],
    key: Float[Tensor, "batch heads source dim"],
    value: Float[Tensor, "batch heads source dim"],
    visible: Bool[Tensor, "batch source"] | None = None,
    *,
    dropout: float = 0.0,
    output_map: bool = False,
    implementation: Implementation = "auto",
) -> tuple[Float[Tensor, "batch heads seq dim"], Float[Tensor, "batch heads seq source"] | None]:
    """Attend from each query to all visible keys, in memory linear in both lengths.

    Args:
        query: queries.
        key: keys of the other sequence.
        value: its values.
        visible: which keys count; None for all. Where none does, the output is zero.
        dropout: of the probabilities.
        output_map: also return the probabilities: what the values are multiplied by.
        implementation: ``eager`` holds the scores; for the others they are computed piecewise.

    Returns:
        The output, and the probabilities or None.

    >>> x = torch.eye(2).view(1, 1, 2, 2)
    >>> cross_attention(0 * x, x, x, torch.tensor([[True, False]]))[0][0, 0].tolist()
    [[1.0, 0.0], [1.0, 0.0]]
    """
    require_choice(Implementation, implementation=implementation)
    blind = None
    if visible is not None:
        blind = ~visible.any(dim=-1)[:, None, None, None]
        visible = visible[:, None, None, :] | blind
    if output_map or implementation == "eager":
        weights = _weigh_all(query, key, visible, dropout, None).to(value.dtype)
        if blind is not None:
            weights = weights.masked_fill(blind, 0)
        return weights @ value, weights if output_map else None
    if dropout and query.device.type == "cpu":
        refuse_transforms()
        # Torch draws a CPU's dropout of all scores at once, and keeps it for backward.
        output: Tensor = _AttendInPieces.apply(query, key, value, visible, dropout, draw_seed())  # type: ignore[assignment]
    else:
        output = scaled_dot_product_attention(
            query, key, value, attn_mask=visible, dropout_p=dropout
        )
    if blind is not None:
        output = output.masked_fill(blind, 0)
    return output, None


def _weigh_all(
    query: Tensor,
    key: Tensor,
    visible: Tensor | None,
    dropout: float,
    generator: torch.Generator | None,
) -> Tensor:
    """The probabilities of all keys, after dropout; every query sees a key."""
    scores = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
    if visible is not None:
        scores = scores.masked_fill(~visible, -torch.inf)
    probabilities = scores.softmax(dim=-1)
    if dropout:
        probabilities = probabilities * draw_kept(probabilities, dropout, generator)
    return probabilities


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
                weights = _weigh_all(query[piece], key, visible, dropout, generator)
                output[piece] = weights.to(value.dtype) @ value
        return output

    @staticmethod
    @first_derivative_only
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
                weights = _weigh_all(inputs[0], inputs[1], visible, dropout, generator)
                attended = weights.to(value.dtype) @ inputs[2]
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
