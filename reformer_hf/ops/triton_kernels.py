"""Triton kernels of attention over the long order, forward and backward.

A program computes some ranks: it fetches the rows that stand there by their numbers, and walks over
the blocks of ranks that its own ones see, or are seen from. No sorted copy is made, and no result
depends on the order in which programs run. Scores, softmax and sums are float32; products are taken
in the dtype of the queries, float32 without rounding to TensorFloat-32.

This file needs Triton. Nothing imports it before a kernel runs.
"""

# pyright: reportArgumentType=false, reportOperatorIssue=false
# What Triton calls a function is no Python function.

from reformer_hf.ops.long_order import NO_KEY

try:  # in a `try`, or whoever loads this file as remote code would need Triton
    import triton  # pyright: ignore[reportMissingImports]
    import triton.language as tl  # pyright: ignore[reportMissingImports]
except ImportError as error:
    raise ImportError(
        "implementation='triton' (attn_implementation='triton' of a model) needs Triton: "
        "`pip install triton`, or choose 'blockwise'"
    ) from error

EVERY, EARLIER_PLACES, OTHER_PLACES = (tl.constexpr(number) for number in range(3))
"""Which near keys a query sees: each; those at earlier places of the row; those at others."""

NOWHERE = tl.constexpr(NO_KEY)


@triton.jit
def _gather(vectors, numbers, real, DIM: tl.constexpr, WIDTH: tl.constexpr):
    """Fetch rows by number, (ranks, WIDTH); 0 behind DIM and where a rank is not real."""
    columns = tl.arange(0, WIDTH)
    places = numbers.to(tl.int64)[:, None] * DIM + columns[None, :]
    return tl.load(vectors + places, real[:, None] & (columns < DIM)[None, :], 0.0)


@triton.jit
def _store(table, vectors, ranks, real, DIM: tl.constexpr, WIDTH: tl.constexpr):
    """Write vectors to the rows of a table that their ranks number."""
    columns = tl.arange(0, WIDTH)
    places = ranks.to(tl.int64)[:, None] * DIM + columns[None, :]
    tl.store(table + places, vectors, real[:, None] & (columns < DIM)[None, :])


@triton.jit
def _product(left, right):
    return tl.dot(left.to(right.dtype), right, input_precision="ieee")


@triton.jit
def _reach(ranks, real, earlier, later, before, after, CHUNK: tl.constexpr):
    """How many ranks before and behind its own each query sees; -1 where a rank is not real."""
    if CHUNK:  # the chunk's window, the same for all queries of a chunk
        back = ranks % CHUNK + before
        ahead = CHUNK - 1 - ranks % CHUNK + after
        back, ahead = tl.where(real, back, -1), tl.where(real, ahead, -1)
    else:
        back = tl.load(earlier + ranks, real, -1)
        ahead = tl.where(real, 0, -1)
        if later is not None:
            ahead = tl.load(later + ranks, real, -1)
    return back, ahead


@triton.jit
def _visible(
    queries, keys, back, ahead, yields, query_places, key_places, real, before, SEES: tl.constexpr
):
    """Which keys the queries see, (queries, keys), leaving aside their own where it yields.

    `real` says which keys exist, and `back` and `ahead` which queries.
    """
    distance = queries[:, None] - keys[None, :]
    near = (distance <= back[:, None]) & (distance >= -ahead[:, None]) & real[None, :]
    if SEES == EVERY:
        seen = near & ((distance != 0) | (tl.load(yields) == 0))
    else:
        query_place = tl.load(query_places + queries, back >= 0, -1)[:, None]
        key_place = tl.load(key_places + before + keys, real, NOWHERE)[None, :]
        if SEES == EARLIER_PLACES:
            seen = near & (key_place < query_place)
        else:
            others = (key_place != query_place) & (key_place != NOWHERE)
            seen = near & others & (query_place >= 0)
    return seen


@triton.jit
def _kept(seed, first, queries, keys, threshold):
    """What dropout keeps: those whose first word of Philox for (seed, rank, key) is large enough.

    Both counters are ranks of the whole long order, whose part here begins at `first`.
    """
    rank, key = tl.broadcast((first + queries).to(tl.int32), (first + keys).to(tl.int32))
    zero = tl.zeros_like(rank)
    word, _, _, _ = tl.philox(seed, rank, key, zero, zero)
    return (word >> 1).to(tl.int32) >= threshold


@triton.jit
def attend_kernel(
    query, key, value, rows, earlier, later, yields, query_places, key_places,
    first_rank, length, before, after, scale, seed, threshold, kept_scale,
    output, logsumexp,
    DIM: tl.constexpr, WIDTH: tl.constexpr, CHUNK: tl.constexpr, SEES: tl.constexpr,
    BLOCK: tl.constexpr, OTHERS: tl.constexpr,
):  # fmt: skip
    """Output and log-sum-exp of the queries at BLOCK ranks, OTHERS keys at a time.

    A query that sees no key but its own has its own value, and a log-sum-exp of -inf.
    """
    ranks = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    real = ranks < length
    back, ahead = _reach(ranks, real, earlier, later, before, after, CHUNK)
    own = tl.load(rows + before + ranks, real, 0)
    q = _gather(query, own, real, DIM, WIDTH)
    highest = tl.full((BLOCK,), -float("inf"), tl.float32)
    total = tl.zeros((BLOCK,), tl.float32)
    mean = tl.zeros((BLOCK, WIDTH), tl.float32)
    last = tl.max(tl.where(real, ranks + ahead, 0)) + 1
    for start in range(tl.min(ranks - back), last, OTHERS):
        keys = start + tl.arange(0, OTHERS)
        is_key = keys < last
        numbers = tl.load(rows + before + keys, is_key, 0)
        k = _gather(key, numbers, is_key, DIM, WIDTH)
        v = _gather(value, numbers, is_key, DIM, WIDTH)
        seen = _visible(
            ranks, keys, back, ahead, yields, query_places, key_places, is_key, before, SEES
        )
        scores = tl.where(seen, _product(q, tl.trans(k)) * scale, -float("inf"))
        higher = tl.maximum(highest, tl.max(scores, 1))
        base = tl.where(higher == -float("inf"), 0.0, higher)  # which has seen no key yet
        weights = tl.exp(scores - base[:, None])
        shrunk = tl.exp(highest - base)
        total = total * shrunk + tl.sum(weights, 1)
        if seed is not None:
            kept = _kept(seed, first_rank, ranks[:, None], keys[None, :], threshold)
            weights = tl.where(kept, weights * kept_scale, 0.0)
        mean = mean * shrunk[:, None] + _product(weights, v)
        highest = higher
    alone = real & (total == 0)
    lone = _gather(value, own, alone, DIM, WIDTH).to(tl.float32)
    if seed is not None:
        kept = _kept(seed, first_rank, ranks, ranks, threshold)
        lone *= tl.where(kept, kept_scale, 0.0)[:, None]
    total = tl.where(total == 0, 1.0, total)
    _store(output, mean / total[:, None] + lone, ranks, real, DIM, WIDTH)
    tl.store(logsumexp + ranks, highest + tl.log(total), real)


@triton.jit
def query_gradient_kernel(
    query, key, value, rows, earlier, later, yields, query_places, key_places,
    first_rank, length, before, after, scale, seed, threshold, kept_scale,
    cotangent, logsumexp, shift, grad_query,
    DIM: tl.constexpr, WIDTH: tl.constexpr, CHUNK: tl.constexpr, SEES: tl.constexpr,
    BLOCK: tl.constexpr, OTHERS: tl.constexpr,
):  # fmt: skip
    """What the queries at BLOCK ranks have of their gradient from their keys in this round.

    The log-sum-exps are of the union of the rounds, one a row: with them a key's probability is
    that in the union. The shift is what the gradient of a softmax subtracts.
    """
    ranks = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    real = ranks < length
    back, ahead = _reach(ranks, real, earlier, later, before, after, CHUNK)
    own = tl.load(rows + before + ranks, real, 0)
    q = _gather(query, own, real, DIM, WIDTH)
    grad_output = _gather(cotangent, own, real, DIM, WIDTH)
    sums = tl.load(logsumexp + own, real, 0.0)
    shifts = tl.load(shift + own, real, 0.0)
    gradient = tl.zeros((BLOCK, WIDTH), tl.float32)
    last = tl.max(tl.where(real, ranks + ahead, 0)) + 1
    for start in range(tl.min(ranks - back), last, OTHERS):
        keys = start + tl.arange(0, OTHERS)
        is_key = keys < last
        numbers = tl.load(rows + before + keys, is_key, 0)
        k = _gather(key, numbers, is_key, DIM, WIDTH)
        v = _gather(value, numbers, is_key, DIM, WIDTH)
        seen = _visible(
            ranks, keys, back, ahead, yields, query_places, key_places, is_key, before, SEES
        )
        scores = tl.where(seen, _product(q, tl.trans(k)) * scale - sums[:, None], -float("inf"))
        grad_weights = _product(grad_output, tl.trans(v))
        if seed is not None:
            kept = _kept(seed, first_rank, ranks[:, None], keys[None, :], threshold)
            grad_weights = tl.where(kept, grad_weights * kept_scale, 0.0)
        gradient += _product(tl.exp(scores) * (grad_weights - shifts[:, None]), k)
    _store(grad_query, gradient * scale, ranks, real, DIM, WIDTH)


@triton.jit
def key_gradient_kernel(
    query, key, value, rows, earlier, later, yields, query_places, key_places,
    first_rank, length, before, after, scale, seed, threshold, kept_scale,
    cotangent, logsumexp, shift, grad_key, grad_value, reach_back, reach_ahead, rounds,
    DIM: tl.constexpr, WIDTH: tl.constexpr, CHUNK: tl.constexpr, SEES: tl.constexpr,
    BLOCK: tl.constexpr, OTHERS: tl.constexpr,
):  # fmt: skip
    """What the keys and values at BLOCK ranks have of their gradients from the queries near them.

    Those stand at most `reach_ahead` ranks before them and `reach_back` behind them.
    """
    keys = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    is_key = keys < length
    own = tl.load(rows + before + keys, is_key, 0)
    k = _gather(key, own, is_key, DIM, WIDTH)
    v = _gather(value, own, is_key, DIM, WIDTH)
    key_sum = tl.zeros((BLOCK, WIDTH), tl.float32)
    value_sum = tl.zeros((BLOCK, WIDTH), tl.float32)
    begin = tl.maximum(tl.program_id(0) * BLOCK - reach_ahead, 0)
    end = tl.minimum(tl.program_id(0) * BLOCK + BLOCK + reach_back, length)
    for start in range(begin, end, OTHERS):
        ranks = start + tl.arange(0, OTHERS)
        real = ranks < end
        back, ahead = _reach(ranks, real, earlier, later, before, after, CHUNK)
        numbers = tl.load(rows + before + ranks, real, 0)
        q = _gather(query, numbers, real, DIM, WIDTH)
        grad_output = _gather(cotangent, numbers, real, DIM, WIDTH)
        sums = tl.load(logsumexp + numbers, real, 0.0)
        shifts = tl.load(shift + numbers, real, 0.0)
        seen = _visible(
            ranks, keys, back, ahead, yields, query_places, key_places, is_key, before, SEES
        )
        scores = tl.where(seen, _product(q, tl.trans(k)) * scale - sums[:, None], -float("inf"))
        weights = tl.exp(scores)
        kept_weights, grad_weights = weights, _product(grad_output, tl.trans(v))
        if seed is not None:
            kept = _kept(seed, first_rank, ranks[:, None], keys[None, :], threshold)
            kept_weights = tl.where(kept, weights * kept_scale, 0.0)
            grad_weights = tl.where(kept, grad_weights * kept_scale, 0.0)
        value_sum += _product(tl.trans(kept_weights), grad_output)
        key_sum += _product(tl.trans(weights * (grad_weights - shifts[:, None])), q)
    # A query that is alone in all rounds gives each an equal part of its own value.
    sums = tl.load(logsumexp + own, is_key, 0.0)
    share = tl.where(sums == -float("inf"), 1.0 / rounds, 0.0)
    if SEES != EVERY:
        share = tl.where(tl.load(query_places + keys, is_key, -1) >= 0, share, 0.0)
    if seed is not None:
        share *= tl.where(_kept(seed, first_rank, keys, keys, threshold), kept_scale, 0.0)
    value_sum += share[:, None] * _gather(cotangent, own, is_key, DIM, WIDTH).to(tl.float32)
    _store(grad_key, key_sum * scale, keys, is_key, DIM, WIDTH)
    _store(grad_value, value_sum, keys, is_key, DIM, WIDTH)
