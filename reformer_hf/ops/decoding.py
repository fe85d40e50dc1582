"""Attention of a few new tokens to the tokens before them, without sorting those again.

LSH attention in the ``band`` scope needs one thing of the past: for each round and bucket the last
W places, newest first. These lists are the *rings*. A new token reads its bucket's ring, which
gives its window, and pushes its own place in. The ``chunk`` scope needs the sort order of each
round, into which a new token is inserted; its window are the tokens around its rank.

Either way a query gets *candidates*, the places that its rounds show it, and one softmax over all
of them is the combination of the rounds (a key that n rounds show stands there n times). Padding
counts as one more bucket, the last.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import pad, scaled_dot_product_attention

from reformer_hf.ops.attend import attend
from reformer_hf.ops.chunk_ring import Ring
from reformer_hf.ops.sorting import SortOrder, invert_order
from reformer_hf.ops.window import Window

NOWHERE = -1
"""Candidate that is no place: an empty slot of a ring, or padding of a chunk."""


class Overwritten(NamedTuple):
    """What a token replaced when it entered the rings, for taking it back.

    Attributes:
        buckets: its bucket of each round.
        rings: their places before.
    """

    buckets: Int[Tensor, "batch heads rounds"]
    rings: Int[Tensor, "batch heads rounds window"]


def latest_places(
    places: Int[Tensor, "batch heads rounds seq"],
    segments: Int[Tensor, "batch heads rounds seq"],
    num_buckets: int,
    window: int,
) -> Int[Tensor, "batch heads rounds buckets window"]:
    """Collect the rings of a sorted sequence.

    Args:
        places: place in the row by rank.
        segments: bucket by rank, ascending.
        num_buckets: total number of buckets, that of padding included.
        window: places kept for each bucket.

    Returns:
        The last places of each bucket, newest first, int32; ``NOWHERE`` behind them.

    >>> places, segments = torch.tensor([[[[0, 2, 3, 1]]]]), torch.tensor([[[[0, 0, 0, 1]]]])
    >>> latest_places(places, segments, 2, 2).tolist()
    [[[[[3, 2], [1, -1]]]]]
    """
    shape = (*segments.shape[:-1], num_buckets)
    buckets = torch.arange(num_buckets, device=places.device).expand(shape).contiguous()
    start = torch.searchsorted(segments.contiguous(), buckets)
    end = torch.searchsorted(segments.contiguous(), buckets, right=True)
    ranks = end.unsqueeze(-1) - 1 - torch.arange(window, device=places.device)
    latest = places.gather(-1, ranks.clamp(min=0).flatten(3)).view(ranks.shape)
    return latest.masked_fill(ranks < start.unsqueeze(-1), NOWHERE).int()


def push_places(
    rings: Int[Tensor, "batch heads rounds buckets window"],
    buckets: Int[Tensor, "batch heads rounds seq"],
    first_place: int,
) -> tuple[Int[Tensor, "batch heads seq rounds reach"], list[Overwritten]]:
    """Let new tokens read and enter the rings, one after the other. Changes ``rings``.

    Args:
        rings: from :func:`latest_places`.
        buckets: of the new tokens.
        first_place: place of the first of them.

    Returns:
        The candidates of each token, its own place and then its ring (``reach`` is the window and
        one), and what was overwritten, in the order of the tokens.

    >>> rings = torch.tensor([[[[[3, 2], [1, -1]]]]], dtype=torch.int32)
    >>> push_places(rings, torch.tensor([[[[1]]]]), 4)[0].tolist(), rings.tolist()
    ([[[[[4, 1, -1]]]]], [[[[[3, 2], [4, 1]]]]])
    """
    window = rings.shape[-1]
    flat = rings.view(-1, window)
    candidates, overwritten = [], []
    for index, bucket in enumerate(buckets.unbind(-1)):
        row = _ring_index(rings, bucket)
        ring = flat.index_select(0, row)
        own = torch.full_like(ring[:, :1], first_place + index)
        longer = torch.cat([own, ring], dim=1)
        flat.index_copy_(0, row, longer[:, :window])
        candidates.append(longer.view(*bucket.shape, window + 1))
        overwritten.append(Overwritten(bucket, ring.view(*bucket.shape, window)))
    if len(candidates) == 1:
        return candidates[0].unsqueeze(2), overwritten
    return torch.stack(candidates, dim=2), overwritten


def take_back(
    rings: Int[Tensor, "batch heads rounds buckets window"], overwritten: Overwritten
) -> None:
    """Undo the push of the token that came last. Changes ``rings``.

    Args:
        rings: after the push.
        overwritten: from :func:`push_places`.

    >>> rings = torch.tensor([[[[[3, 2], [1, -1]]]]], dtype=torch.int32)
    >>> take_back(rings, push_places(rings, torch.tensor([[[[1]]]]), 4)[1][0])
    >>> rings.tolist()
    [[[[[3, 2], [1, -1]]]]]
    """
    row = _ring_index(rings, overwritten.buckets)
    rings.view(-1, rings.shape[-1]).index_copy_(0, row, overwritten.rings.flatten(0, 2))


def _ring_index(
    rings: Int[Tensor, "batch heads rounds buckets window"],
    buckets: Int[Tensor, "batch heads rounds"],
) -> Int[Tensor, " batch_heads_rounds"]:
    """The bucket's ring of every row, head and round, counted through all rings."""
    num_buckets = rings.shape[3]
    starts = torch.arange(0, buckets.numel() * num_buckets, num_buckets, device=buckets.device)
    return buckets.flatten() + starts


def insert_place(
    order: Int[Tensor, "batch heads rounds old"],
    rank: Int[Tensor, "batch heads rounds"],
) -> Int[Tensor, "batch heads rounds new"]:
    """Insert the next place into the sort order of each round.

    Args:
        order: places by rank.
        rank: where the next place belongs.

    Returns:
        The order, longer by one.

    >>> insert_place(torch.tensor([[[[1, 0]]]]), torch.tensor([[[1]]])).tolist()
    [[[[1, 2, 0]]]]
    """
    seq = order.shape[-1]
    ranks = torch.arange(seq + 1, device=order.device)
    source = ranks - (ranks > rank.unsqueeze(-1)).long()
    source = torch.where(ranks == rank.unsqueeze(-1), seq, source)
    return pad(order, (0, 1), value=seq).gather(-1, source)


def chunk_candidates(
    order: Int[Tensor, "batch heads rounds seq"],
    rank: Int[Tensor, "batch heads rounds"],
    lengths: Int[Tensor, " batch"],
    laid_out: Int[Tensor, " batch"],
    window: Window,
) -> Int[Tensor, "batch heads 1 rounds reach"]:
    """Find what the ``chunk`` scope shows the last token of each row.

    Args:
        order: places by rank, padding behind the real tokens.
        rank: of the last token in each round.
        lengths: real tokens of each row.
        laid_out: tokens of each row with its padding to whole chunks.
        window: how far a query sees.

    Returns:
        Its own place and then the places of its windows, ``NOWHERE`` for what is not to be seen.

    Source: :mod:`reformer_hf.ops.chunk_scope`, for one query.

    >>> order, one = torch.tensor([[[[0, 2, 1]]]]), torch.tensor([3])
    >>> window = Window(1, 1, scope="chunk")
    >>> chunk_candidates(order, torch.tensor([[[1]]]), one, one, window).tolist()
    [[[[[2, -1, 0]]]]]
    """
    (rounds, seq), chunk = order.shape[2:], window.chunk_length
    own = seq - 1
    ring = Ring.of(laid_out, rounds, chunk)
    offsets = sorted(window.offsets, key=lambda offset: (abs(offset), offset))
    first = ring.number(torch.arange(rounds, device=order.device), rank // chunk * chunk)
    beside = torch.cat([torch.arange(chunk, device=order.device) + chunk * o for o in offsets])
    round_, ranks = ring.locate(first.unsqueeze(-1) + beside)
    once = ring.show_once(offsets).repeat_interleave(chunk, dim=-1)
    visible = (ranks < lengths.view(-1, 1, 1, 1)) & once[:, None, None]
    flat = round_ * seq + ranks.clamp(max=own)
    places = order.flatten(2).gather(-1, flat.flatten(2)).view(flat.shape)
    places = places.masked_fill(~visible | (places == own), NOWHERE)
    return torch.cat([torch.full_like(order[..., :1], own), places], dim=-1).unsqueeze(2)


def choose_candidates(
    candidates: Int[Tensor, "batch heads seq rounds reach"],
) -> Bool[Tensor, "batch heads seq rounds reach"]:
    """Say which candidates count: all others, and the own place where there is no other.

    Args:
        candidates: the own place first in each round.

    Returns:
        True where a candidate counts.

    >>> choose_candidates(torch.tensor([[[[[4, 1, -1]], [[5, -1, -1]]]]])).long().tolist()
    [[[[[0, 1, 0]], [[1, 0, 0]]]]]
    """
    counted = candidates >= 0
    alone = ~counted[..., 1:].flatten(-2).any(dim=-1, keepdim=True)
    counted[..., 0] = alone
    return counted


def count_candidates(
    candidates: Int[Tensor, "*lead keys"], counted: Bool[Tensor, "*lead keys"]
) -> Int[Tensor, "*lead keys"]:
    """Count how often each candidate's place stands among those that count.

    >>> places = torch.tensor([4, 1, 1])
    >>> count_candidates(places, places < 4).tolist()
    [0, 2, 2]
    """
    same = candidates.unsqueeze(-1) == candidates.unsqueeze(-2)
    return (same & counted.unsqueeze(-2)).sum(dim=-1)


def attend_seen(
    query: Float[Tensor, "batch heads seq dim"],
    key: Float[Tensor, "batch heads keys dim"],
    value: Float[Tensor, "batch heads keys dim"],
    visible: Bool[Tensor, "#batch #heads seq keys"] | None = None,
    counts: Int[Tensor, "#batch #heads seq keys"] | None = None,
    dropout: float = 0.0,
    output_map: bool = False,
) -> tuple[Float[Tensor, "batch heads seq dim"], Float[Tensor, "batch heads seq keys"] | None]:
    """Exact attention of a few queries to given keys.

    Args:
        query: queries.
        key: keys.
        value: values.
        visible: which keys each query sees, at least one; None for all.
        counts: divide each key's weight by this.
        dropout: of the probabilities.
        output_map: also return the probabilities.

    Returns:
        The output, and the probabilities or None.

    >>> one, zero = torch.ones(1, 1, 1, 2), torch.zeros(1, 1, 1, 2)
    >>> attend_seen(zero, zero, one)[0].tolist()
    [[[[1.0, 1.0]]]]
    """
    if output_map:
        if visible is None:
            visible = torch.ones_like(query[..., :1] @ key[..., :1].mT, dtype=torch.bool)
        attended = attend(query, key, value, visible, counts=counts, dropout=dropout)
        return attended.output, attended.probabilities
    mask = visible
    if counts is not None and visible is not None:
        mask = (-counts.clamp(min=1).to(query.dtype).log()).masked_fill(~visible, -torch.inf)
    output = scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout)
    return output, None


def sort_with_rings(
    rings: Int[Tensor, "batch heads rounds buckets window"],
    buckets: Int[Tensor, "batch heads rounds seq"],
    first_place: int,
) -> tuple[Int[Tensor, "batch heads rounds carried_and_seq"], SortOrder]:
    """Sort new tokens among those that the rings hold, for a block too long to go one by one.

    Args:
        rings: from :func:`latest_places`.
        buckets: of the new tokens.
        first_place: place of the first of them.

    Returns:
        The place of each rank (``NOWHERE`` for empty slots, in a segment of their own), and the
        order over the slots of the rings followed by the new tokens.

    >>> rings = torch.tensor([[[[[0], [-1]]]]], dtype=torch.int32)
    >>> sort_with_rings(rings, torch.tensor([[[[0, 1]]]]), 1)[0].tolist()
    [[[[0, 1, 2, -1]]]]
    """
    num_buckets, window = rings.shape[-2:]
    seq = buckets.shape[-1]
    carried = rings.flip(-1).flatten(3).long()
    slots = torch.arange(num_buckets, device=rings.device).repeat_interleave(window)
    slots = torch.where(carried >= 0, slots, num_buckets)
    segments, order = torch.sort(torch.cat([slots, buckets], dim=-1), dim=-1, stable=True)
    new = torch.arange(first_place, first_place + seq, device=rings.device).expand_as(buckets)
    places = torch.cat([carried, new], dim=-1).gather(-1, order)
    return places, SortOrder(order, invert_order(order), segments)
