"""The past of an LSH layer in the ``band`` scope: keys and values, and the rings of its buckets."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from reformer_hf.nn.past.base import LSHCachePast, NewTokens
from reformer_hf.nn.past.candidates import attend_candidates
from reformer_hf.nn.past.token_store import writable
from reformer_hf.ops.attend import normalise_keys
from reformer_hf.ops.attention import attend_sorted, band_attention, combine_rounds
from reformer_hf.ops.attention_map import HeadsAndMap
from reformer_hf.ops.decoding import (
    NOWHERE,
    Overwritten,
    latest_places,
    push_places,
    sort_with_rings,
    take_back,
)
from reformer_hf.ops.sorting import SortOrder, sort_by_bucket
from reformer_hf.ops.window import Window


class _Block(NamedTuple):
    """A block that entered the rings at once, for taking it back."""

    rings: Tensor
    buckets: Tensor
    first_place: int


class LSHBandPast(LSHCachePast):
    """Keys and values of all tokens, and for each round and bucket its last W places.

    Places count the stored tokens. Of a row that several processes have read, these are the tails
    that came from the others, and then the tokens of this one.

    Args:
        rotations: that the layer hashes with.
        num_buckets: total number of buckets.
        window: how far a query sees; W is its part before the query.
        deduplicate_rounds: count a key that several rounds show once.
    """

    def __init__(
        self,
        rotations: Float[Tensor, "heads dim rounds columns"],
        num_buckets: int,
        window: Window,
        deduplicate_rounds: bool = False,
    ):
        # The last bucket is that of padding.
        super().__init__(rotations, num_buckets + 1, window, deduplicate_rounds)
        self.ring_length = window.before
        self.rings: Int[Tensor, "batch heads rounds buckets window"] | None = None
        self.log: list[Overwritten | _Block] = []

    def _prefill(
        self, query: Tensor, value: Tensor, buckets: Tensor, new: NewTokens, **options: Any
    ) -> HeadsAndMap:
        buckets = self._store(query, value, buckets, new)
        empty = (*buckets.shape[:3], self.num_buckets, self.ring_length)
        self.rings = torch.full(empty, NOWHERE, dtype=torch.int32, device=buckets.device)
        self._note(_Block(self.rings, buckets, 0))
        sort = sort_by_bucket(buckets, None, self.num_buckets)
        self.rings = latest_places(sort.order, sort.segments, self.num_buckets, self.ring_length)
        return attend_sorted(
            query,
            value,
            sort,
            self.window,
            deduplicate_rounds=self.deduplicate_rounds,
            **options,
        )

    def _decode(
        self,
        query: Tensor,
        value: Tensor,
        buckets: Tensor,
        new: NewTokens,
        dropout: float,
        output_map: bool,
    ) -> HeadsAndMap:
        first = self.tokens.length
        buckets = self._store(query, value, buckets, new)
        few = 8 * query.shape[2] <= self.num_buckets * self.ring_length
        if not (few or output_map or self.deduplicate_rounds):
            return self._attend_block(query, buckets, first, dropout), None
        assert self.rings is not None
        self.rings = writable(self.rings)
        candidates, overwritten = push_places(self.rings, buckets, first)
        self._note(*overwritten)
        return attend_candidates(
            query,
            candidates,
            self.tokens,
            deduplicate_rounds=self.deduplicate_rounds,
            dropout=dropout,
            output_map=output_map,
        )

    def can_drop(self, count: int) -> bool:
        """Whether all pushes of these tokens were recorded; see :meth:`Past.can_drop`."""
        return super().can_drop(count) and count <= sum(_tokens(entry) for entry in self.log)

    def drop_last(self, count: int) -> None:
        """Forget the last tokens of every row; see :meth:`Past.drop_last`."""
        super().drop_last(count)
        while count > 0:
            entry = self.log.pop()
            if isinstance(entry, Overwritten):
                assert self.rings is not None
                self.rings = writable(self.rings)
                take_back(self.rings, entry)
            else:
                self.rings = entry.rings
                kept = entry.buckets[..., : max(0, _tokens(entry) - count)]
                if kept.shape[-1]:
                    self._push_block(kept, entry.first_place)
            count -= _tokens(entry)
        self.log.clear()

    def change_rows(self, change: Callable[[Tensor], Tensor]) -> None:
        """Replace each tensor by a function of it; see :meth:`Past.change_rows`."""
        super().change_rows(change)
        if self.rings is not None:
            self.rings = change(self.rings)
        self.log = [_change(entry, change) for entry in self.log]

    @property
    def fixed_bytes(self) -> int:
        """Bytes of the rings: heads × rounds × (buckets and one) × W × 4 for each row."""
        return super().fixed_bytes + (0 if self.rings is None else self.rings.nbytes)

    def _store(self, query: Tensor, value: Tensor, buckets: Tensor, new: NewTokens) -> Tensor:
        """Store keys and values; returns the bucket ids with padding in the last bucket."""
        self.tokens.append(torch.cat([normalise_keys(query), value], dim=-1))
        self.length += query.shape[2]
        if not new.padded:
            return buckets
        return torch.where(new.real[:, None, None], buckets, self.num_buckets - 1)

    def _attend_block(self, query: Tensor, buckets: Tensor, first: int, dropout: float) -> Tensor:
        """Attend from a long block, sorted together with what the rings hold."""
        assert self.rings is not None
        self._note(_Block(self.rings, buckets, first))
        places, sort = self._push_block(buckets, first)
        seq = query.shape[2]
        lead = (*places.shape[:3], seq, query.shape[-1])
        new = (places - first).clamp(min=0).unsqueeze(-1).expand(*places.shape, query.shape[-1])
        by_rank = query.unsqueeze(2).expand(lead).gather(3, new)
        key, value = self.tokens.take(places.clamp(min=0)).chunk(2, dim=-1)
        attended = band_attention(
            by_rank, key, value, sort.segments, self.window, self_mask=True, dropout=dropout
        )
        return combine_rounds(attended, sort)[:, :, -seq:]

    def _push_block(self, buckets: Tensor, first: int) -> tuple[Tensor, SortOrder]:
        """Let a block enter the rings at once; returns what `sort_with_rings` does."""
        assert self.rings is not None
        places, sort = sort_with_rings(self.rings, buckets, first)
        self.rings = latest_places(places, sort.segments, self.num_buckets, self.ring_length)
        return places, sort

    def _note(self, *entries: Overwritten | _Block) -> None:
        if self.recording:
            self.log.extend(entries)
        else:
            self.log.clear()


def _tokens(entry: Overwritten | _Block) -> int:
    return 1 if isinstance(entry, Overwritten) else entry.buckets.shape[-1]


def _change(
    entry: Overwritten | _Block, change: Callable[[Tensor], Tensor]
) -> Overwritten | _Block:
    if isinstance(entry, Overwritten):
        return Overwritten(change(entry.buckets), change(entry.rings))
    return _Block(change(entry.rings), change(entry.buckets), entry.first_place)
