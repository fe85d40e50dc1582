"""Numbers of n-grams: the last tokens of each place, hashed to rows of a table."""

from collections.abc import Sequence

import torch
from jaxtyping import Int
from torch import Tensor
from torch.nn.functional import pad

from reformer_hf.ops.convolution import nearby_places

_FACTOR, _BITS = 1_000_003, 2**31 - 1
_GOLDEN = 2_654_435_761
"""Knuth's multiplier: the upper bits of a product depend on all bits of a number."""


def last_tokens(
    tokens: Int[Tensor, "batch seq"], count: int, documents: Int[Tensor, "batch seq"] | None = None
) -> Int[Tensor, "batch seq count"]:
    """The tokens of each place and of those before it, the own one first.

    Args:
        tokens: ids from 1; 0 stands for none.
        count: tokens for each place.
        documents: document of each place; None for a single document.

    Returns:
        Ids, 0 where the document has not begun.

    >>> last_tokens(torch.tensor([[5, 6, 7]]), 2).tolist()
    [[[5, 0], [6, 5], [7, 6]]]
    """
    if documents is None:
        return pad(tokens, (count - 1, 0)).unfold(1, count, 1).flip(-1)
    places = nearby_places(documents, count - 1, 0).flip(-1) + 1
    rows = torch.arange(len(tokens), device=tokens.device)[:, None, None]
    return pad(tokens, (1, 0))[rows, places]


def hash_ngrams(
    last: Int[Tensor, "*lead count"], sizes: Sequence[int], table_size: int
) -> Int[Tensor, "*lead sizes"]:
    """Rows of one table for n-grams of several sizes, each size in a part of its own.

    Args:
        last: tokens of each place, the own one first.
        sizes: tokens in an n-gram, increasing.
        table_size: rows for each size; n-grams that collide share one.

    Returns:
        Row numbers below ``len(sizes) * table_size``.

    >>> hash_ngrams(torch.tensor([[5, 0, 0], [5, 4, 0]]), [2, 3], 8).shape
    torch.Size([2, 2])
    """
    last = last.long()  # products of int32 would wrap
    number, rows = torch.zeros_like(last[..., 0]), []
    for index in range(sizes[-1]):
        number = (number * _FACTOR + last[..., index]) & _BITS
        if index + 1 in sizes:
            mixed = (number * _GOLDEN) >> 17
            rows.append(mixed % table_size + len(rows) * table_size)
    return torch.stack(rows, dim=-1)
