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
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import embedding_bag

from reformer_hf.ops.autocast import autocast_off
from reformer_hf.ops.dropout import draw_kept, draw_seed, seeded_generator
from reformer_hf.ops.processor import multiplies_bfloat16
from reformer_hf.ops.window_attention import ALONE_LOGSUMEXP
from reformer_hf.ops.windows import Windows


class Sizes(NamedTuple):
    """How much is computed at a time.

    Attributes:
        block_ranks: queries of a block.
        group_numbers: numbers in the table of outputs of the heads that are combined together.
    """

    block_ranks: int
    group_numbers: int


CPU_SIZES = Sizes(2**12, 2**22)
DEVICE_SIZES = Sizes(2**18, 2**28)


def attend_blockwise(
    query: Float[Tensor, "batch heads seq dim"],
    key: Float[Tensor, "batch heads seq dim"],
    value: Float[Tensor, "batch heads seq dim"],
    windows: Windows,
    dropout: float = 0.0,
) -> Float[Tensor, "batch heads seq dim"]:
    """Attend in all rounds and combine them.

    Args:
        query: in the order of the row.
        key: in the order of the row.
        value: in the order of the row.
        windows: where the keys of each query stand.
        dropout: of the probabilities; its one seed is drawn from torch's default generator.

    Returns:
        The output, which can be differentiated once.

    Source: paper section 2 and appendix A; backward from log-sum-exps as in FlashAttention
    (arXiv 2205.14135, section 3.1).

    >>> from reformer_hf.ops import sorting, windows
    >>> x, sort = torch.eye(2).view(1, 1, 2, 2), sorting.keep_order(1, 1, 2)
    >>> windows = windows.band_windows(sort, windows.Reach(1, 0, 0), self_mask=True)
    >>> attend_blockwise(x, x, x, windows)[0, 0].tolist()
    [[1.0, 0.0], [1.0, 0.0]]
    """
    seed = draw_seed() if dropout else None
    return _AttendBlockwise.apply(query, key, value, windows, dropout, seed)  # type: ignore[return-value]


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
        windows: Windows,
        dropout: float,
        seed: int | None,
    ) -> Tensor:
        walk = _Walk(windows, query, dropout, seed)
        queries, keys, values = (_to_rows(x) for x in (query, key, value))
        output = torch.empty_like(query.transpose(1, 2), memory_format=torch.contiguous_format)
        shares = walk.new_numbers()
        table = walk.new_table()
        for group in walk.groups():
            logsumexps = shares[group.ranks]
            alone = torch.empty_like(logsumexps, dtype=torch.bool)
            for block in walk.blocks(group):
                _attend_block(walk, block, queries, keys, values, table, logsumexps, alone)
            comparable = _take(logsumexps.masked_fill(alone, ALONE_LOGSUMEXP), group.bags)
            by_token = torch.softmax(comparable, dim=-1)
            walk.sum_bags(table, group, output, weights=by_token)
            # From here on what the rank's round contributes to its token; 0 to what is in no bag.
            logsumexps.zero_().index_copy_(0, group.bags.flatten().long(), by_token.flatten())
        ctx.settings = (windows.geometry, type(windows.mask), dropout, seed)
        where = (windows.rows, windows.ranks, windows.copies)
        tensors: tuple[Tensor | None, ...] = (query, key, value, output, shares)
        ctx.save_for_backward(*tensors, *where, *windows.mask)
        return output.transpose(1, 2)

    @staticmethod
    @torch.autograd.function.once_differentiable
    @_without_autocast
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        geometry, mask_type, dropout, seed = ctx.settings
        query, key, value, output, shares, *where = ctx.saved_tensors
        rows, ranks, copies, *mask = where
        windows = Windows(rows, ranks, copies, mask_type(*mask), geometry)
        walk = _Walk(windows, query, dropout, seed)
        queries, keys, values, cotangents = map(_to_rows, (query, key, value, grads[0]))
        # What the gradient of a softmax subtracts; the same in all rounds of a token.
        shifts = _dot_rows(cotangents, output.view(cotangents.shape), shares.dtype)
        vectors = (queries, keys, values, cotangents, shifts)
        results = [torch.empty_like(output) for _ in range(3)]
        # Gradients of rounds add up, so one at a time is enough.
        tables = [walk.new_table(margins=True, wide=wide) for wide in (False, True, True)]
        for group in walk.groups(rounds_apart=True):
            for table in tables[1:]:
                table[: geometry.before + geometry.after].zero_()
            for block in walk.blocks(group):
                _differentiate_block(walk, block, vectors, shares[group.ranks], tables)
            for result, table in zip(results, tables, strict=True):
                inner = table[geometry.before :]
                if group.copies is not None:
                    copies, originals = group.copies
                    inner.index_add_(0, originals, inner.index_select(0, copies))
                walk.sum_bags(inner, group, result, walk.scale if table is tables[0] else 1.0)
        return *(result.transpose(1, 2) for result in results), None, None, None


def _attend_block(
    walk: "_Walk",
    block: "_Block",
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    table: Tensor,
    logsumexps: Tensor,
    alone: Tensor,
) -> None:
    """Attend from the queries of a block; fills its part of the last three arguments."""
    q, k, v = walk.queries(queries, block), walk.windows(keys, block), walk.windows(values, block)
    scores, alone[block.inner] = walk.score(q, k, block)
    weights = torch.softmax(scores, dim=-1)
    # The largest score less the logarithm of its probability.
    logsumexps[block.inner] = (scores.amax(dim=-1) - weights.amax(dim=-1).log_()).flatten()
    _product(walk.drop(weights, walk.draw_kept(weights)), v, out=table[block.inner])


def _differentiate_block(
    walk: "_Walk",
    block: "_Block",
    vectors: tuple[Tensor, ...],
    shares: Tensor,
    tables: list[Tensor],
) -> None:
    """Adds a block's share of the gradients of queries, keys and values to their tables."""
    queries, keys, values, cotangents, shifts = vectors
    q, k, v = walk.queries(queries, block), walk.windows(keys, block), walk.windows(values, block)
    cotangent, shift = walk.queries(cotangents, block), walk.queries(shifts, block)
    share = shares[block.inner].view_as(shift)
    cotangent, shift = cotangent.mul_(share.unsqueeze(-1)), shift.mul_(share)
    weights = torch.softmax(walk.score(q, k, block)[0], dim=-1)
    kept = walk.draw_kept(weights)
    grad_scores = walk.drop(_product(cotangent, v.mT).to(weights.dtype), kept)
    grad_scores.sub_(shift.unsqueeze(-1)).mul_(weights)
    _product(grad_scores, k, out=tables[0][block.inner_queries])
    walk.add(tables[1], block, _product(grad_scores.mT, q))
    walk.add(tables[2], block, _product(walk.drop(weights, kept).mT, cotangent))


class _Group(NamedTuple):
    """Heads that are walked over and combined together: whole rows, or some heads of one row.

    Attributes:
        batch: rows.
        heads: heads.
        ranks: their part of the long order.
        bags: for each token of each head, the ranks of its rounds within that part.
        copies: ranks within that part that repeat keys, and those that they repeat.
        continued: whether the group before was of the same heads, in other rounds.
    """

    batch: slice
    heads: slice
    ranks: slice
    bags: Int[Tensor, "batch seq heads rounds"]
    copies: Int[Tensor, "2 repeated"] | None
    continued: bool = False

    def split_rounds(self) -> "Iterator[_Group]":
        """Take the rounds one at a time, which must have a part of the ranks each."""
        count = self.bags.shape[-1]
        length = (self.ranks.stop - self.ranks.start) // count
        for round_ in range(count):
            first = self.ranks.start + round_ * length
            bags = self.bags[..., round_ : round_ + 1] - round_ * length
            ranks = slice(first, first + length)
            yield self._replace(ranks=ranks, bags=bags, continued=round_ > 0)


class _Block(NamedTuple):
    """Chunks that are computed together.

    Attributes:
        ranks: the first of the long order and the one behind the last.
        inner: their queries' part of the ranks of the group.
        inner_queries: the same in a table with margins.
        inner_windows: the windows' part of a table with margins.
        padded_queries: the queries' part of ``Windows.rows``.
        padded_windows: the windows' part of ``Windows.rows``.
    """

    ranks: tuple[int, int]
    inner: slice
    inner_queries: slice
    inner_windows: slice
    padded_queries: slice
    padded_windows: slice


class _Walk:
    """The order in which the blocks are computed, and what is the same in both directions."""

    def __init__(self, windows: Windows, query: Tensor, dropout: float, seed: int | None):
        self.order, self.ranks, self.copies, self.mask, self.geometry = windows
        self.query, self.dropout = query, dropout
        self.scale = 1 / math.sqrt(query.shape[-1])
        on_cpu = query.device.type == "cpu"
        self.wide = torch.promote_types(query.dtype, torch.float32)
        narrow = query.dtype == torch.bfloat16 and multiplies_bfloat16()
        self.compute = self.wide if on_cpu and not narrow else query.dtype
        self.copies_windows = on_cpu and narrow  # its products are slow with overlapping views
        self.table_dtype = self.compute if on_cpu else self.wide
        sizes = CPU_SIZES if on_cpu else DEVICE_SIZES
        self.block_ranks, group_size = sizes.block_ranks, sizes.group_numbers
        self.heads_and_rows = query.shape[0] * query.shape[1]
        margins = self.geometry.before + self.geometry.after
        self.length = (windows.rows.shape[0] - margins) // self.heads_and_rows
        self.fitting = max(1, group_size // (self.length * query.shape[-1]))
        # Windows of the chunk scope reach from one round to another.
        self.rounds_apart = self.copies is None and self.fitting == 1
        self.generator = seeded_generator(seed, query.device)

    def new_numbers(self) -> Tensor:
        """Room for a number per rank of the long order."""
        return self.query.new_empty(self.length * self.heads_and_rows, dtype=self.wide)

    def new_table(self, margins: bool = False, wide: bool = False) -> Tensor:
        """Room for a vector per rank of a group; with margins that its windows reach, of a part.

        It is wide if vectors are added to those in it.
        """
        count = min(self.fitting, self.heads_and_rows) * self.length
        if margins:
            if self.rounds_apart:
                count //= self.ranks.shape[2]
            count += self.geometry.before + self.geometry.after
        dtype = self.wide if wide else self.table_dtype
        return self.query.new_empty(count, self.query.shape[-1], dtype=dtype)

    def groups(self, rounds_apart: bool = False) -> Iterator[_Group]:
        """Cut the heads into groups whose tables have a bounded size.

        Args:
            rounds_apart: cut a head that is too long into its rounds, too.
        """
        (batch, heads), length, fitting = self.ranks.shape[:2], self.length, self.fitting
        rows_step, heads_step = max(1, fitting // heads), min(heads, fitting)
        for row in range(0, batch, rows_step):
            for head in range(0, heads, heads_step):
                rows = slice(row, min(batch, row + rows_step))
                some = slice(head, min(heads, head + heads_step))
                first, count = row * heads + head, self.ranks[rows, some, 0, 0].numel()
                part = slice(first * length, (first + count) * length)
                starts = torch.arange(count, device=self.ranks.device, dtype=torch.int32)
                starts = (starts * length).view(-1, some.stop - some.start, 1, 1)
                bags = (self.ranks[rows, some] + starts).permute(0, 3, 1, 2).contiguous()
                copies = None
                if self.copies is not None:
                    copies = (self.copies[rows, some] + starts).permute(2, 0, 1, 3).flatten(1)
                group = _Group(rows, some, part, bags, copies)
                if rounds_apart and self.rounds_apart:
                    yield from group.split_rounds()
                else:
                    yield group

    def blocks(self, group: _Group) -> Iterator[_Block]:
        """Cut a group into blocks, the same in both directions: each draws random numbers."""
        chunk, before, after = self.geometry
        length = group.ranks.stop - group.ranks.start
        part = self.length // self.ranks.shape[2] if self.rounds_apart else length
        step = min(max(1, self.block_ranks // chunk) * chunk, part)
        starts = range(group.ranks.start, group.ranks.stop, part)
        for first, begin in ((f, b) for b in starts for f in range(b, b + part, step)):
            last = min(first + step, begin + part)
            inner, end = first - group.ranks.start, last - group.ranks.start
            yield _Block(
                (first, last),
                slice(inner, end),
                slice(inner + before, end + before),
                slice(inner, end + before + after),
                slice(first + before, last + before),
                slice(first, last + before + after),
            )

    def queries(self, rows: Tensor, block: _Block) -> Tensor:
        """Gather what stands at the queries of a block, (chunks, chunk_len, ...)."""
        gathered = rows.index_select(0, self.order[block.padded_queries])
        dtype = self.compute if gathered.ndim > 1 else self.wide
        return gathered.to(dtype).unflatten(0, (-1, self.geometry.chunk_length))

    def windows(self, rows: Tensor, block: _Block) -> Tensor:
        """Gather the windows of a block, which overlap, (chunks, window, dim)."""
        gathered = rows.index_select(0, self.order[block.padded_windows]).to(self.compute)
        chunk, before, after = self.geometry
        windows = gathered.unfold(0, before + chunk + after, chunk).transpose(1, 2)
        return windows.contiguous() if self.copies_windows else windows

    def score(self, q: Tensor, k: Tensor, block: _Block) -> tuple[Tensor, Tensor]:
        """Masked scores, (chunks, chunk_len, window), and which queries yield to other rounds.

        Scales the queries in place, which is what the gradient of the keys needs.
        """
        scores = _product(q.mul_(self.scale), k.mT).to(self.wide)
        mask, alone = self.mask.block(*block.ranks, self.geometry, scores.dtype)
        return scores.add_(mask), alone

    def draw_kept(self, weights: Tensor) -> Tensor | None:
        """Which weights dropout keeps, scaled up; the same numbers in both directions."""
        return draw_kept(weights, self.dropout, self.generator) if self.dropout else None

    @staticmethod
    def drop(weights: Tensor, kept: Tensor | None) -> Tensor:
        """Apply dropout."""
        return weights if kept is None else weights * kept

    def add(self, table: Tensor, block: _Block, vectors: Tensor) -> None:
        """Add to a table what the windows of a block, which overlap, have for its ranks.

        The last places of a window are the first to reach a rank: blocks come in order, so what
        stands there is of an earlier use of the table.
        """
        chunk = self.geometry.chunk_length
        ranks = table[block.inner_windows]
        for end in range(vectors.shape[1], 0, -chunk):
            first = max(0, end - chunk)
            places = ranks[first:].unfold(0, end - first, chunk)[: len(vectors)].transpose(1, 2)
            part = vectors[:, first:end]
            places.copy_(part) if end == vectors.shape[1] else places.add_(part)

    def sum_bags(
        self,
        table: Tensor,
        group: _Group,
        result: Tensor,
        scale: float = 1.0,
        weights: Tensor | None = None,
    ) -> None:
        """Write, for each token of a group, the sum of the rows of its bag; some tokens at a time.

        Args:
            table: a vector per rank of the group.
            group: heads; if it continues another, the sums are added to what that wrote.
            result: for all tokens and heads, (batch, seq, heads, dim).
            scale: multiplies the sums.
            weights: of the rows, (batch, seq, heads, rounds); None for 1.
        """
        part, bags = result[group.batch, :, group.heads], group.bags
        step = max(1, self.block_ranks // (bags.shape[0] * bags.shape[2]))
        for first in range(0, bags.shape[1], step):
            places = slice(first, first + step)
            some, into = bags[:, places], part[:, places]
            shares = weights
            if weights is not None:
                shares = weights[:, places].flatten(0, -2).to(table.dtype)
            summed = embedding_bag(
                some.flatten(0, -2), table, mode="sum", per_sample_weights=shares
            ).view(into.shape)
            if scale != 1:
                summed.mul_(scale)
            into.add_(summed) if group.continued else into.copy_(summed)


def _to_rows(vectors: Float[Tensor, "batch heads seq dim"]) -> Float[Tensor, "rows dim"]:
    """Rows of (batch, seq, heads): no copy of what a linear layer has made."""
    return vectors.transpose(1, 2).reshape(-1, vectors.shape[-1])


def _dot_rows(left: Tensor, right: Tensor, dtype: torch.dtype) -> Tensor:
    """Scalar product of each two rows, in a dtype of its own without a wide copy of them all."""
    parts = zip(left.split(2**14), right.split(2**14), strict=True)
    return torch.cat([(a.to(dtype) * b).sum(dim=-1) for a, b in parts])


def _product(left: Tensor, right: Tensor, out: Tensor | None = None) -> Tensor:
    """Batched product in the right factor's dtype; written to the rows of ``out``, if given."""
    left = left.to(right.dtype)
    if out is None:
        return torch.bmm(left, right)
    if out.dtype == right.dtype:
        torch.bmm(left, right, out=out.view(*left.shape[:2], -1))
        return out
    return out.copy_(torch.bmm(left, right).flatten(0, 1))


def _take(numbers: Tensor, index: Tensor) -> Tensor:
    return numbers.index_select(0, index.flatten()).view(index.shape)
