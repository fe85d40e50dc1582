"""Attention of all rounds at once by Triton kernels: the fast path on a GPU.

What :mod:`reformer_hf.ops.blockwise` computes, with a kernel in place of its blocks: all rounds of
all heads that fit into one table are one launch. Both directions are operators of torch, so that
`torch.compile` goes around them.
"""

import importlib.util
import os
import shutil
from collections.abc import Sequence
from functools import cache
from typing import (
    Any,
)

import torch
from jaxtyping import Float
from torch import Tensor

from reformer_hf.ops.block_order import BlockOrder, Sizes
from reformer_hf.ops.derivatives import first_derivative_only, refuse_transforms
from reformer_hf.ops.long_order import BandMask, EarlierPlaceMask, Geometry, LongOrder, PlaceMask
from reformer_hf.ops.operators import own_name
from reformer_hf.ops.token_rows import dot_rows, sum_bags, take, to_rows

SIZES = Sizes(2**18, 2**28)
"""How many sums are taken at a time, and numbers in a table of what the kernels write."""

IS_INSTALLED = importlib.util.find_spec("triton") is not None
"""Whether Triton can be imported, which nobody does before a kernel runs."""

LARGEST_DIM = 128
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def refusal(like: Float[Tensor, "*lead dim"]) -> str | None:
    """Say why the kernels cannot attend vectors, and what to do.

    Args:
        like: the queries.

    Returns:
        The reason; None if they can.

    >>> "float64" in refusal(torch.zeros(1, 4, dtype=torch.float64))
    True
    """
    if like.dtype not in DTYPES:
        return f"a dtype of {like.dtype}: cast the model to float32, bfloat16 or float16"
    if like.shape[-1] > LARGEST_DIM:
        return f"a head of {like.shape[-1]} numbers: use heads of at most {LARGEST_DIM}"
    if like.device.type == "cpu" and os.environ.get("TRITON_INTERPRET") != "1":
        return "tensors on the CPU: move the model to a CUDA device"
    if like.device.type not in ("cuda", "cpu", "meta"):  # `meta` shows shapes, and runs no kernel
        return f"tensors on {like.device.type!r}: move the model to a CUDA device"
    if like.device.type != "meta" and not IS_INSTALLED:
        return "Triton, which is not installed: `pip install triton`"
    return None


@cache
def has_kernels(device: torch.device) -> bool:
    """Whether `auto` takes the kernels: on Nvidia's GPUs from Ampere on, and with a C compiler.

    Triton builds the start of a kernel with it; older GPUs lack bfloat16.

    Args:
        device: of the queries.

    >>> has_kernels(torch.device("cpu"))
    False
    """
    if device.type != "cuda" or torch.version.hip or not torch.cuda.is_available():
        return False
    compiler = os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")
    return bool(compiler) and torch.cuda.get_device_capability(device) >= (8, 0)


def attend_triton(
    query: Float[Tensor, "batch heads seq dim"],
    key: Float[Tensor, "batch heads seq dim"],
    value: Float[Tensor, "batch heads seq dim"],
    order: LongOrder,
    dropout: float = 0.0,
) -> Float[Tensor, "batch heads seq dim"]:
    """Attend in all rounds and combine them.

    Args:
        query: in the order of the row.
        key: in the order of the row.
        value: in the order of the row.
        order: where the keys of each query stand.
        dropout: of the probabilities; its one seed is drawn from torch's default generator.

    Returns:
        The output, which can be differentiated once.

    Raises:
        ValueError: if the kernels cannot attend such vectors.

    Source: paper section 2 and appendix A; backward from log-sum-exps as in FlashAttention
    (arXiv 2205.14135, section 3.1); dropout by Philox (Salmon et al., SC 2011).

    >>> from reformer_hf.ops import long_order, sorting, window
    >>> x, sort = torch.ones(1, 1, 2, 2, device="meta"), sorting.keep_order(1, 1, 2, "meta")
    >>> order = long_order.segment_order(sort, window.Window(1, 1), self_mask=True)
    >>> attend_triton(x, x, x, order).shape
    torch.Size([1, 1, 2, 2])
    """
    if reason := refusal(query):
        raise ValueError(f"implementation='triton' with {reason}, or choose 'blockwise'")
    if not torch.compiler.is_compiling():
        refuse_transforms()
    seed = torch.randint(2**63 - 1, (), device="cpu") if dropout else None
    tensors, kind = _flatten(order)
    return _attend(query, key, value, tensors, kind, order.geometry, dropout, seed)[0]


def _flatten(order: LongOrder) -> tuple[list[Tensor], str]:
    """The tensors of an order and the kind of its mask, as operators take them."""
    mask, where = order.mask, [order.rows, order.ranks]
    if isinstance(mask, BandMask):
        later = [] if mask.later is None else [mask.later]
        return [*where, mask.yields, mask.earlier, *later], "band"
    kind = "earlier places" if isinstance(mask, EarlierPlaceMask) else "other places"
    assert order.copies is not None  # a ring repeats what its windows reach around it
    return [*where, order.copies, *mask], kind


def _unflatten(tensors: Sequence[Tensor], kind: str, geometry: Sequence[int]) -> LongOrder:
    """Undo :func:`_flatten`."""
    rows, ranks, *rest = tensors
    if kind == "band":
        later = rest[2] if len(rest) > 2 else None
        mask = BandMask(rest[0], rest[1], later, None, None)
        return LongOrder(rows, ranks, None, mask, Geometry(*geometry))
    mask = (EarlierPlaceMask if kind == "earlier places" else PlaceMask)(*rest[1:])
    return LongOrder(rows, ranks, rest[0], mask, Geometry(*geometry))


@torch.library.custom_op(own_name("attend", __name__), mutates_args=())
def _attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    order: Sequence[Tensor],
    kind: str,
    geometry: Sequence[int],
    dropout: float,
    seed: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Output (batch, heads, seq, dim) and log-sum-exps of the union of rounds, by row."""
    from reformer_hf.ops.triton_launch import Launcher

    where = _unflatten(order, kind, geometry)
    vectors = tuple(to_rows(x).contiguous() for x in (query, key, value))
    launcher = Launcher(where, vectors, dropout, None if seed is None else int(seed))
    output, logsumexps = _new_output(query)
    blocks = BlockOrder(where, query.shape[-1], SIZES)
    table = _new_table(blocks, query, margins=False)
    by_rank = table.new_empty(len(table))
    for group in blocks.groups():
        launcher.attend(group.ranks, table, by_rank)
        of_rounds = take(by_rank, group.bags)
        union = of_rounds.logsumexp(dim=-1)
        logsumexps.view(output.shape[:-1])[group.batch, :, group.heads] = union
        # What is alone in all rounds has an equal part of each.
        alone = union.isneginf().unsqueeze(-1)
        weights = torch.softmax(of_rounds.masked_fill(alone, 0), dim=-1)
        sum_bags(table, group, output, SIZES.block_ranks, weights=weights)
    return output.transpose(1, 2), logsumexps


@torch.library.custom_op(own_name("differentiate", __name__), mutates_args=())
def _differentiate(
    vectors: Sequence[Tensor],
    logsumexps: Tensor,
    order: Sequence[Tensor],
    kind: str,
    geometry: Sequence[int],
    dropout: float,
    seed: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of query, key and value, given these, the output and its cotangent."""
    from reformer_hf.ops.triton_launch import Launcher

    where, query = _unflatten(order, kind, geometry), vectors[0]
    *inputs, output, cotangent = (to_rows(x).contiguous() for x in vectors)
    launcher = Launcher(where, tuple(inputs), dropout, None if seed is None else int(seed))
    # The same in all rounds of a token.
    shifts = dot_rows(cotangent, output, torch.float32)
    results = [_new_output(query)[0] for _ in range(3)]
    blocks = BlockOrder(where, query.shape[-1], SIZES)
    tables = [_new_table(blocks, query, margins=True) for _ in range(3)]
    for group in blocks.groups(rounds_apart=True):
        launcher.differentiate(group.ranks, (cotangent, logsumexps, shifts), tables)
        for result, table in zip(results, tables, strict=True):
            if group.copies is not None:
                copies, originals = group.copies
                table.index_add_(0, originals, table.index_select(0, copies))
            sum_bags(table, group, result, SIZES.block_ranks)
    query_grad, key_grad, value_grad = (result.transpose(1, 2) for result in results)
    return query_grad, key_grad, value_grad


def _new_output(query: Tensor) -> tuple[Tensor, Tensor]:
    """Room for a vector of each token and head, (batch, seq, heads, dim), and a number, by row."""
    output = torch.empty_like(query.transpose(1, 2), memory_format=torch.contiguous_format)
    return output, query.new_empty(output.shape[:-1].numel(), dtype=torch.float32)


def _new_table(blocks: BlockOrder, query: Tensor, margins: bool) -> Tensor:
    shape = (blocks.table_length(margins), query.shape[-1])
    return query.new_empty(shape, dtype=torch.float32)


@_attend.register_fake
def _(query: Tensor, key: Tensor, value: Tensor, *order: Any) -> tuple[Tensor, Tensor]:
    output, logsumexps = _new_output(query)
    return output.transpose(1, 2), logsumexps


@_differentiate.register_fake
def _(vectors: Sequence[Tensor], *order: Any) -> tuple[Tensor, Tensor, Tensor]:
    query_grad, key_grad, value_grad = (
        _new_output(vectors[0])[0].transpose(1, 2) for _ in range(3)
    )
    return query_grad, key_grad, value_grad


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *vectors, order, kind, geometry, dropout, seed = inputs
    ctx.set_materialize_grads(False)
    ctx.settings = (kind, geometry, dropout, len(order))
    ctx.save_for_backward(*vectors, *output, *order, seed)


@first_derivative_only
def _backward(ctx: Any, cotangent: Tensor | None, _: Tensor | None) -> tuple[Any, ...]:
    kind, geometry, dropout, count = ctx.settings
    none = ([None] * count, None, None, None, None)
    if cotangent is None:
        return None, None, None, *none
    *vectors, output, logsumexps = ctx.saved_tensors[:5]
    *order, seed = ctx.saved_tensors[5:]
    vectors += [output, cotangent]
    return *_differentiate(vectors, logsumexps, order, kind, geometry, dropout, seed), *none


_attend.register_autograd(_backward, setup_context=_keep)
