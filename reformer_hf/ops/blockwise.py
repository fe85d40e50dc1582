"""Attention of all rounds at once, computed block by block: the fast path.

The same steps as in :mod:`reformer_hf.ops.attention`, without ever holding the scores or the
sorted vectors of a whole layer. All rounds of all heads stand in one long order, round after round
and head after head, cut into chunks; a query sees places near its own, and a mask hides some of
them. For each block of chunks:

1. gather the block's queries, and the keys and values of its windows;
2. score, mask, softmax, weighted sum of the values; keep each query's log-sum-exp.

When all rounds of a head are done, each token's outputs are weighed by the softmax of their
log-sum-exps. The backward pass walks over the same blocks: there a key's probability in its round,
times the round's share in the token's output, is its probability in the union of the rounds, so
that one number per query is all it needs.

Blocks are small enough for the caches of a CPU, where touching new memory costs more than
arithmetic, and large elsewhere. Products are taken in the dtype of the inputs; on a CPU in
float32, unless it has instructions for bfloat16. Softmax and sums are float32 or wider.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from reformer_hf.ops.attend import ALONE_LOGSUMEXP
from reformer_hf.ops.block_order import Block, BlockOrder, Sizes
from reformer_hf.ops.derivatives import first_derivative_only, refuse_transforms
from reformer_hf.ops.dropout import draw_kept, draw_seed, seeded_generator
from reformer_hf.ops.long_order import LongOrder
from reformer_hf.ops.precision import autocast_off, multiplies_bfloat16
from reformer_hf.ops.token_rows import dot_rows, sum_bags, take, to_rows

CPU_SIZES = Sizes(2**12, 2**22)
DEVICE_SIZES = Sizes(2**18, 2**28)


def attend_blockwise(
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

    Source: paper section 2 and appendix A; backward from log-sum-exps as in FlashAttention
    (arXiv 2205.14135, section 3.1).

    >>> from reformer_hf.ops import long_order, sorting, window
    >>> x, sort = torch.eye(2).view(1, 1, 2, 2), sorting.keep_order(1, 1, 2)
    >>> order = long_order.segment_order(sort, window.Window(1, 1), self_mask=True)
    >>> attend_blockwise(x, x, x, order)[0, 0].tolist()
    [[1.0, 0.0], [1.0, 0.0]]
    """
    refuse_transforms()
    seed = draw_seed() if dropout else None
    return _AttendBlockwise.apply(query, key, value, order, dropout, seed)  # type: ignore[return-value]


def _without_autocast(function: Callable) -> Callable:
    """Autocast would take products of float32 in half precision, and not alike in backward."""

    @functools.wraps(function)
    def run(ctx: Any, tensor: Tensor, *arguments: Any) -> Any:
        with autocast_off(tensor.device.type):
            return function(ctx, tensor, *arguments)

    return run


class _AttendBlockwise(torch.autograd.Function):
    @staticmethod
    @_without_autocast
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        order: LongOrder,
        dropout: float,
        seed: int | None,
    ) -> Tensor:
        steps = _Steps(order, query, dropout, seed)
        queries, keys, values = (to_rows(x) for x in (query, key, value))
        output = torch.empty_like(query.transpose(1, 2), memory_format=torch.contiguous_format)
        shares = query.new_empty(steps.blocks.total, dtype=steps.dtypes.wide)
        table = steps.new_table()
        for group in steps.blocks.groups():
            logsumexps = shares[group.ranks]
            alone = torch.empty_like(logsumexps, dtype=torch.bool)
            for block in steps.blocks.blocks(group):
                _attend_block(steps, block, queries, keys, values, table, logsumexps, alone)
            comparable = take(logsumexps.masked_fill(alone, ALONE_LOGSUMEXP), group.bags)
            by_token = torch.softmax(comparable, dim=-1)
            sum_bags(table, group, output, steps.blocks.block_ranks, weights=by_token)
            # From here on what the rank's round contributes to its token; 0 to what is in no bag.
            logsumexps.zero_().index_copy_(0, group.bags.flatten().long(), by_token.flatten())
        ctx.settings = (order.geometry, type(order.mask), dropout, seed)
        where = (order.rows, order.ranks, order.copies)
        tensors: tuple[Tensor | None, ...] = (query, key, value, output, shares)
        ctx.save_for_backward(*tensors, *where, *order.mask)
        return output.transpose(1, 2)

    @staticmethod
    @first_derivative_only
    @_without_autocast
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        geometry, mask_type, dropout, seed = ctx.settings
        query, key, value, output, shares, *where = ctx.saved_tensors
        rows, ranks, copies, *mask = where
        order = LongOrder(rows, ranks, copies, mask_type(*mask), geometry)
        steps = _Steps(order, query, dropout, seed)
        queries, keys, values, cotangents = map(to_rows, (query, key, value, grads[0]))
        # What the gradient of a softmax subtracts; the same in all rounds of a token.
        shifts = dot_rows(cotangents, output.view(cotangents.shape), shares.dtype)
        vectors = (queries, keys, values, cotangents, shifts)
        results = [torch.empty_like(output) for _ in range(3)]
        # Gradients of rounds add up, so one at a time is enough.
        tables = [steps.new_table(margins=True, wide=wide) for wide in (False, True, True)]
        for group in steps.blocks.groups(rounds_apart=True):
            for table in tables[1:]:
                table[: steps.blocks.margins].zero_()
            for block in steps.blocks.blocks(group):
                _differentiate_block(steps, block, vectors, shares[group.ranks], tables)
            for result, table in zip(results, tables, strict=True):
                inner = table[geometry.before :]
                if group.copies is not None:
                    copies, originals = group.copies
                    inner.index_add_(0, originals, inner.index_select(0, copies))
                scale = steps.scale if table is tables[0] else 1.0
                sum_bags(inner, group, result, steps.blocks.block_ranks, scale)
        return *(result.transpose(1, 2) for result in results), None, None, None


def _attend_block(
    steps: "_Steps",
    block: Block,
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    table: Tensor,
    logsumexps: Tensor,
    alone: Tensor,
) -> None:
    """Attend from the queries of a block; fills its part of the last three arguments."""
    q, k, v = (
        steps.queries(queries, block),
        steps.windows(keys, block),
        steps.windows(values, block),
    )
    scores, alone[block.inner] = steps.score(q, k, block)
    weights = torch.softmax(scores, dim=-1)
    # The largest score less the logarithm of its probability.
    logsumexps[block.inner] = (scores.amax(dim=-1) - weights.amax(dim=-1).log_()).flatten()
    _product(steps.drop(weights, steps.draw_kept(weights)), v, out=table[block.inner])


def _differentiate_block(
    steps: "_Steps",
    block: Block,
    vectors: tuple[Tensor, ...],
    shares: Tensor,
    tables: list[Tensor],
) -> None:
    """Adds a block's share of the gradients of queries, keys and values to their tables."""
    queries, keys, values, cotangents, shifts = vectors
    q, k, v = (
        steps.queries(queries, block),
        steps.windows(keys, block),
        steps.windows(values, block),
    )
    cotangent, shift = steps.queries(cotangents, block), steps.queries(shifts, block)
    share = shares[block.inner].view_as(shift)
    cotangent, shift = cotangent.mul_(share.unsqueeze(-1)), shift.mul_(share)
    weights = torch.softmax(steps.score(q, k, block)[0], dim=-1)
    kept = steps.draw_kept(weights)
    grad_scores = steps.drop(_product(cotangent, v.mT).to(weights.dtype), kept)
    grad_scores.sub_(shift.unsqueeze(-1)).mul_(weights)
    _product(grad_scores, k, out=tables[0][block.inner_queries])
    steps.add(tables[1], block, _product(grad_scores.mT, q))
    steps.add(tables[2], block, _product(steps.drop(weights, kept).mT, cotangent))


class _Dtypes(NamedTuple):
    """The precision of each kind of number.

    Attributes:
        wide: of softmax and sums.
        product: of products.
        table: of vectors that nothing is added to.
        copies_windows: whether windows are copied, so that they do not overlap.
    """

    wide: torch.dtype
    product: torch.dtype
    table: torch.dtype
    copies_windows: bool

    @classmethod
    def of(cls, query: Tensor) -> "_Dtypes":
        """Choose by the inputs and where they are."""
        wide = torch.promote_types(query.dtype, torch.float32)
        if query.device.type != "cpu":
            return cls(wide, query.dtype, wide, copies_windows=False)
        narrow = query.dtype == torch.bfloat16 and multiplies_bfloat16()
        product = query.dtype if narrow else wide
        # Products of bfloat16 are slow with overlapping views.
        return cls(wide, product, product, copies_windows=narrow)


class _Steps:
    """The steps of a block that both directions take."""

    def __init__(self, order: LongOrder, query: Tensor, dropout: float, seed: int | None):
        self.order, self.query, self.dropout = order, query, dropout
        self.scale = 1 / math.sqrt(query.shape[-1])
        self.dtypes = _Dtypes.of(query)
        sizes = CPU_SIZES if query.device.type == "cpu" else DEVICE_SIZES
        self.blocks = BlockOrder(order, query.shape[-1], sizes)
        self.generator = seeded_generator(seed, query.device)

    def new_table(self, margins: bool = False, wide: bool = False) -> Tensor:
        """Room for a vector per rank of a group; with margins that its windows reach, of a part.

        It is wide if vectors are added to those in it.
        """
        dtype = self.dtypes.wide if wide else self.dtypes.table
        return self.query.new_empty(
            self.blocks.table_length(margins), self.query.shape[-1], dtype=dtype
        )

    def queries(self, rows: Tensor, block: Block) -> Tensor:
        """Gather what stands at the queries of a block, (chunks, chunk_len, ...)."""
        gathered = rows.index_select(0, self.order.rows[block.padded_queries])
        dtype = self.dtypes.product if gathered.ndim > 1 else self.dtypes.wide
        return gathered.to(dtype).unflatten(0, (-1, self.order.geometry.chunk_length))

    def windows(self, rows: Tensor, block: Block) -> Tensor:
        """Gather the windows of a block, which overlap, (chunks, window, dim)."""
        gathered = rows.index_select(0, self.order.rows[block.padded_windows]).to(
            self.dtypes.product
        )
        chunk, before, after = self.order.geometry
        windows = gathered.unfold(0, before + chunk + after, chunk).transpose(1, 2)
        return windows.contiguous() if self.dtypes.copies_windows else windows

    def score(self, q: Tensor, k: Tensor, block: Block) -> tuple[Tensor, Tensor]:
        """Masked scores, (chunks, chunk_len, window), and which queries yield to other rounds.

        Scales the queries in place, which is what the gradient of the keys needs.
        """
        scores = _product(q.mul_(self.scale), k.mT).to(self.dtypes.wide)
        mask, alone = self.order.mask.block(*block.ranks, self.order.geometry, scores.dtype)
        return scores.add_(mask), alone

    def draw_kept(self, weights: Tensor) -> Tensor | None:
        """Which weights dropout keeps, scaled up; the same numbers in both directions."""
        return draw_kept(weights, self.dropout, self.generator) if self.dropout else None

    @staticmethod
    def drop(weights: Tensor, kept: Tensor | None) -> Tensor:
        """Apply dropout."""
        return weights if kept is None else weights * kept

    def add(self, table: Tensor, block: Block, vectors: Tensor) -> None:
        """Add to a table what the windows of a block, which overlap, have for its ranks.

        The last places of a window are the first to reach a rank: blocks come in order, so what
        stands there is of an earlier use of the table.
        """
        chunk = self.order.geometry.chunk_length
        ranks = table[block.inner_windows]
        for end in range(vectors.shape[1], 0, -chunk):
            first = max(0, end - chunk)
            places = ranks[first:].unfold(0, end - first, chunk)[: len(vectors)].transpose(1, 2)
            part = vectors[:, first:end]
            places.copy_(part) if end == vectors.shape[1] else places.add_(part)


def _product(left: Tensor, right: Tensor, out: Tensor | None = None) -> Tensor:
    """Batched product in the right factor's dtype; written to the rows of ``out``, if given."""
    left = left.to(right.dtype)
    if out is None:
        return torch.bmm(left, right)
    if out.dtype == right.dtype:
        torch.bmm(left, right, out=out.view(*left.shape[:2], -1))
        return out
    return out.copy_(torch.bmm(left, right).flatten(0, 1))
