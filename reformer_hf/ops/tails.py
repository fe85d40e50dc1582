"""Tails: the last tokens of each bucket, which is all that later shards of a row see of a shard.

In the ``band`` scope a query sees the W places before its own in its bucket. Where a row is cut
into shards, a query of one shard sees of the earlier ones no more than the last W tokens of each
bucket. Tails of neighbouring shards are merged to those of both, so the tails of all shards before
one are an exclusive scan.

Where a query also sees places behind its own, there are tails at the other end of a shard, too: the
first tokens of each bucket, which earlier shards see. They are those of the row read from its end.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from reformer_hf.ops.decoding import latest_places
from reformer_hf.ops.sorting import sort_by_bucket


class Tails(NamedTuple):
    """The last tokens of each bucket, newest first; at the other end the first ones, oldest first.

    Attributes:
        vectors: of the tokens; anything finite in empty slots.
        counts: slots of each bucket that are filled, the first ones.
    """

    vectors: Float[Tensor, "batch heads buckets window dim"]
    counts: Int[Tensor, "batch heads buckets"]


def find_tails(
    buckets: Int[Tensor, "batch heads rounds seq"],
    counted: Bool[Tensor, "batch seq"] | None,
    num_buckets: int,
    window: int,
    step: int = 1,
) -> Int[Tensor, "batch heads rounds buckets window"]:
    """Find the last places of each bucket, or the first ones.

    Args:
        buckets: bucket ids below ``num_buckets``.
        counted: tokens that a later shard may see, or an earlier one; None for all.
        num_buckets: total number of buckets.
        window: places of a bucket.
        step: 1 for the last places, which later shards see; -1 for the first, which earlier see.

    Returns:
        Places in the row, newest first, or oldest first; -1 in empty slots.

    >>> find_tails(torch.tensor([[[[0, 1, 0, 0]]]]), None, 2, 2).tolist()
    [[[[[3, 2], [1, -1]]]]]
    """
    if step < 0:
        counted = None if counted is None else counted.flip(-1)
        places = find_tails(buckets.flip(-1), counted, num_buckets, window)
        return torch.where(places < 0, places, buckets.shape[-1] - 1 - places)
    buckets = buckets.long()
    if counted is not None:
        buckets = buckets.masked_fill(~counted[:, None, None], num_buckets)
    sort = sort_by_bucket(buckets, None, num_buckets + 1)
    return latest_places(sort.order, sort.segments, num_buckets + 1, window)[..., :-1, :]


def take_tails(
    vectors: Float[Tensor, "batch heads seq dim"],
    places: Int[Tensor, "batch heads buckets window"],
) -> Tails:
    """Take the tokens at the places of tails.

    Args:
        vectors: of the tokens of a shard.
        places: from :func:`find_tails`, the buckets of all rounds side by side.

    Returns:
        The tails.

    >>> tails = take_tails(torch.tensor([[[[5.0], [6.0]]]]), torch.tensor([[[[1, -1]]]]))
    >>> tails.vectors[..., 0, 0].item(), tails.counts.item()
    (6.0, 1)
    """
    index = places.clamp(min=0).long().flatten(2).unsqueeze(-1)
    taken = vectors.gather(2, index.expand(-1, -1, -1, vectors.shape[-1]))
    return Tails(taken.unflatten(2, places.shape[2:]), (places >= 0).sum(dim=-1).int())


def merge_tails(newer: Tails, older: Tails) -> Tails:
    """Tails of two neighbouring shards together: the newer ones, then as many older ones as fit.

    >>> filled = torch.tensor([[[1]]])
    >>> new, old = torch.tensor([[[[[1.0], [0.0]]]]]), torch.tensor([[[[[2.0], [3.0]]]]])
    >>> merge_tails(Tails(new, filled), Tails(old, filled + 1)).vectors.flatten().tolist()
    [1.0, 2.0]
    """
    index = _slots(newer.counts, newer.vectors)
    vectors = torch.cat([newer.vectors, older.vectors], dim=-2).gather(-2, index)
    counts = (newer.counts + older.counts).clamp(max=newer.vectors.shape[-2])
    return Tails(vectors, counts)


def split_tails(
    merged: Float[Tensor, "batch heads buckets window dim"],
    newer_counts: Int[Tensor, "batch heads buckets"],
) -> tuple[Float[Tensor, "batch heads buckets window dim"], ...]:
    """The transpose of :func:`merge_tails`: the parts of a gradient that came from either side.

    Args:
        merged: gradient of merged tails.
        newer_counts: filled slots of the newer tails.

    Returns:
        The gradients of the newer and of the older tails; 0 where a token did not fit.

    >>> gradient = torch.tensor([[[[[1.0], [2.0]]]]])
    >>> [part.flatten().tolist() for part in split_tails(gradient, torch.tensor([[[1]]]))]
    [[1.0, 0.0], [2.0, 0.0]]
    """
    both = torch.cat([torch.zeros_like(merged)] * 2, dim=-2)
    newer, older = both.scatter_(-2, _slots(newer_counts, merged), merged).chunk(2, dim=-2)
    return newer, older


def _slots(
    newer_counts: Int[Tensor, "batch heads buckets"],
    vectors: Float[Tensor, "batch heads buckets window dim"],
) -> Int[Tensor, "batch heads buckets window dim"]:
    """Where each merged slot comes from: the slots of the newer tails, then those of the older."""
    window = vectors.shape[-2]
    slots, newer = torch.arange(window, device=vectors.device), newer_counts.unsqueeze(-1)
    index = torch.where(slots < newer, slots, window + slots - newer)
    return index.unsqueeze(-1).expand(vectors.shape)
