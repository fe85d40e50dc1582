"""Attention maps: the probabilities of sorted, chunked attention, told by place in the row."""

from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from reformer_hf.ops.sorting import SortOrder, unpermute
from reformer_hf.ops.window import Window, merge_chunks, pair_ids

MapForm = Literal["dense", "sparse"]
"""A matrix of all queries and keys, or an :class:`AttentionMap`."""


class AttentionMap(NamedTuple):
    """Attention probabilities with the places of the keys that they belong to: the sparse form.

    Attributes:
        probabilities: what multiplies the value of each key of the window, or of the token behind
            it in a layer with next values; without dropout it sums
            to 1 over rounds and window.
        key_places: place in the row of each key, -1 where the window holds none.
    """

    probabilities: Float[Tensor, "batch heads rounds seq window"]
    key_places: Int[Tensor, "batch heads rounds seq window"]

    def to_dense(self, keys: int | None = None) -> Float[Tensor, "batch heads seq keys"]:
        """Scatter the probabilities to a matrix, query by key.

        Args:
            keys: places of the row; None for as many as there are queries. Of a pass with a cache
                the queries are the last ones.

        Returns:
            Attention of each query to each place of the row.
        """
        batch, heads, _, seq, _ = self.probabilities.shape
        dense = self.probabilities.new_zeros(batch, heads, seq, seq if keys is None else keys)
        weights = self.probabilities.masked_fill(self.key_places < 0, 0).transpose(2, 3).flatten(3)
        places = self.key_places.clamp(min=0).long().transpose(2, 3).flatten(3)
        return dense.scatter_add(-1, places, weights)


HeadsAndMap = tuple[Float[Tensor, "batch heads seq dim"], AttentionMap | None]
"""What attention yields for each head, and the map or None."""


def window_places(
    order: Int[Tensor, "batch heads rounds seq"], window: Window
) -> Int[Tensor, "batch heads rounds seq window"]:
    """Find the place in the row of each key of each query's window.

    Args:
        order: the sort order of every round.
        window: how far a query sees.

    Returns:
        Places by the query's rank, -1 where the window holds no key.

    >>> window_places(torch.tensor([[[[2, 0, 1]]]]), Window(1, 1)).tolist()
    [[[[[-1, 2], [2, 0], [0, 1]]]]]
    """
    _, keys = pair_ids(order, window)
    return merge_chunks(keys.expand(*keys.shape[:-2], window.chunk_length, -1), order.shape[-1])


def map_rounds(
    probabilities: Float[Tensor, "batch heads rounds seq window"],
    logsumexps: Float[Tensor, "batch heads rounds seq"],
    places: Int[Tensor, "batch heads rounds seq window"],
    sort: SortOrder,
) -> AttentionMap:
    """Turn window probabilities by rank into an attention map by place.

    Args:
        probabilities: of each round over its window, by rank.
        logsumexps: of each round, by rank.
        places: from :func:`window_places`.
        sort: the order that was attended in.

    Returns:
        Probabilities over rounds and window, round weights included, in the order of the row.

    >>> swap = torch.tensor([[[[1, 0]]]])
    >>> probabilities = torch.tensor([0.25, 0.5]).view(1, 1, 1, 2, 1)
    >>> places = window_places(swap, Window(1, 0))
    >>> sort = SortOrder(swap, swap, swap)
    >>> map_rounds(probabilities, torch.zeros(1, 1, 1, 2), places, sort).to_dense().tolist()
    [[[[0.5, 0.0], [0.0, 0.25]]]]
    """
    weights = torch.softmax(unpermute(logsumexps.unsqueeze(-1), sort), dim=2)
    by_place = unpermute(probabilities, sort) * weights
    index = sort.inverse.unsqueeze(-1).expand(places.shape)
    return AttentionMap(by_place, places.gather(3, index).masked_fill(by_place == 0, -1))


def choose_map(
    use_short: Bool[Tensor, " batch"], short: AttentionMap, long: AttentionMap
) -> AttentionMap:
    """Choose a map for each row of the batch.

    Args:
        use_short: which rows take ``short``.
        short: a map of no more rounds, places and window than ``long``.
        long: the other map.

    Returns:
        A map in the shape of ``long``.

    >>> row = AttentionMap(torch.ones(1, 1, 1, 1, 1), torch.zeros(1, 1, 1, 1, 1, dtype=torch.int64))
    >>> choose_map(torch.tensor([True]), row, row) == row
    True
    """
    missing = [
        long.probabilities.shape[axis] - short.probabilities.shape[axis] for axis in (4, 3, 2)
    ]
    ends = [end for count in missing for end in (0, count)]
    pad = torch.nn.functional.pad
    choose = use_short.view(-1, 1, 1, 1, 1)
    return AttentionMap(
        torch.where(choose, pad(short.probabilities, ends), long.probabilities),
        torch.where(choose, pad(short.key_places, ends, value=-1), long.key_places),
    )


def unalign_map(aligned: AttentionMap, alignment: SortOrder) -> AttentionMap:
    """Bring a map of rearranged rows back to the order of the row, queries and keys.

    Args:
        aligned: places count along the alignment.
        alignment: one round; its order tells the place in the row.

    Returns:
        The map with places in the row.

    >>> swap, places = torch.tensor([[[[1, 0]]]]), torch.tensor([[[[[0], [0]]]]])
    >>> aligned = AttentionMap(torch.ones(places.shape), places)
    >>> unalign_map(aligned, SortOrder(swap, swap, swap)).key_places.flatten().tolist()
    [1, 1]
    """
    probabilities, places = aligned
    queries = alignment.inverse.squeeze(2)[:, :, None, :, None].expand(places.shape)
    in_row = alignment.order.unsqueeze(3).expand(*places.shape[:-1], -1)
    in_row = in_row.gather(-1, places.clamp(min=0)).masked_fill(places < 0, -1)
    return AttentionMap(probabilities.gather(3, queries), in_row.gather(3, queries))
