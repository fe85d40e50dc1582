"""A window, the keys near its own place that a query may see, and sequences cut to compute it."""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Int, Shaped
from torch import Tensor

from reformer_hf.ops.checks import require_bools, require_choice, require_ints
from reformer_hf.ops.sorting import SortOrder

Scope = Literal["band", "chunk"]


@dataclass(frozen=True)
class Window:
    """How far a query sees, in an order that its attention defines.

    Args:
        chunk_length: tokens; the unit of the next two, and what is computed at a time.
        num_chunks_before: look-back, in chunks.
        num_chunks_after: look-ahead, in chunks; 0 if causal.
        scope: ``band`` for windows that move with the query, ``chunk`` for fixed chunk borders.
        causal: whether later places are hidden.

    Raises:
        TypeError: naming a field of another type.
        ValueError: naming the field, its value and the fix.

    >>> Window(4, 1).before, Window(4, 1, scope="chunk").before
    (4, 7)
    """

    chunk_length: int
    num_chunks_before: int
    num_chunks_after: int = 0
    scope: Scope = "band"
    causal: bool = True

    def __post_init__(self) -> None:
        require_ints(1, chunk_length=self.chunk_length)
        before, after = self.num_chunks_before, self.num_chunks_after
        require_ints(0, num_chunks_before=before, num_chunks_after=after)
        require_choice(Scope, scope=self.scope)
        require_bools(causal=self.causal)
        if self.causal and self.num_chunks_after:
            raise ValueError(
                f"num_chunks_after={self.num_chunks_after} with causal=True: set it to 0, or "
                "causal=False"
            )

    @property
    def border(self) -> int:
        """Tokens of a chunk whose borders end the view; 0 if nothing does."""
        return self.chunk_length if self.scope == "chunk" else 0

    @property
    def before(self) -> int:
        """Places before its own that a query sees, at most."""
        return self.chunk_length * self.num_chunks_before + max(0, self.border - 1)

    @property
    def after(self) -> int:
        """Places behind its own that a query sees, at most."""
        ahead = self.chunk_length * self.num_chunks_after + max(0, self.border - 1)
        return 0 if self.causal else ahead

    @property
    def offsets(self) -> range:
        """The chunks that a window is made of, counted from the query's own."""
        return range(-self.num_chunks_before, self.num_chunks_after + 1)

    def shows(self, distance: Int[Tensor, "*any"]) -> Bool[Tensor, "*any"]:
        """Whether keys at some distance are near enough, leaving aside chunk borders.

        Args:
            distance: place of the query less that of the key.

        Returns:
            True where they are; the own place always is.

        >>> Window(2, 1).shows(torch.tensor([3, 2, 0, -1])).tolist()
        [False, True, True, False]
        """
        return (distance <= self.before) & (distance >= -self.after)

    def require(self, scope: Scope) -> None:
        """Refuse a window of the other scope.

        Raises:
            ValueError: if it is of the other.

        >>> Window(2, 1).require("band")
        """
        if self.scope != scope:
            raise ValueError(
                f"scope={self.scope!r} where {scope!r} is computed: use lsh_attention for 'band', "
                "chunk_attention for 'chunk'"
            )


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
    chunks: Shaped[Tensor, "*lead chunks chunk_len dim"], window: Window, fill: float | int = 0
) -> Shaped[Tensor, "*lead chunks window dim"]:
    """Join each chunk with the chunks before and after it, without a wrap at the ends.

    Args:
        chunks: chunks of a sequence.
        window: how many of them.
        fill: value of the places beyond either end.

    Returns:
        The places of whole chunks that hold each chunk's window.

    >>> look_adjacent(torch.arange(3).view(3, 1, 1), Window(1, 1), fill=-1).flatten(1).tolist()
    [[-1, 0], [0, 1], [1, 2]]
    """
    before, after = window.num_chunks_before, window.num_chunks_after
    if before == after == 0:
        return chunks
    count = chunks.shape[-3]
    padded = torch.nn.functional.pad(chunks, (0, 0, 0, 0, before, after), value=fill)
    parts = [padded[..., i : i + count, :, :] for i in range(before + 1 + after)]
    return torch.cat(parts, dim=-2)


def pair_ids(
    ids: Int[Tensor, "*lead seq"], window: Window
) -> tuple[Int[Tensor, "*lead chunks chunk_len 1"], Int[Tensor, "*lead chunks 1 window"]]:
    """Lay out a number of each place for comparing each query of a chunk with each key it may see.

    Args:
        ids: from 0, such as segments, ranks or places.
        window: how far the queries see.

    Returns:
        The numbers of the queries as columns and of the keys of their windows as rows; -1 beyond
        either end.

    >>> [x.tolist() for x in pair_ids(torch.tensor([5, 6]), Window(1, 1))]
    [[[[5]], [[6]]], [[[-1, 5]], [[5, 6]]]]
    """
    queries = split_chunks(ids.unsqueeze(-1), window.chunk_length, fill=-1)
    return queries, look_adjacent(queries, window, fill=-1).transpose(-1, -2)


def rank_distance(window: Window, device: torch.device | str) -> Int[Tensor, "chunk_len window"]:
    """How many ranks each key of a window stands before each query of the chunk.

    Args:
        window: how far the queries see.
        device: where the result goes.

    Returns:
        ``query rank - key rank``; 0 at the own place, negative for keys behind it.

    >>> rank_distance(Window(2, 1), "cpu").tolist()
    [[2, 1, 0, -1], [3, 2, 1, 0]]
    """
    length = window.chunk_length
    queries = torch.arange(length, device=device) + length * window.num_chunks_before
    return queries[:, None] - torch.arange(length * len(window.offsets), device=device)


def count_appearances(
    sort: SortOrder, window: Window
) -> Int[Tensor, "batch heads rounds chunks chunk_len window"]:
    """Count in how many rounds each query's band shows each key of its window.

    Args:
        sort: the sort order of all rounds.
        window: how far a query sees.

    Returns:
        The counts, at the places of the windows of every round; 0 where no round shows the key.

    Source: paper appendix A, equation 16 (N_ij).

    >>> in_order = torch.tensor([[[[0, 1], [0, 1]]]])
    >>> segments = torch.tensor([[[[0, 0], [0, 1]]]])
    >>> counts = count_appearances(SortOrder(in_order, in_order, segments), Window(1, 1))
    >>> counts.flatten(0, 4).tolist()
    [[0, 2], [1, 2], [0, 2], [1, 2]]
    """
    counts: Tensor | int = 0
    for round_ in range(sort.order.shape[2]):
        ranks = sort.inverse[:, :, round_, None].expand_as(sort.order).gather(-1, sort.order)
        segments = sort.segments[:, :, round_, None].expand_as(ranks).gather(-1, ranks)
        query_ranks, key_ranks = pair_ids(ranks, window)
        query_segments, key_segments = pair_ids(segments, window)
        near = window.shows(query_ranks - key_ranks)
        counts = counts + ((query_segments == key_segments) & near)
    assert isinstance(counts, Tensor)
    return counts
