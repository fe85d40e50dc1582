"""The long order in which all rounds are attended, its windows, and what hides keys in them.

All rounds of all heads stand one after another and are cut into chunks. A window is a chunk with
some places before and behind it.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from reformer_hf.ops.masking import Scope, check_look_ahead
from reformer_hf.ops.sorting import SortOrder

CHUNK_LENGTH = 32
"""Queries that are computed together where a scope leaves it open: fewer make a window that is
read for less, more compute scores that the band hides."""


class Geometry(NamedTuple):
    """How the long order is cut.

    Attributes:
        chunk_length: queries that are computed together.
        before: places that a window holds before its chunk.
        after: places that it holds behind its chunk.
    """

    chunk_length: int
    before: int
    after: int


class BandMask(NamedTuple):
    """Each query sees some places before its own and some behind it.

    A row of the mask depends only on the query's place in its chunk and on these two numbers, so
    rows are looked up in a table.

    Attributes:
        early: for each rank, the row of ``hide_early``.
        hide_early: rows that hide what is too early.
        late: for each rank, the row of ``hide_late``; None where no query sees what is behind it,
            which ``hide_early`` hides then.
        hide_late: rows that hide what is too late, or None.
    """

    early: Int[Tensor, " length"]
    hide_early: Float[Tensor, "kinds window"]
    late: Int[Tensor, " length"] | None = None
    hide_late: Float[Tensor, "more_kinds window"] | None = None

    def block(
        self, first: int, last: int, geometry: Geometry
    ) -> Float[Tensor, "chunks chunk_len window"]:
        """Make what is added to the scores of the queries of some ranks.

        Args:
            first: the first rank.
            last: the rank behind the last.
            geometry: of the long order.

        Returns:
            0 where the key is visible, otherwise -inf.
        """
        rows = self.hide_early.index_select(0, self.early[first:last])
        if self.late is not None and self.hide_late is not None:
            rows += self.hide_late.index_select(0, self.late[first:last])
        return rows.unflatten(0, (-1, geometry.chunk_length))


class Windows(NamedTuple):
    """Where queries and their keys stand in the long order.

    Attributes:
        rows: which row of ``(batch, seq, heads)`` stands at each rank of the long order, with
            ``before`` more ranks in front and ``after`` more behind, which nobody sees.
        ranks: where each token stands in each round, counted from the first rank of its head.
        alone: whether a query sees only itself and yields to other rounds.
        mask: hides keys.
        geometry: of the long order.
    """

    rows: Int[Tensor, " padded"]
    ranks: Int[Tensor, "batch heads rounds seq"]
    alone: Bool[Tensor, " length"]
    mask: BandMask
    geometry: Geometry


def band_windows(
    sort: SortOrder,
    *,
    chunk_length: int,
    num_chunks_before: int,
    num_chunks_after: int,
    scope: Scope,
    causal: bool,
    self_mask: bool,
    dtype: torch.dtype,
) -> Windows:
    """Windows of places near each query in its segment.

    Args:
        sort: the order of all rounds.
        chunk_length: tokens.
        num_chunks_before: look-back, in chunks.
        num_chunks_after: look-ahead, in chunks.
        scope: ``band`` for windows that move with the query, ``chunk`` for fixed chunk borders.
        causal: whether places behind the query are hidden.
        self_mask: the own place counts only when there is no other.
        dtype: of the scores.

    Returns:
        The windows.

    Raises:
        ValueError: if ``causal`` meets ``num_chunks_after`` above 0.
    """
    check_look_ahead(num_chunks_after, causal)
    device, (rounds, seq) = sort.order.device, sort.order.shape[2:]
    ranks = torch.arange(seq, device=device, dtype=torch.int32)
    before, after = chunk_length * num_chunks_before, chunk_length * num_chunks_after
    reach_before, reach_after = before, after
    if scope == "chunk":
        before, reach_before = before + chunk_length - 1, before + ranks % chunk_length
        after, reach_after = after + chunk_length - 1, after + (-ranks - 1) % chunk_length
    if causal:  # also the rest of its chunk
        after = reach_after = 0
    geometry = Geometry(min(CHUNK_LENGTH, rounds * seq), before, after)
    begins = torch.ones_like(sort.segments, dtype=torch.bool)
    begins[..., 1:] = sort.segments[..., 1:] != sort.segments[..., :-1]
    seen = earlier = _count_since(begins, ranks).clamp_(max=reach_before)
    hide_early, hide_late = _hiding_rows(geometry, self_mask, device, dtype)
    mask = BandMask(_row_numbers(earlier, before, geometry), hide_early)
    if after:
        ends = begins.roll(-1, dims=-1).flip(-1)
        later = _count_since(ends, ranks).flip(-1).clamp_(max=reach_after)
        mask = mask._replace(late=_row_numbers(later, after, geometry), hide_late=hide_late)
        seen = earlier + later
    starts = torch.arange(rounds, device=device).unsqueeze(-1) * seq
    return Windows(
        number_rows(_fill(sort.order, geometry.chunk_length), seq, geometry),
        (sort.inverse + starts).to(torch.int32),
        _fill((seen == 0) & self_mask, geometry.chunk_length).flatten(),
        mask,
        geometry,
    )


def number_rows(
    places: Int[Tensor, "batch heads length"], seq: int, geometry: Geometry
) -> Int[Tensor, " padded"]:
    """Number the vectors at the places of each head among the rows of (batch, seq, heads).

    Args:
        places: in the row, by rank.
        seq: tokens of a row.
        geometry: of the long order.

    Returns:
        Row numbers of the whole long order, with some row in the margins.

    >>> number_rows(torch.tensor([[[1, 0]], [[0, 1]]]), 2, Geometry(1, 1, 0)).tolist()
    [0, 1, 0, 2, 3]
    """
    batch, heads, _ = places.shape
    rows = torch.arange(batch, device=places.device).view(-1, 1, 1) * seq + places
    rows = rows * heads + torch.arange(heads, device=places.device).view(-1, 1)
    margins = (geometry.before, geometry.after)
    return torch.nn.functional.pad(rows.flatten().to(torch.int32), margins)


def _count_since(
    begins: Bool[Tensor, "batch heads rounds seq"], ranks: Int[Tensor, " seq"]
) -> Int[Tensor, "batch heads rounds seq"]:
    """How many ranks ago the segment began."""
    return ranks - torch.where(begins, ranks, 0).cummax(dim=-1).values


def _fill(
    tensor: Shaped[Tensor, "batch heads rounds seq"], chunk_length: int
) -> Shaped[Tensor, "batch heads length"]:
    """Put the rounds of a head one after another, filled up with zeros to whole chunks."""
    joined = tensor.flatten(2)
    return torch.nn.functional.pad(joined, (0, -joined.shape[-1] % chunk_length))


def _row_numbers(counts: Tensor, limit: int, geometry: Geometry) -> Int[Tensor, " length"]:
    """Which row of a table of :func:`_hiding_rows` hides keys from each query."""
    counts = _fill(counts, geometry.chunk_length)
    chunk_places = torch.arange(counts.shape[-1], device=counts.device) % geometry.chunk_length
    return (chunk_places * (limit + 1) + counts).to(torch.int32).flatten()


def _hiding_rows(
    geometry: Geometry, self_mask: bool, device: torch.device, dtype: torch.dtype
) -> tuple[Float[Tensor, "kinds window"], Float[Tensor, "more_kinds window"]]:
    """Rows of the mask by the query's place in its chunk and how many places it sees.

    Where queries see nothing behind them, the first table hides that, too.
    """
    chunk, before, after = geometry
    own = before + torch.arange(chunk, device=device).view(-1, 1, 1)
    places = torch.arange(before + chunk + after, device=device)
    earlier = torch.arange(before + 1, device=device).view(-1, 1)
    later = torch.arange(after + 1, device=device).view(-1, 1)
    hide_early, hide_late = places < own - earlier, places > own + later
    if self_mask:
        hide_early = hide_early | ((places == own) & (earlier > 0))
        hide_late = hide_late | ((places == own) & (later > 0))
    if not after:
        hide_early = hide_early | hide_late
    return tuple(
        torch.zeros(hidden.shape, device=device, dtype=dtype)
        .masked_fill_(hidden, -torch.inf)
        .flatten(0, 1)
        for hidden in (hide_early, hide_late)
    )  # type: ignore[return-value]
