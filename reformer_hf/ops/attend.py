"""Exact attention of queries over given windows of keys."""

import math
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from reformer_hf.ops.derivatives import first_derivative_only, refuse_transforms

Implementation = Literal["auto", "blockwise", "eager", "flex_attention", "triton"]
"""How attention is computed: ``blockwise`` block by block (:mod:`reformer_hf.ops.blockwise`),
``triton`` by kernels for a GPU (:mod:`reformer_hf.ops.triton_attention`), ``eager`` in plain
operations that hold all scores at once, ``flex_attention`` by torch's function; ``auto`` by the
kernels where they run, else block by block.
"""

ALONE_LOGSUMEXP = -1e5
"""Log-sum-exp of a round that shows a query only itself: trax's and transformers' self mask."""


class Attended(NamedTuple):
    """What attention yields for each query.

    Attributes:
        output: weighted sum of the values.
        logsumexp: of the visible scores, float32 or wider.
        probabilities: over the query's window, after dropout, float32 or wider; None where they
            are not kept.
    """

    output: Float[Tensor, "*lead seq dim"]
    logsumexp: Float[Tensor, "*lead seq"]
    probabilities: Float[Tensor, "*lead seq window"] | None


def normalise_keys(query: Float[Tensor, "*lead dim"]) -> Float[Tensor, "*lead dim"]:
    """Keys of shared-QK attention: the queries at root-mean-square length one.

    Args:
        query: queries.

    Returns:
        ``query / sqrt(mean(query²) + 1e-6)``, computed in float32 or wider.

    Source: paper section 2, "Shared-QK Transformer".

    >>> [round(x, 3) for x in normalise_keys(torch.tensor([3.0, -3.0])).tolist()]
    [1.0, -1.0]
    """
    wide = query.to(torch.promote_types(query.dtype, torch.float32))
    return (wide * _inverse_length(wide)).to(query.dtype)


def normalise_keys_in_parts(query: Float[Tensor, "*lead dim"]) -> Float[Tensor, "*lead dim"]:
    """The same in little memory; it can be differentiated once.

    Args:
        query: queries.

    Returns:
        What :func:`normalise_keys` does.

    >>> [round(x, 3) for x in normalise_keys_in_parts(torch.tensor([3.0, -3.0])).tolist()]
    [1.0, -1.0]
    """
    if torch.compiler.is_compiling():  # which takes no parts
        return normalise_keys(query)
    refuse_transforms()
    return _NormaliseKeys.apply(query)  # type: ignore[return-value]


class _NormaliseKeys(torch.autograd.Function):
    """Keeps the query alone for backward, and holds a part of it in a wider dtype at a time."""

    @staticmethod
    def forward(ctx: Any, query: Tensor) -> Tensor:
        ctx.save_for_backward(query)
        keys = torch.empty_like(query)
        for part, key in _parts(query, keys):
            wide = part.to(torch.promote_types(part.dtype, torch.float32))
            key.copy_(wide * _inverse_length(wide))
        return keys

    @staticmethod
    @first_derivative_only
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (query,) = ctx.saved_tensors
        result = torch.empty_like(query)
        for part, grad, out in _parts(query, grads[0], result):
            wide = part.to(torch.promote_types(part.dtype, torch.float32))
            inverse = _inverse_length(wide)
            key = wide * inverse
            along = (key * grad).mean(dim=-1, keepdim=True)
            out.copy_((grad - key * along).mul_(inverse))
        return result


def _inverse_length(wide: Tensor) -> Tensor:
    return torch.rsqrt(wide.square().mean(dim=-1, keepdim=True) + 1e-6)


def _parts(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Cut tensors of vectors into parts along the sequence."""
    if tensors[0].ndim < 2:
        return iter([tensors])
    length = 2**12 if tensors[0].device.type == "cpu" else 2**17
    return zip(*(tensor.split(length, dim=-2) for tensor in tensors), strict=True)


def attend(
    query: Float[Tensor, "*lead chunk_len dim"],
    key: Float[Tensor, "*lead window dim"],
    value: Float[Tensor, "*lead window dim"],
    visible: Bool[Tensor, "*#lead chunk_len window"],
    own: Bool[Tensor, "*#lead chunk_len window"] | None = None,
    counts: Int[Tensor, "*#lead chunk_len window"] | None = None,
    dropout: float = 0.0,
) -> Attended:
    """Exact attention of each chunk of queries over its window of keys.

    Args:
        query: a chunk.
        key: its window.
        value: the window's values.
        visible: which keys a query may see; every query must see its own place.
        own: given for a self mask: where a query meets itself, which counts only when the window
            shows no other key.
        counts: divide each key's weight by this.
        dropout: of the probabilities.

    Returns:
        Output, log-sum-exp and probabilities.

    >>> one, zero = torch.ones(1, 2), torch.zeros(1, 2)
    >>> attend(zero, zero, one, torch.ones(1, 1, dtype=torch.bool)).output.tolist()
    [[1.0, 1.0]]
    """
    scores = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
    if counts is not None:
        scores = scores - counts.clamp(min=1).to(scores.dtype).log()
    alone = None
    if own is not None:
        others = visible & ~own
        alone = ~others.any(dim=-1, keepdim=True)
        visible = others | (own & alone)
    scores = scores.masked_fill(~visible, -torch.inf)
    logsumexp = scores.logsumexp(dim=-1, keepdim=True)
    probabilities = (scores - logsumexp).exp()
    if alone is not None:
        logsumexp = logsumexp.masked_fill(alone, ALONE_LOGSUMEXP)
    if dropout:
        probabilities = torch.nn.functional.dropout(probabilities, dropout)
    return Attended(probabilities.to(value.dtype) @ value, logsumexp.squeeze(-1), probabilities)
