"""LSH attention in the ``chunk`` scope, as the paper's implementation and transformers compute it.

All rounds' tokens are sorted by (round, bucket, place) and cut into chunks of fixed length. A
query sees its own chunk and its neighbours, with a wrap from the first chunk to the last and from
each round to the one before. Buckets may mix in a chunk. Chunk borders depend on the whole
sequence, so a causal model's outputs move when later tokens change: this scope is for published
checkpoints. Each row is laid out as if it were alone in the batch.
"""

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from reformer_hf.ops.attend import (
    Attended,
    Implementation,
    attend,
    normalise_keys,
    normalise_keys_in_parts,
)
from reformer_hf.ops.attention import (
    LONG_ORDER,
    attend_long_order,
    choose_implementation,
    combine_rounds,
)
from reformer_hf.ops.attention_map import AttentionMap, choose_map, map_rounds, unalign_map
from reformer_hf.ops.chunk_ring import Ring, layout_length
from reformer_hf.ops.full_attention import full_attention
from reformer_hf.ops.long_order import (
    NO_KEY,
    EarlierPlaceMask,
    Geometry,
    LongOrder,
    PlaceMask,
    number_rows,
)
from reformer_hf.ops.sorting import (
    SortOrder,
    invert_order,
    permute,
    rearrange,
    sort_by_bucket,
    unpermute,
)
from reformer_hf.ops.window import Window, split_chunks


def chunk_attention(
    query: Float[Tensor, "batch heads seq dim"],
    value: Float[Tensor, "batch heads seq dim"],
    buckets: Int[Tensor, "batch heads rounds seq"] | None,
    documents: Int[Tensor, "batch seq"] | None = None,
    *,
    num_buckets: int,
    window: Window,
    deduplicate_rounds: bool = False,
    dropout: float = 0.0,
    output_map: bool = False,
    chunk_lengths: tuple[int, ...] = (),
    implementation: Implementation = "auto",
) -> tuple[Float[Tensor, "batch heads seq dim"], AttentionMap | None]:
    """LSH attention of the published checkpoints.

    Args:
        query: in the order of the row; the keys are the queries at unit length.
        value: in the order of the row.
        buckets: bucket ids below ``num_buckets``; may be None where the layout fits one chunk.
        documents: 0 at real tokens, 1 at padding; None when all are real.
        num_buckets: total number of buckets.
        window: how far a query sees, in the ``chunk`` scope.
        deduplicate_rounds: count a key once however often the windows show it.
        dropout: of the probabilities.
        output_map: also return the attention map.
        chunk_lengths: of all chunked layers of the model, which decide the padding of a row.
        implementation: any but ``flex_attention``.

    Returns:
        The output, and the map or None.

    Raises:
        ValueError: if ``implementation`` is that one, or the window of the ``band`` scope.

    Source: paper section 2; trax ``LSHSelfAttention``; transformers ``LSHSelfAttention``.

    >>> x, buckets = torch.eye(3).view(1, 1, 3, 3), torch.tensor([[[[0, 1, 0]]]])
    >>> window = Window(1, 1, scope="chunk")
    >>> chunk_attention(x, x, buckets, num_buckets=2, window=window)[0][0, 0].tolist()
    [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [1.0, 0.0, 0.0]]
    """
    window.require("chunk")
    if implementation == "flex_attention":
        raise ValueError(
            "implementation='flex_attention' in the chunk scope, whose windows wrap around: use "
            "'blockwise' or 'eager', or the band scope"
        )
    seq, chunk = query.shape[-2], window.chunk_length
    real = query.new_full((query.shape[0],), seq, dtype=torch.int64)
    alignment = None
    if documents is not None:
        real = (documents == 0).sum(dim=-1)
        alignment = _left_align(documents, query.shape[1])
        query, value = (permute(x, alignment).squeeze(2) for x in (query, value))
        documents = alignment.segments[:, 0, 0, :chunk]
    output, attention_map = full_attention(
        query[..., :chunk, :],
        normalise_keys(query[..., :chunk, :]),
        value[..., :chunk, :],
        documents,
        causal=window.causal,
        self_mask=True,
        dropout=dropout,
        output_map=output_map,
        implementation=implementation,
    )
    lengths = (chunk, *chunk_lengths)
    padded = int(layout_length(seq, lengths))
    if padded > chunk:
        assert buckets is not None, "buckets may be None only where the layout fits one chunk"
        if alignment is not None:
            buckets = buckets.gather(-1, alignment.order.expand_as(buckets))
        query, value = (_pad_behind(x, padded - seq) for x in (query, value))
        laid_out = torch.as_tensor(layout_length(real, lengths))
        sort = _sort_layout(buckets, real, laid_out, padded, num_buckets)
        ring = Ring.of(laid_out, buckets.shape[2], chunk)
        one_chunk = laid_out <= chunk
        # In rows of two chunks and one round, a window may reach around to its own chunk.
        repeats = 2 * buckets.shape[2] < len(window.offsets)
        needs_all = output_map or deduplicate_rounds or repeats
        chosen = choose_implementation(implementation, query, needs_all)
        if chosen in LONG_ORDER:
            order, key = _ring_order(sort, ring, real, window), normalise_keys_in_parts(query)
            chunked = attend_long_order(chosen, query, key, value, order, dropout)
            output = chunked if alignment is None else _choose(one_chunk, output, chunked)
        else:
            chunks = _RingChunks(sort, ring, real, window)
            attended = chunks.attend(query, value, deduplicate_rounds, dropout)
            if attention_map is not None:
                attention_map = choose_map(one_chunk, attention_map, chunks.to_map(attended))
            output = _choose(one_chunk, output, combine_rounds(attended, sort))
    return _restore(output, attention_map, alignment, seq)


def _pad_behind(vectors: Tensor, places: int) -> Tensor:
    return torch.nn.functional.pad(vectors, (0, 0, 0, places)) if places else vectors


def _left_align(documents: Tensor, heads: int) -> SortOrder:
    """The order that brings each row's real tokens to its left."""
    one_bucket = torch.zeros_like(documents)[:, None, None]
    return sort_by_bucket(one_bucket, documents, 1).expand_heads(heads)


def _sort_layout(
    buckets: Tensor, real: Tensor, laid_out: Tensor, padded: int, num_buckets: int
) -> SortOrder:
    """Sort each round by (bucket, place), a row's padding behind its tokens, the rest last."""
    places = torch.arange(padded, device=buckets.device)
    buckets = torch.nn.functional.pad(buckets, (0, padded - buckets.shape[-1]))
    behind = (places >= real[:, None]).long() + (places >= laid_out[:, None]).long()
    behind = behind[:, None, None]
    keys = torch.where(behind > 0, num_buckets - 1 + behind, buckets)
    segments, order = torch.sort(keys, dim=-1, stable=True)
    return SortOrder(order, invert_order(order), segments)


def _ring_order(sort: SortOrder, ring: Ring, real: Tensor, window: Window) -> LongOrder:
    """The long order of all rounds' chunks, each head's rounds joined to a ring.

    A head's rounds stand there between copies of the chunks that its first and last windows reach
    around the ring.
    """
    length = window.chunk_length
    before, after = length * window.num_chunks_before, length * window.num_chunks_after
    geometry = Geometry(length, before, after)
    rounds, padded = sort.order.shape[2:]
    ends = rounds * ring.used[:, None]
    unrolled = torch.arange(-before, rounds * padded + after, device=real.device)
    on_ring = unrolled < ends + after
    round_, rank = ring.locate(unrolled[None])
    ranks = (round_ * padded + rank)[:, None]
    places = sort.order.flatten(2).gather(-1, ranks.expand(-1, sort.order.shape[1], -1))
    # What is laid out behind a row stands off the ring, with the last place of all.
    places = places.masked_fill(~on_ring[:, None], padded - 1)
    is_key = on_ring[:, None] & (places < real[:, None, None])
    is_query = is_key & ((unrolled >= 0) & (unrolled < ends))[:, None]  # copies are keys alone
    keys = places.masked_fill(~is_key, NO_KEY).to(torch.int32).flatten()
    mask = (EarlierPlaceMask if window.causal else PlaceMask)(
        places.masked_fill(~is_query, -1).to(torch.int32).flatten(),
        torch.nn.functional.pad(keys, (before, after), value=NO_KEY),
    )
    in_round = before + ring.number(_round_numbers(sort), sort.inverse)
    on_layout = sort.inverse < ring.used[:, None, None, None]
    in_round = torch.where(on_layout, in_round, places.shape[-1] - 1)
    behind = ends + torch.arange(after, device=real.device)
    copied = torch.cat([unrolled[:before].expand(len(ends), -1), behind], dim=-1)
    copies = before + torch.stack([copied, copied % ends], dim=1)
    return LongOrder(
        number_rows(places, padded, geometry),
        in_round.to(torch.int32),
        copies.unsqueeze(1).expand(-1, sort.order.shape[1], -1, -1).to(torch.int32),
        mask,
        geometry,
    )


def _round_numbers(sort: SortOrder) -> Int[Tensor, "rounds 1"]:
    return torch.arange(sort.order.shape[2], device=sort.order.device)[:, None]


class _RingChunks:
    """The chunks of all rounds, each beside those of its window, for attention with all scores.

    Chunks are numbered over all rounds, ``round * chunks + chunk``; a row's ring has only the
    chunks that it uses, the others stand beside themselves.
    """

    def __init__(self, sort: SortOrder, ring: Ring, real: Tensor, window: Window):
        self.sort, self.ring, self.window = sort, ring, window
        self.rounds, seq = sort.order.shape[2:]
        self.chunks = seq // window.chunk_length
        self.query_places = self._split(sort.order.unsqueeze(-1))
        self.key_places = self._look_adjacent(self.query_places).transpose(-1, -2)
        self.own = self.query_places == self.key_places
        self.real = self.key_places < real.view(-1, 1, 1, 1, 1)
        self.once = ring.show_once(window.offsets)  # (batch, offsets)

    def attend(self, query: Tensor, value: Tensor, deduplicate: bool, dropout: float) -> Attended:
        """Attend all rounds; the result is by round and rank."""
        query = self._split(permute(query, self.sort))
        value = self._split(permute(value, self.sort))
        distinct = self.once.repeat_interleave(self.window.chunk_length, dim=-1)
        visible = self.real & distinct[:, None, None, None]
        if self.window.causal:
            visible = visible & (self.query_places >= self.key_places)
        attended = attend(
            query,
            self._look_adjacent(normalise_keys(query)),
            self._look_adjacent(value),
            visible | self.own,
            own=self.own,
            counts=self._count_appearances() if deduplicate else None,
            dropout=dropout,
        )
        output, logsumexp, probabilities = attended
        assert probabilities is not None  # eager attention keeps them
        return Attended(*(self._merge(x) for x in (output, logsumexp, probabilities)))

    def to_map(self, attended: Attended) -> AttentionMap:
        """The attention map in the order of the row."""
        places = self.key_places.expand(-1, -1, -1, self.window.chunk_length, -1)
        places = self._merge(places)
        assert attended.probabilities is not None
        return map_rounds(attended.probabilities, attended.logsumexp, places, self.sort)

    def _split(self, vectors: Shaped[Tensor, "batch heads rounds seq dim"]) -> Tensor:
        return split_chunks(vectors, self.window.chunk_length).flatten(2, 3)

    def _merge(self, tensor: Tensor) -> Tensor:
        return tensor.unflatten(2, (self.rounds, self.chunks)).flatten(3, 4)

    def _neighbour(self, offset: int) -> Int[Tensor, "batch chunks"]:
        """Number of the chunk ``offset`` chunks away, on the row's ring."""
        length = self.window.chunk_length
        number = torch.arange(self.rounds * self.chunks, device=self.sort.order.device)[None]
        round_, rank = number // self.chunks, number % self.chunks * length
        there, rank_there = self.ring.locate(self.ring.number(round_, rank + offset * length))
        neighbour = there * self.chunks + rank_there // length
        return torch.where(rank < self.ring.used[:, None], neighbour, number)

    def _look_adjacent(self, chunks: Shaped[Tensor, "batch heads chunks chunk_len dim"]) -> Tensor:
        batch, heads, count, length, dim = chunks.shape
        flat = chunks.reshape(batch * heads, count, length * dim)
        parts = []
        for offset in self.window.offsets:
            order, inverse = (
                self._neighbour(o)[:, None].expand(-1, heads, -1).reshape(-1, 1, count)
                for o in (offset, -offset)
            )
            parts.append(rearrange(flat, order, inverse).view(chunks.shape))
        return torch.cat(parts, dim=-2)

    def _count_appearances(self) -> Int[Tensor, "batch heads chunks chunk_len window"]:
        """How often, over all rounds, the windows of a query show each key of this window."""
        heads = self.sort.order.shape[1]
        chunk_of = self.sort.inverse // self.window.chunk_length
        chunk_of = chunk_of + _round_numbers(self.sort) * self.chunks
        queries, keys = self.query_places.squeeze(-1), self.key_places.squeeze(-2)
        counts: Tensor | int = 0
        for round_ in range(self.rounds):
            query_chunk = _lookup(chunk_of[:, :, round_], queries)
            for offset, once in zip(self.window.offsets, self.once.unbind(-1), strict=True):
                number = self._neighbour(offset)[:, None].expand(-1, heads, -1)
                shown = _lookup(number, query_chunk).unsqueeze(-1)
                for other in range(self.rounds):
                    key_chunk = _lookup(chunk_of[:, :, other], keys).unsqueeze(-2)
                    same = (shown == key_chunk) & once.view(-1, 1, 1, 1, 1)
                    counts = counts + same.long()
        assert isinstance(counts, Tensor)
        return counts


def _lookup(table: Tensor, index: Tensor) -> Tensor:
    """``table[b, h, index[b, h, ...]]``."""
    return table.gather(-1, index.flatten(2)).view(index.shape)


def _choose(one_chunk: Tensor, short: Tensor, long: Tensor) -> Tensor:
    """Per row, the one-chunk result (over the first places) or the chunked one."""
    short = _pad_behind(short, long.shape[-2] - short.shape[-2])
    return torch.where(one_chunk.view(-1, 1, 1, 1), short, long)


def _restore(
    output: Tensor, attention_map: AttentionMap | None, alignment: SortOrder | None, seq: int
) -> tuple[Tensor, AttentionMap | None]:
    """Drop what stands behind the row and bring the rest back to the order of the row."""
    output = output[..., :seq, :]
    if attention_map is not None:
        attention_map = AttentionMap(*(x[:, :, :, :seq] for x in attention_map))
    if alignment is None:
        return output, attention_map
    output = unpermute(output.unsqueeze(2), alignment).squeeze(2)
    return output, None if attention_map is None else unalign_map(attention_map, alignment)
