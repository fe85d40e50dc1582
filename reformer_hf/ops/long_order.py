"""The long order in which all rounds are attended, its windows, and what hides keys in them.

All rounds of all heads stand one after another and are cut into chunks. A window is a chunk with
some places before and behind it.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from reformer_hf.ops.sorting import SortOrder
from reformer_hf.ops.window import Window

CHUNK_LENGTH = 32
"""Queries that are computed together where a scope leaves it open: fewer make a window that is
read for less, more compute scores that the band hides."""

LARGEST_TABLE = 2**22
"""Numbers in a table of rows of the mask, above which none is made."""

NO_KEY = 2**31 - 1
"""In place of a key's place in the row, where there is no key."""


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
    rows are looked up in a table, unless the window is so wide that the table would be large.

    Attributes:
        yields: whether a query that sees only itself yields to other rounds (self mask).
        earlier: for each rank, places that its query sees before its own.
        later: the same behind its own; None where no query sees any.
        hide_early: by place in the chunk and number, what hides too early places; or None.
        hide_late: the same of too late places; or None. Without it ``hide_early`` hides all of
            them.
    """

    yields: Bool[Tensor, ""]
    earlier: Int[Tensor, " length"]
    later: Int[Tensor, " length"] | None
    hide_early: Float[Tensor, "kinds window"] | None
    hide_late: Float[Tensor, "more_kinds window"] | None

    def block(
        self, first: int, last: int, geometry: Geometry, dtype: torch.dtype
    ) -> tuple[Float[Tensor, "chunks chunk_len window"], Bool[Tensor, " ranks"]]:
        """Make what is added to the scores of the queries of some ranks.

        Args:
            first: the first rank.
            last: the rank behind the last.
            geometry: of the long order.
            dtype: of the scores.

        Returns:
            0 where the key is visible, otherwise -inf; and which queries yield to other rounds.
        """
        earlier = self.earlier[first:last]
        later = None if self.later is None else self.later[first:last]
        alone = self.yields & (earlier == 0 if later is None else earlier + later == 0)
        if self.hide_early is None:
            hidden = self._hidden(earlier, later, geometry)
            mask = torch.zeros(hidden.shape, dtype=dtype, device=hidden.device)
            return mask.masked_fill_(hidden, -torch.inf), alone
        rows = self.hide_early.to(dtype).index_select(
            0, _row_numbers(earlier, geometry.before, geometry)
        )
        if self.hide_late is not None and later is not None:
            numbers = _row_numbers(later, geometry.after, geometry)
            rows += self.hide_late.to(dtype).index_select(0, numbers)
        return rows.unflatten(0, (-1, geometry.chunk_length)), alone

    def _hidden(self, earlier: Tensor, later: Tensor | None, geometry: Geometry) -> Tensor:
        """What is hidden, without a table."""
        chunk, before, after = geometry
        places = torch.arange(before + chunk + after, device=earlier.device)
        own = before + torch.arange(chunk, device=earlier.device).unsqueeze(-1)
        earlier = earlier.view(-1, chunk, 1)
        later = torch.zeros_like(earlier) if later is None else later.view(-1, chunk, 1)
        lone = (earlier + later == 0) | ~self.yields
        return (places < own - earlier) | (places > own + later) | ((places == own) & ~lone)


class PlaceMask(NamedTuple):
    """Each query sees the keys of its window that stand at other places of the row.

    Attributes:
        query_places: place in the row of the query at each rank; -1 where there is none.
        key_places: the same of the key, with margins; ``NO_KEY`` where there is none.
    """

    query_places: Int[Tensor, " length"]
    key_places: Int[Tensor, " padded"]

    def block(
        self, first: int, last: int, geometry: Geometry, dtype: torch.dtype
    ) -> tuple[Float[Tensor, "chunks chunk_len window"], Bool[Tensor, " ranks"]]:
        """Make what is added to the scores; see :meth:`BandMask.block`."""
        chunk, before, after = geometry
        queries = self.query_places[first:last].view(-1, chunk, 1)
        keys = self.key_places[first : last + before + after]
        visible = self.visible(queries, keys.unfold(0, before + chunk + after, chunk).unsqueeze(1))
        # A rank without a query may stand on a key: it sees this only if there is no other.
        own = visible[..., before:].diagonal(dim1=1, dim2=2).fill_(False)
        alone = ~visible.any(dim=-1)
        own.copy_(alone)
        mask = torch.zeros(visible.shape, dtype=dtype, device=visible.device)
        return mask.masked_fill_(~visible, -torch.inf), alone.flatten()

    @staticmethod
    def visible(queries: Tensor, keys: Tensor) -> Tensor:
        """Which keys the queries see besides themselves."""
        return (keys != queries) & (keys != NO_KEY)


class EarlierPlaceMask(PlaceMask):
    """Each query sees the keys of its window that stand at earlier places of the row."""

    @staticmethod
    def visible(queries: Tensor, keys: Tensor) -> Tensor:
        """Which keys the queries see besides themselves."""
        return keys < queries


class LongOrder(NamedTuple):
    """Where queries and their keys stand in the long order.

    Attributes:
        rows: which row of ``(batch, seq, heads)`` stands at each rank of the long order, with
            ``before`` more ranks in front and ``after`` more behind, which nobody sees.
        ranks: where each token stands in each round, counted from the first rank of its head.
        copies: ranks that repeat another as a key, and those that they repeat, counted likewise.
        mask: hides keys.
        geometry: of the long order.
    """

    rows: Int[Tensor, " padded"]
    ranks: Int[Tensor, "batch heads rounds seq"]
    copies: Int[Tensor, "batch heads 2 repeated"] | None
    mask: BandMask | PlaceMask
    geometry: Geometry


def count_visible(
    segments: Int[Tensor, "*lead seq"], window: Window
) -> tuple[Int[Tensor, "*lead seq"], Int[Tensor, "*lead seq"]]:
    """Count the places of its segment that each place sees before and behind itself.

    Args:
        segments: along an order.
        window: how far a place sees.

    Returns:
        Two counts, int32.

    >>> counts = count_visible(torch.tensor([0, 0, 0, 1]), Window(1, 1, 2, causal=False))
    >>> [count.tolist() for count in counts]
    [[0, 1, 1, 0], [2, 1, 0, 0]]
    """
    ranks = torch.arange(segments.shape[-1], device=segments.device, dtype=torch.int32)
    begins = torch.ones_like(segments, dtype=torch.bool)
    begins[..., 1:] = segments[..., 1:] != segments[..., :-1]
    before, after = window.before, window.after
    if window.border:
        before = before - (-ranks - 1) % window.border
    earlier = (ranks - torch.where(begins, ranks, 0).cummax(dim=-1).values).clamp_(max=before)
    if not after:
        return earlier, torch.zeros_like(earlier)
    if window.border:
        after = after - ranks % window.border
    ends = begins.roll(-1, dims=-1).flip(-1)
    later = (ranks - torch.where(ends, ranks, 0).cummax(dim=-1).values).flip(-1)
    return earlier, later.clamp_(max=after)


def segment_order(sort: SortOrder, window: Window, *, self_mask: bool) -> LongOrder:
    """The long order in which each query sees places near its own in its segment.

    Args:
        sort: the order of all rounds.
        window: how far a query sees.
        self_mask: the own place counts only when there is no other.

    Returns:
        The order.

    >>> swap = torch.tensor([[[[1, 0]]]])
    >>> segment_order(SortOrder(swap, swap, swap), Window(1, 1), self_mask=False).rows.tolist()
    [0, 1, 0]
    """
    rounds, seq = sort.order.shape[2:]
    earlier, later = count_visible(sort.segments, window)
    # No window is longer than the row.
    before, after = min(window.before, seq - 1), min(window.after, seq - 1)
    geometry = Geometry(min(CHUNK_LENGTH, seq), before, after)
    earlier, later = (_fill(x, geometry.chunk_length).flatten() for x in (earlier, later))
    hide_early = hide_late = None
    table_size = geometry.chunk_length * (1 + max(before, after)) * sum(geometry)
    if table_size <= LARGEST_TABLE:
        hide_early, hide_late = _hiding_rows(geometry, self_mask, earlier.device)
    mask = BandMask(
        torch.full((), self_mask, dtype=torch.bool, device=earlier.device),
        earlier,
        later if after else None,
        hide_early,
        hide_late if after else None,
    )
    filled = -(-seq // geometry.chunk_length) * geometry.chunk_length
    starts = torch.arange(rounds, device=earlier.device).unsqueeze(-1) * filled
    return LongOrder(
        number_rows(_fill(sort.order, geometry.chunk_length), seq, geometry),
        (sort.inverse + starts).to(torch.int32),
        None,
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
    small = batch * seq * heads <= torch.iinfo(torch.int32).max
    numbers = rows.flatten().to(torch.int32 if small else torch.int64)
    return torch.nn.functional.pad(numbers, (geometry.before, geometry.after))


def _fill(
    tensor: Shaped[Tensor, "batch heads rounds seq"], chunk_length: int
) -> Shaped[Tensor, "batch heads length"]:
    """Put the rounds of a head one after another, each filled up with zeros to whole chunks."""
    return torch.nn.functional.pad(tensor, (0, -tensor.shape[-1] % chunk_length)).flatten(2)


def _row_numbers(counts: Tensor, limit: int, geometry: Geometry) -> Int[Tensor, " ranks"]:
    """Which row of a table of :func:`_hiding_rows` hides keys from the queries of whole chunks."""
    chunk_places = torch.arange(geometry.chunk_length, device=counts.device, dtype=counts.dtype)
    return (counts.view(-1, geometry.chunk_length) + chunk_places * (limit + 1)).flatten()


def _hiding_rows(
    geometry: Geometry, self_mask: bool, device: torch.device
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
        torch.zeros(hidden.shape, device=device).masked_fill_(hidden, -torch.inf).flatten(0, 1)
        for hidden in (hide_early, hide_late)
    )  # type: ignore[return-value]
