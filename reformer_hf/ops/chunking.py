"""Cutting a sequence into chunks and looking at the chunks beside each."""

import torch
from jaxtyping import Int, Shaped
from torch import Tensor


def split_chunks(
    tensor: Shaped[Tensor, "*lead seq dim"], chunk_length: int, fill: float | int = 0
) -> Shaped[Tensor, "*lead chunks chunk_len dim"]:
    """Cut the sequence axis into chunks, filling up the last one.

    Args:
        tensor: any sequence.
        chunk_length: tokens.
        fill: value of the places behind the end.

    Returns:
        A view where the length is a multiple of ``chunk_length``, a filled copy otherwise.

    >>> split_chunks(torch.arange(3).view(3, 1), 2, fill=-1).flatten(1).tolist()
    [[0, 1], [2, -1]]
    """
    missing = -tensor.shape[-2] % chunk_length
    if missing:
        tensor = torch.nn.functional.pad(tensor, (0, 0, 0, missing), value=fill)
    return tensor.unflatten(-2, (-1, chunk_length))


def merge_chunks(
    chunks: Shaped[Tensor, "*lead chunks chunk_len dim"], seq: int
) -> Shaped[Tensor, "*lead seq dim"]:
    """Undo :func:`split_chunks`.

    Args:
        chunks: chunks of a sequence.
        seq: tokens of the sequence before it was filled up.

    Returns:
        The sequence.

    >>> merge_chunks(torch.tensor([[[0], [1]], [[2], [-1]]]), 3).flatten().tolist()
    [0, 1, 2]
    """
    return chunks.flatten(-3, -2)[..., :seq, :]


def look_adjacent(
    chunks: Shaped[Tensor, "*lead chunks chunk_len dim"],
    num_chunks_before: int,
    num_chunks_after: int,
    fill: float | int = 0,
) -> Shaped[Tensor, "*lead chunks window dim"]:
    """Join each chunk with the chunks before and after it, without a wrap at the ends.

    Args:
        chunks: chunks of a sequence.
        num_chunks_before: look-back, in chunks.
        num_chunks_after: look-ahead, in chunks.
        fill: value of the places beyond either end.

    Returns:
        Windows of ``(num_chunks_before + 1 + num_chunks_after) * chunk_len`` places.

    >>> look_adjacent(torch.arange(3).view(3, 1, 1), 1, 0, fill=-1).flatten(1).tolist()
    [[-1, 0], [0, 1], [1, 2]]
    """
    if num_chunks_before == num_chunks_after == 0:
        return chunks
    count = chunks.shape[-3]
    ends = (0, 0, 0, 0, num_chunks_before, num_chunks_after)
    padded = torch.nn.functional.pad(chunks, ends, value=fill)
    width = num_chunks_before + 1 + num_chunks_after
    return torch.cat([padded[..., i : i + count, :, :] for i in range(width)], dim=-2)


def pair_ids(
    ids: Int[Tensor, "*lead seq"], chunk_length: int, num_chunks_before: int, num_chunks_after: int
) -> tuple[Int[Tensor, "*lead chunks chunk_len 1"], Int[Tensor, "*lead chunks 1 window"]]:
    """Lay out a number of each place for comparing each query of a chunk with each key it may see.

    Args:
        ids: from 0, such as segments, ranks or places.
        chunk_length: tokens.
        num_chunks_before: look-back, in chunks.
        num_chunks_after: look-ahead, in chunks.

    Returns:
        The numbers of the queries as columns and of the keys of their windows as rows; -1 beyond
        either end.

    >>> [x.tolist() for x in pair_ids(torch.tensor([5, 6]), 1, 1, 0)]
    [[[[5]], [[6]]], [[[-1, 5]], [[5, 6]]]]
    """
    queries = split_chunks(ids.unsqueeze(-1), chunk_length, fill=-1)
    keys = look_adjacent(queries, num_chunks_before, num_chunks_after, fill=-1)
    return queries, keys.transpose(-1, -2)
