"""The past of an LSH layer in the ``chunk`` scope: keys and values, and each round's sort order."""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from reformer_hf.nn.past.base import LSHCachePast, NewTokens
from reformer_hf.nn.past.candidates import attend_candidates
from reformer_hf.nn.past.token_store import TokenStore
from reformer_hf.ops.attend import normalise_keys
from reformer_hf.ops.attention_map import HeadsAndMap
from reformer_hf.ops.chunk_ring import layout_length
from reformer_hf.ops.chunk_scope import chunk_attention
from reformer_hf.ops.decoding import chunk_candidates, insert_place
from reformer_hf.ops.window import Window


class LSHChunkPast(LSHCachePast):
    """Keys, values and bucket ids of all tokens, and each round's places sorted by bucket.

    A step gives what :func:`chunk_attention` gives the last of all these tokens. A token's rank is
    the number of those with a bucket up to its own, so nothing is sorted again; but the order is
    written anew, so a step's cost grows with the length, slowly.

    Args:
        rotations: that the layer hashes with.
        num_buckets: total number of buckets.
        window: how far a query sees.
        deduplicate_rounds: count a key once however often the windows show it.
        chunk_lengths: of all chunked layers of the model, which decide the padding of a row.
    """

    def __init__(
        self,
        rotations: Float[Tensor, "heads dim rounds columns"],
        num_buckets: int,
        window: Window,
        deduplicate_rounds: bool = False,
        chunk_lengths: tuple[int, ...] = (),
    ):
        super().__init__(rotations, num_buckets, window, deduplicate_rounds)
        self.chunk_lengths = (window.chunk_length, *chunk_lengths)
        self.buckets = TokenStore()  # of padding: one more, the last
        self.order: Int[Tensor, "batch heads rounds seq"] | None = None
        self.row_lengths: Int[Tensor, " batch"] | None = None  # real tokens

    def _prefill(
        self, query: Tensor, value: Tensor, buckets: Tensor, new: NewTokens, **options: Any
    ) -> HeadsAndMap:
        self._store(query, value, buckets, new)
        self._sort()
        return chunk_attention(
            query,
            value,
            buckets,
            new.documents,
            num_buckets=self.num_buckets,
            window=self.window,
            deduplicate_rounds=self.deduplicate_rounds,
            chunk_lengths=self.chunk_lengths,
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
        assert self.order is not None and self.row_lengths is not None
        first, lengths = self.length, self.row_lengths
        self._store(query, value, buckets, new)
        shown = []
        for index in range(query.shape[2]):
            ids = self.buckets.tokens(0, first + index + 1)
            rank = (ids <= ids[:, :, -1:]).sum(dim=2) - 1
            self.order = insert_place(self.order, rank)
            lengths = lengths + new.real[:, index]
            laid_out = torch.as_tensor(layout_length(lengths, self.chunk_lengths))
            shown.append(chunk_candidates(self.order, rank, lengths, laid_out, self.window))
        return attend_candidates(
            query,
            torch.cat(shown, dim=2),
            self.tokens,
            deduplicate_rounds=self.deduplicate_rounds,
            dropout=dropout,
            output_map=output_map,
        )

    def drop_last(self, count: int) -> None:
        """Forget the last tokens of every row; see :meth:`Past.drop_last`."""
        super().drop_last(count)
        if not count:
            return
        assert self.row_lengths is not None
        self.row_lengths = self.row_lengths - count
        self.buckets.drop_last(count)
        self._sort()

    def change_rows(self, change: Callable[[Tensor], Tensor]) -> None:
        """Replace each tensor by a function of it; see :meth:`Past.change_rows`."""
        super().change_rows(change)
        self.buckets.change_rows(change)
        if self.order is not None and self.row_lengths is not None:
            self.order, self.row_lengths = change(self.order), change(self.row_lengths)

    @property
    def token_bytes(self) -> int:
        """Bytes of what is stored by token, all rows together."""
        order = 0 if self.order is None else self.order.nbytes
        return super().token_bytes + self.buckets.bytes_per_token * self.buckets.length + order

    @property
    def allocated_bytes(self) -> int:
        """Bytes held, room to grow included."""
        order = 0 if self.order is None else self.order.nbytes
        return super().allocated_bytes + self.buckets.allocated_bytes + order

    @property
    def fixed_bytes(self) -> int:
        """Bytes of the rows' lengths."""
        lengths = 0 if self.row_lengths is None else self.row_lengths.nbytes
        return super().fixed_bytes + lengths

    def _store(self, query: Tensor, value: Tensor, buckets: Tensor, new: NewTokens) -> None:
        """Store keys, values and bucket ids, with padding in a last bucket of its own."""
        self.tokens.append(torch.cat([normalise_keys(query), value], dim=-1))
        self.length += query.shape[2]
        real = new.real
        if new.padded:
            buckets = torch.where(real[:, None, None], buckets, self.num_buckets)
        self.buckets.append(buckets.int().transpose(2, 3))
        if self.row_lengths is None:
            self.row_lengths = torch.zeros_like(real[:, 0], dtype=torch.int64)
        self.row_lengths = self.row_lengths + real.sum(dim=1)

    def _sort(self) -> None:
        """Sort all tokens of each round by (bucket, place)."""
        ids = self.buckets.tokens().transpose(2, 3)
        self.order = ids.argsort(dim=-1, stable=True).int()
