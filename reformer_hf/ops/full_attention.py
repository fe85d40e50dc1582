"""Exact attention to the whole document, the yardstick of the sparse kinds."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from reformer_hf.ops.attention import Implementation
from reformer_hf.ops.attention_map import AttentionMap
from reformer_hf.ops.window_attention import attend_windows


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
    implementation: Implementation = "sdpa",
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
    attended = attend_windows(query, key, value, visible, own=own, dropout=dropout)
    assert attended.probabilities is not None
    probabilities = attended.probabilities.unsqueeze(2)
    places = torch.arange(query.shape[-2], device=query.device).expand(probabilities.shape)
    return attended.output, AttentionMap(probabilities, places.masked_fill(probabilities == 0, -1))
