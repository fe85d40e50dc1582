"""Vectors of all tokens and heads as rows, and sums over the rounds of a token."""

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor
from torch.nn.functional import embedding_bag

from reformer_hf.ops.block_order import Group


def to_rows(vectors: Float[Tensor, "batch heads seq dim"]) -> Float[Tensor, "rows dim"]:
    """Rows of (batch, seq, heads), as `LongOrder.rows` numbers them.

    Args:
        vectors: in the order of the row.

    Returns:
        The rows: a view of what a linear layer has made, else a copy.

    >>> to_rows(torch.tensor([[[[1.0], [2.0]], [[3.0], [4.0]]]])).flatten().tolist()
    [1.0, 3.0, 2.0, 4.0]
    """
    return vectors.transpose(1, 2).reshape(-1, vectors.shape[-1])


def dot_rows(
    left: Float[Tensor, "rows dim"], right: Float[Tensor, "rows dim"], dtype: torch.dtype
) -> Float[Tensor, " rows"]:
    """Scalar product of each two rows, in a dtype of its own without a wide copy of them all.

    Args:
        left: rows.
        right: as many.
        dtype: of the result.

    Returns:
        The products.

    >>> dot_rows(torch.ones(2, 3), torch.ones(2, 3), torch.float64).tolist()
    [3.0, 3.0]
    """
    piece = 2**14 if left.device.type == "cpu" else 2**20
    parts = zip(left.split(piece), right.split(piece), strict=True)
    return torch.cat([(a.to(dtype) * b).sum(dim=-1) for a, b in parts])


def take(numbers: Shaped[Tensor, " length"], index: Int[Tensor, "*any"]) -> Shaped[Tensor, "*any"]:
    """The numbers at some places, in the shape of the index.

    >>> take(torch.tensor([5, 6]), torch.tensor([[1], [0]])).tolist()
    [[6], [5]]
    """
    return numbers.index_select(0, index.flatten()).view(index.shape)


def sum_bags(
    table: Float[Tensor, "ranks dim"],
    group: Group,
    result: Float[Tensor, "batch seq heads dim"],
    step_ranks: int,
    scale: float = 1.0,
    weights: Float[Tensor, "some_batch seq some_heads rounds"] | None = None,
) -> None:
    """Write, for each token of a group, the sum of the rows of its bag; some tokens at a time.

    Args:
        table: a vector per rank of the group.
        group: heads; if it continues another, the sums are added to what that wrote.
        result: for all tokens and heads.
        step_ranks: ranks that are summed at a time.
        scale: multiplies the sums.
        weights: of the rows; None for 1.

    >>> bags = torch.tensor([[[[0, 1]]]])
    >>> group, result = Group(slice(1), slice(1), slice(2), bags, None), torch.zeros(1, 1, 1, 1)
    >>> sum_bags(torch.tensor([[2.0], [3.0]]), group, result, 2)
    >>> result.item()
    5.0
    """
    part, bags = result[group.batch, :, group.heads], group.bags
    step = max(1, step_ranks // (bags.shape[0] * bags.shape[2]))
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
