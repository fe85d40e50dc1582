"""Projections of a stream that is normalised a piece at a time.

A linear layer keeps what it reads for the gradient of its weight: here a normalised copy of the
stream, as large as that. This one keeps the stream itself, which is held anyway, and normalises it
once more in backward, piece by piece.
"""

from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from reformer_hf.nn.layer_norm import StreamLayerNorm, cast_for_products, normalise
from reformer_hf.ops.derivatives import first_derivative_only, refuse_transforms
from reformer_hf.ops.precision import autocast_off

CPU_PLACES, DEVICE_PLACES = 2**10, 2**16
"""Places of all rows that are normalised at a time."""


def project_normalised(
    stream: Float[Tensor, "batch seq dim"],
    norm: StreamLayerNorm,
    weight: Float[Tensor, "out dim"],
) -> Float[Tensor, "batch seq out"]:
    """Normalise, cast as autocast asks for, and multiply, a piece at a time.

    Args:
        stream: to project.
        norm: its weights are read, and the module is not called.
        weight: of the projection, without a bias.

    Returns:
        What ``linear(cast_for_products(norm(stream)), weight)`` does. It can be differentiated
        once.
    """
    refuse_transforms()
    shift = torch.zeros_like(norm.weight) if norm.bias is None else norm.bias
    inputs = (stream, norm.weight, shift, weight)
    return _ProjectNormalised.apply(*inputs, norm.eps)  # type: ignore[return-value]


class _ProjectNormalised(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, stream: Tensor, scale: Tensor, shift: Tensor, weight: Tensor, eps: float
    ) -> Tensor:
        def project(place: slice) -> Tensor:
            normalised = cast_for_products(normalise(stream[:, place], scale, shift, eps))
            return nn.functional.linear(normalised, weight)

        place, *others = _pieces(stream)
        result = piece = project(place)  # which says in which dtype products are
        if others:
            # One tensor from the start: small pieces, once joined, would leave holes in the heap.
            result = piece.new_empty(*stream.shape[:2], piece.shape[-1])
            result[:, place] = piece
        for place in others:
            result[:, place] = project(place)
        ctx.save_for_backward(stream, scale, shift, weight)
        ctx.eps, ctx.dtype = eps, result.dtype
        return result

    @staticmethod
    @first_derivative_only
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        stream, *parameters = ctx.saved_tensors
        result = torch.empty_like(stream)
        sums = [torch.zeros_like(each, dtype=_wide(each.dtype)) for each in parameters]
        weight = parameters[-1].to(ctx.dtype)
        # As in forward, whose casts are repeated here.
        with autocast_off(stream.device.type):
            for place in _pieces(stream):
                read = (stream[:, place], *parameters[:2])
                piece, scale, shift = leaves = [each.detach().requires_grad_() for each in read]
                with torch.enable_grad():
                    normalised = normalise(piece, scale, shift, ctx.eps).to(ctx.dtype)
                gradient = grads[0][:, place]
                result[:, place], *found = torch.autograd.grad(
                    normalised, leaves, gradient @ weight
                )
                found.append(gradient.flatten(0, 1).T @ normalised.detach().flatten(0, 1))
                for total, part in zip(sums, found, strict=True):
                    total += part
        cast = [total.to(each.dtype) for total, each in zip(sums, parameters, strict=True)]
        gradients = zip((result, *cast), ctx.needs_input_grad[:4], strict=True)
        return *(gradient if needed else None for gradient, needed in gradients), None


def _wide(dtype: torch.dtype) -> torch.dtype:
    """In which sums are taken."""
    return torch.promote_types(dtype, torch.float32)


def _pieces(stream: Tensor) -> Iterator[slice]:
    """Places of a row to take at a time."""
    places = CPU_PLACES if stream.device.type == "cpu" else DEVICE_PLACES
    step = max(1, places // stream.shape[0])
    for start in range(0, stream.shape[1], step):
        yield slice(start, start + step)
