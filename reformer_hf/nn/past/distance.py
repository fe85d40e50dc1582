"""The past of a layer that attends by distance: local attention, and full attention."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from reformer_hf.nn.past.base import NewTokens, Past
from reformer_hf.nn.past.token_store import TokenStore
from reformer_hf.ops.attention_map import AttentionMap, HeadsAndMap
from reformer_hf.ops.decoding import attend_seen
from reformer_hf.ops.window import Window

PIECE = 64
"""Queries attended at a time: bounds the mask of a long block."""

AttendRows = Callable[..., HeadsAndMap]
"""Attends within rows, given queries, keys, values and documents."""


class _Moved(NamedTuple):
    """How a padded block was moved to the right of its rows.

    Attributes:
        source: which new token stands at each of the last places.
        target: at which of the last places each new token stands.
    """

    source: Int[Tensor, "batch seq"]
    target: Int[Tensor, "batch seq"]


class DistancePast(Past):
    """Keys and values of the tokens that a later token can still see.

    Real tokens of a row stand next to each other, as if it had no padding: before a padded block is
    stored, each row's real tokens are moved to its right.

    Args:
        window: how far a query sees; None for full attention, which keeps all.
        self_mask: the own place counts only when there is no other key.
    """

    side_by_side = True
    """Whether all that a query sees stands together, up to its own place."""

    def __init__(self, window: Window | None = None, *, self_mask: bool = False):
        super().__init__()
        self.window, self.self_mask = window, self_mask
        # Of each token, its place among the row's real tokens (-1: padding) and in the row; only
        # when there is padding, since otherwise both follow from the length.
        self.marks = TokenStore()
        self.padded = False
        # Tokens before its own that a query may see at most.
        self.reach = None if window is None else window.before

    def attend(
        self,
        attend: AttendRows,
        query: Float[Tensor, "batch heads seq dim"],
        key: Float[Tensor, "batch heads seq dim"],
        value: Float[Tensor, "batch heads seq dim"],
        new: NewTokens,
        *,
        dropout: float = 0.0,
        output_map: bool = False,
        **options: Any,
    ) -> HeadsAndMap:
        """Attend from new tokens to all that they see, each other included, and remember them.

        Args:
            attend: attends from the first tokens to each other.
            query: queries.
            key: keys.
            value: values.
            new: where they stand.
            dropout: of the probabilities.
            output_map: also return the attention map.
            **options: others of ``attend``.

        Returns:
            The output, and the map or None.
        """
        common: dict[str, Any] = {"dropout": dropout, "output_map": output_map}
        if self.length:
            return self.decode(query, key, value, new, **common)
        self.remember(key, value, new)
        return attend(query, key, value, new.documents, **common, **options)

    def remember(
        self,
        key: Float[Tensor, "batch heads seq dim"],
        value: Float[Tensor, "batch heads seq dim"],
        new: NewTokens,
    ) -> None:
        """Remember the first tokens, which another function attends.

        Args:
            key: keys.
            value: values.
            new: where they stand.
        """
        self._append(key, value, new)
        self._forget()

    def decode(
        self,
        query: Float[Tensor, "batch heads seq dim"],
        key: Float[Tensor, "batch heads seq dim"],
        value: Float[Tensor, "batch heads seq dim"],
        new: NewTokens,
        *,
        dropout: float = 0.0,
        output_map: bool = False,
    ) -> HeadsAndMap:
        """Remember further tokens, and attend from them to all that they see.

        Args:
            query: queries.
            key: keys.
            value: values.
            new: where they stand.
            dropout: of the probabilities.
            output_map: also return the attention map.

        Returns:
            The output, and the map or None.
        """
        moved = self._append(key, value, new)
        if moved is not None:
            query = _take(query, moved.source)
        attended = [
            self._attend(piece, behind, dropout, output_map)
            for piece, behind in _pieces(query, query.shape[2] if output_map else PIECE)
        ]
        self._forget()
        output, attention_map = attended[0]
        if len(attended) > 1:
            output = torch.cat([output for output, _ in attended], dim=2)
        if moved is not None:
            output = _take(output, moved.target)
            if attention_map is not None:
                parts = (_take(x.squeeze(2), moved.target).unsqueeze(2) for x in attention_map)
                attention_map = AttentionMap(*parts)
        return output, attention_map

    def can_drop(self, count: int) -> bool:
        """Whether what the tokens before could see is still there; see :meth:`Past.can_drop`."""
        left, length = self.tokens.length - count, self.length - count
        return super().can_drop(count) and left >= (
            length if self.reach is None else min(self.reach, length)
        )

    def drop_last(self, count: int) -> None:
        """Forget the last tokens of every row; see :meth:`Past.drop_last`."""
        super().drop_last(count)
        self.marks.drop_last(count)
        for store in (self.tokens, self.marks):
            if self.reach is not None:
                store.keep_last(self.reach)

    def change_rows(self, change: Callable[[Tensor], Tensor]) -> None:
        """Replace each tensor by a function of it; see :meth:`Past.change_rows`."""
        super().change_rows(change)
        self.marks.change_rows(change)

    @property
    def token_bytes(self) -> int:
        """Bytes of what is stored by token."""
        return super().token_bytes + self.marks.bytes_per_token * self.marks.length

    def _append(self, key: Tensor, value: Tensor, new: NewTokens) -> _Moved | None:
        """Store tokens; padding goes to the left of the row, and then it is said what moved."""
        seq, first = key.shape[2], self.length
        tokens = torch.cat([key, value], dim=-1)
        self.tokens.check(tokens)  # before anything is changed
        self.length += seq
        if not new.padded:
            self.tokens.append(tokens)
            if self.padded:
                self.marks.append(_marks(new.places, first))
            return None
        marks = _marks(new.places, first)
        if stored := self.tokens.length:
            tokens = torch.cat([self.tokens.tokens(), tokens], dim=2)
            if not self.padded:
                before = torch.arange(first - stored, first, device=key.device)
                self.marks.replace(_marks(before.expand(key.shape[0], -1), first - stored))
            marks = torch.cat([self.marks.tokens(), marks], dim=2)
        self.padded = True
        order = (marks[:, 0, :, 0] >= 0).long().argsort(dim=-1, stable=True)
        self.tokens.replace(_take(tokens, order))
        self.marks.replace(_take(marks, order))
        first = order.shape[-1] - seq
        source = (order[:, first:] - first).clamp(min=0)
        target = (order.argsort(dim=-1)[:, first:] - first).clamp(min=0)
        return _Moved(source, target)

    def _attend(
        self, query: Tensor, behind: int, dropout: float, output_map: bool
    ) -> tuple[Tensor, AttentionMap | None]:
        """Attend from the stored tokens with ``behind`` more behind them."""
        stop = self.tokens.length - behind
        start = 0
        visible: Tensor | None = None
        if query.shape[2] == 1 and not self.padded and self.side_by_side:
            start, stop = self._seen(stop)
        else:
            if self.reach is not None:
                start = max(0, stop - query.shape[2] - self.reach)
            visible = self._visible(start, stop, query.shape[2])
        key, value = self.tokens.tokens(start, stop).chunk(2, dim=-1)
        output, probabilities = attend_seen(
            query, key, value, visible, dropout=dropout, output_map=output_map
        )
        if probabilities is None:
            return output, None
        in_row = self._places(start, stop)[1].unsqueeze(2).expand_as(probabilities)
        in_row = in_row.masked_fill(probabilities == 0, -1)
        return output, AttentionMap(probabilities.unsqueeze(2), in_row.unsqueeze(2))

    def _places(self, start: int, stop: int) -> tuple[Tensor, Tensor]:
        """Stored tokens' places among the real ones and in the row, each (#batch, 1, keys)."""
        if self.padded:
            places, in_row = self.marks.tokens(start, stop).unbind(dim=-1)
            return places, in_row
        forgotten = self.length - self.tokens.length
        places = torch.arange(forgotten + start, forgotten + stop, device=self.tokens.device).view(
            1, 1, -1
        )
        return places, places

    def _seen(self, stop: int) -> tuple[int, int]:
        """Which stored tokens the last one sees, where there is no padding."""
        forgotten = self.length - self.tokens.length
        start = max(0, self._first_visible(forgotten + stop - 1) - forgotten)
        return start, stop - 1 if self.self_mask and stop - 1 > start else stop

    def _visible(self, start: int, stop: int, queries: int) -> Bool[Tensor, "#batch 1 seq keys"]:
        """Which of the stored tokens the last ones of them see."""
        places, _ = self._places(start, stop)
        keys, query = places.unsqueeze(2), places[:, :, -queries:].unsqueeze(3)
        own = torch.ones(queries, stop - start, dtype=torch.bool, device=places.device)
        own = own.triu(stop - start - queries).tril(stop - start - queries)
        visible = (keys >= 0) & (keys <= query) & self.sees(keys, query)
        if self.self_mask:
            visible = visible & ~own
            return visible | (own & ~visible.any(dim=-1, keepdim=True))
        return visible | own

    def sees(
        self, keys: Int[Tensor, "*#shape"], queries: Int[Tensor, "*#shape"]
    ) -> Bool[Tensor, "*#shape"]:
        """Whether a query sees a key at an earlier place.

        Args:
            keys: their places among the real tokens of the row.
            queries: the same of the queries.

        Returns:
            True where it does; later places and padding are hidden besides.
        """
        return keys >= self._first_visible(queries)

    def _first_visible(self, place):
        """The first place that a query may see."""
        if self.window is None:
            return 0
        if not self.window.border:
            return place - self.window.before
        chunk = place // self.window.chunk_length
        return (chunk - self.window.num_chunks_before) * self.window.chunk_length

    def _forget(self) -> None:
        """Forget what no later token sees, now and then."""
        if self.reach is None or self.recording:
            return
        if self.tokens.length > 2 * self.reach + PIECE:
            self.tokens.keep_last(self.reach)
            self.marks.keep_last(self.reach)


def _marks(places: Int[Tensor, "batch seq"], first: int) -> Int[Tensor, "batch 1 seq 2"]:
    """Places among the real tokens and in the row, side by side, as a store holds them."""
    in_row = torch.arange(first, first + places.shape[1], device=places.device)
    return torch.stack([places, in_row.expand_as(places)], dim=-1).unsqueeze(1)


def _pieces(query: Tensor, length: int) -> list[tuple[Tensor, int]]:
    """Cut queries into pieces; each comes with the number of queries behind it."""
    seq = query.shape[2]
    if seq <= length:
        return [(query, 0)]
    return [
        (piece, max(0, seq - (index + 1) * length))
        for index, piece in enumerate(query.split(length, dim=2))
    ]


def _take(tokens: Tensor, index: Int[Tensor, "batch seq"]) -> Tensor:
    """Take tokens of each row, the same for all heads."""
    return tokens.gather(
        2, index[:, None, :, None].expand(-1, tokens.shape[1], -1, tokens.shape[3])
    )
