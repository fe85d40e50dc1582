"""Who may see whom: documents in a row, and the pattern of a window of chunks."""

from typing import Literal

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from reformer_hf.ops.chunking import pair_ids
from reformer_hf.ops.sorting import SortOrder

Scope = Literal["band", "chunk"]


def number_documents(
    attention_mask: Bool[Tensor, "batch seq"] | None, seq_idx: Int[Tensor, "batch seq"] | None
) -> Int[Tensor, "batch seq"] | None:
    """Number the documents of each row, with padding as the last one.

    Args:
        attention_mask: true at real tokens; None when all are.
        seq_idx: any int per document of a packed row; None for one document.

    Returns:
        Document numbers from 0, or None when neither argument is given.

    >>> number_documents(torch.tensor([[False, True]]), None).tolist()
    [[1, 0]]
    """
    if attention_mask is None and seq_idx is None:
        return None
    if seq_idx is None:
        assert attention_mask is not None
        return (~attention_mask).long()
    documents = seq_idx.long() - seq_idx.min()
    if attention_mask is not None:
        documents = torch.where(attention_mask, documents, documents.max() + 1)
    return documents


def places_in_document(documents: Int[Tensor, "batch seq"]) -> Int[Tensor, "batch seq"]:
    """Count each token's place within its document, which is its position.

    Args:
        documents: document numbers; a document's tokens need not be neighbours.

    Returns:
        Places from 0, restarting in every document.

    >>> places_in_document(torch.tensor([[0, 0, 1, 0, 1]])).tolist()
    [[0, 1, 0, 2, 1]]
    """
    ordered, order = torch.sort(documents, dim=-1, stable=True)
    ranks = torch.arange(documents.shape[-1], device=documents.device).expand_as(documents)
    begins = torch.ones_like(ordered, dtype=torch.bool)
    begins[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    first_rank = torch.where(begins, ranks, 0).cummax(dim=-1).values
    return torch.empty_like(documents).scatter_(-1, order, ranks - first_rank)


def check_look_ahead(num_chunks_after: int, causal: bool) -> None:
    """Refuse a window that looks ahead in causal attention.

    Raises:
        ValueError: if ``causal`` meets ``num_chunks_after`` above 0.

    >>> check_look_ahead(1, causal=False) is None
    True
    """
    if causal and num_chunks_after:
        raise ValueError(
            f"num_chunks_after={num_chunks_after} with causal=True: set it to 0, or causal=False"
        )


def rank_distance(
    chunk_length: int, num_chunks_before: int, num_chunks_after: int, device: torch.device | str
) -> Int[Tensor, "chunk_len window"]:
    """How many ranks each key of a window stands before each query of the chunk.

    Args:
        chunk_length: tokens.
        num_chunks_before: chunks.
        num_chunks_after: chunks.
        device: where the result goes.

    Returns:
        ``query rank - key rank``; 0 at the own place, negative for keys behind it.

    >>> rank_distance(2, 1, 0, "cpu").tolist()
    [[2, 1, 0, -1], [3, 2, 1, 0]]
    """
    window = chunk_length * (num_chunks_before + 1 + num_chunks_after)
    queries = torch.arange(chunk_length, device=device) + chunk_length * num_chunks_before
    return queries[:, None] - torch.arange(window, device=device)


def window_pattern(
    distance: Int[Tensor, "chunk_len window"],
    chunk_length: int,
    num_chunks_before: int,
    num_chunks_after: int,
    scope: Scope,
    causal: bool,
) -> Bool[Tensor, "chunk_len window"]:
    """Which keys of a window a query may see by rank alone.

    ``band``: at most the chunk length times the chunks of look-back before it, and the same for
    look-ahead. ``chunk``: all of the window's chunks, whose borders are fixed.

    Args:
        distance: from :func:`rank_distance`.
        chunk_length: tokens.
        num_chunks_before: chunks.
        num_chunks_after: chunks.
        scope: ``band`` or ``chunk``.
        causal: whether keys behind the query are hidden.

    Returns:
        True where the key is visible; the own place always is.

    >>> window_pattern(rank_distance(2, 1, 0, "cpu"), 2, 1, 0, "band", causal=True).long().tolist()
    [[1, 1, 1, 0], [0, 1, 1, 1]]
    """
    pattern = torch.ones_like(distance, dtype=torch.bool)
    if scope == "band":
        pattern = (distance <= chunk_length * num_chunks_before) & (
            distance >= -chunk_length * num_chunks_after
        )
    return pattern & (distance >= 0) if causal else pattern


def count_appearances(
    sort: SortOrder, chunk_length: int, num_chunks_before: int, num_chunks_after: int
) -> Int[Tensor, "batch heads rounds chunks chunk_len window"]:
    """Count in how many rounds each query's band shows each key of its window.

    Args:
        sort: the sort order of all rounds.
        chunk_length: tokens.
        num_chunks_before: chunks.
        num_chunks_after: chunks.

    Returns:
        The counts, at the places of the windows of every round; 0 where no round shows the key.

    Source: paper appendix A, equation 16 (N_ij).

    >>> in_order = torch.tensor([[[[0, 1], [0, 1]]]])
    >>> segments = torch.tensor([[[[0, 0], [0, 1]]]])
    >>> counts = count_appearances(SortOrder(in_order, in_order, segments), 1, 1, 0)
    >>> counts.flatten(0, 4).tolist()
    [[0, 2], [1, 2], [0, 2], [1, 2]]
    """
    window = (num_chunks_before, num_chunks_after)
    counts: Tensor | int = 0
    for round_ in range(sort.order.shape[2]):
        ranks = sort.inverse[:, :, round_, None].expand_as(sort.order).gather(-1, sort.order)
        segments = sort.segments[:, :, round_, None].expand_as(ranks).gather(-1, ranks)
        query_ranks, key_ranks = pair_ids(ranks, chunk_length, *window)
        query_segments, key_segments = pair_ids(segments, chunk_length, *window)
        distance = query_ranks - key_ranks
        counts = counts + (
            (query_segments == key_segments)
            & (distance <= chunk_length * num_chunks_before)
            & (distance >= -chunk_length * num_chunks_after)
        )
    assert isinstance(counts, Tensor)
    return counts
