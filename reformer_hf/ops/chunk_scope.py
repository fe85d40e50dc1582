"""LSH attention in the ``chunk`` scope, as the paper's implementation and transformers compute it.

All rounds' tokens are sorted by (round, bucket, place) and cut into chunks of fixed length. A
query sees its own chunk and its neighbours, with a wrap from the first chunk to the last and from
each round to the one before. Buckets may mix in a chunk. Chunk borders depend on the whole
sequence, so a causal model's outputs move when later tokens change: this scope is for published
checkpoints. Each row is laid out as if it were alone in the batch.
"""

import math

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from reformer_hf.ops.attention import Implementation, choose_implementation, combine_rounds
from reformer_hf.ops.attention_map import AttentionMap, choose_map, map_rounds, unalign_map
from reformer_hf.ops.blockwise import attend_blockwise
from reformer_hf.ops.chunking import split_chunks
from reformer_hf.ops.full_attention import full_attention
from reformer_hf.ops.sorting import (
    SortOrder,
    invert_order,
    permute,
    rearrange,
    sort_by_bucket,
    unpermute,
)
from reformer_hf.ops.window_attention import (
    Attended,
    attend_windows,
    normalise_keys,
    normalise_keys_in_parts,
)
from reformer_hf.ops.windows import (
    NO_KEY,
    EarlierPlaceMask,
    Geometry,
    PlaceMask,
    Windows,
    number_rows,
)


def layout_length(seq: Tensor | int, chunk_lengths: tuple[int, ...]) -> Tensor | int:
    """Length of a row with the padding that transformers' Reformer gives it.

    Args:
        seq: real tokens of the row, or of each row.
        chunk_lengths: of all chunked layers of the model.

    Returns:
        ``seq`` up to the shortest chunk length, else the next multiple of the least common
        multiple of the chunk lengths.

    >>> layout_length(40, (64, 48)), layout_length(50, (64, 48))
    (40, 192)
    """
    multiple = math.lcm(*chunk_lengths)
    padded = -(-seq // multiple) * multiple
    if isinstance(seq, Tensor):
        return torch.where(seq <= min(chunk_lengths), seq, padded)
    return seq if seq <= min(chunk_lengths) else padded


def chunk_attention(
    query: Float[Tensor, "batch heads seq dim"],
    value: Float[Tensor, "batch heads seq dim"],
    buckets: Int[Tensor, "batch heads rounds seq"] | None,
    documents: Int[Tensor, "batch seq"] | None = None,
    *,
    num_buckets: int,
    chunk_length: int,
    num_chunks_before: int,
    num_chunks_after: int = 0,
    causal: bool = True,
    deduplicate_rounds: bool = False,
    dropout: float = 0.0,
    output_map: bool = False,
    chunk_lengths: tuple[int, ...] = (),
    implementation: Implementation = "sdpa",
) -> tuple[Float[Tensor, "batch heads seq dim"], AttentionMap | None]:
    """LSH attention of the published checkpoints.

    Args:
        query: in the order of the row; the keys are the queries at unit length.
        value: in the order of the row.
        buckets: bucket ids below ``num_buckets``; may be None where the layout fits one chunk.
        documents: 0 at real tokens, 1 at padding; None when all are real.
        num_buckets: total number of buckets.
        chunk_length: tokens.
        num_chunks_before: look-back, in chunks.
        num_chunks_after: look-ahead, in chunks.
        causal: whether later places are hidden.
        deduplicate_rounds: count a key once however often the windows show it.
        dropout: of the probabilities.
        output_map: also return the attention map.
        chunk_lengths: of all chunked layers of the model, which decide the padding of a row.
        implementation: ``eager`` or ``sdpa``.

    Returns:
        The output, and the map or None.

    Raises:
        ValueError: if ``implementation`` is another.

    Source: paper section 2; trax ``LSHSelfAttention``; transformers ``LSHSelfAttention``.

    >>> x, buckets = torch.eye(3).view(1, 1, 3, 3), torch.tensor([[[[0, 1, 0]]]])
    >>> window = {"num_buckets": 2, "chunk_length": 1, "num_chunks_before": 1}
    >>> chunk_attention(x, x, buckets, **window)[0][0, 0].tolist()
    [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [1.0, 0.0, 0.0]]
    """
    if implementation == "flex_attention":
        raise ValueError(
            "implementation='flex_attention' in the chunk scope, whose windows wrap around: use "
            "'sdpa' or 'eager', or the band scope"
        )
    seq, lengths = query.shape[-2], (chunk_length, *chunk_lengths)
    real = query.new_full((query.shape[0],), seq, dtype=torch.int64)
    alignment = None
    if documents is not None:
        real = (documents == 0).sum(dim=-1)
        alignment = _left_align(documents, query.shape[1])
        query, value = (permute(x, alignment).squeeze(2) for x in (query, value))
        documents = alignment.segments[:, 0, 0, :chunk_length]
    output, attention_map = full_attention(
        query[..., :chunk_length, :],
        normalise_keys(query[..., :chunk_length, :]),
        value[..., :chunk_length, :],
        documents,
        causal=causal,
        self_mask=True,
        dropout=dropout,
        output_map=output_map,
        implementation=implementation,
    )
    padded = int(layout_length(seq, lengths))
    if padded > chunk_length:
        assert buckets is not None, "buckets may be None only where the layout fits one chunk"
        if alignment is not None:
            buckets = buckets.gather(-1, alignment.order.expand_as(buckets))
        if padded > seq:
            behind = (0, 0, 0, padded - seq)
            query, value = (torch.nn.functional.pad(x, behind) for x in (query, value))
        laid_out = torch.as_tensor(layout_length(real, lengths))
        sort = _sort_layout(buckets, real, laid_out, padded, num_buckets)
        window = (chunk_length, num_chunks_before, num_chunks_after)
        one_chunk = laid_out <= chunk_length
        # In rows of two chunks and one round, a window may reach around to its own chunk.
        repeats = 2 * buckets.shape[2] < num_chunks_before + 1 + num_chunks_after
        needs_all = output_map or deduplicate_rounds or repeats
        if choose_implementation(implementation, needs_all) == "sdpa":
            wrapped = _wrapped_windows(sort, real, laid_out, *window, causal)
            chunked = attend_blockwise(
                query, normalise_keys_in_parts(query), value, wrapped, dropout
            )
            output = chunked if alignment is None else _choose(one_chunk, output, chunked)
        else:
            windows = _Windows(sort, real, laid_out, *window)
            attended = windows.attend(query, value, causal, deduplicate_rounds, dropout)
            if attention_map is not None:
                attention_map = choose_map(one_chunk, attention_map, windows.to_map(attended))
            output = _choose(one_chunk, output, windows.combine(attended))
    return _restore(output, attention_map, alignment, seq)


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


def _wrapped_windows(
    sort: SortOrder,
    real: Tensor,
    laid_out: Tensor,
    chunk_length: int,
    num_chunks_before: int,
    num_chunks_after: int,
    causal: bool,
) -> Windows:
    """The windows of all rounds' chunks, each head's rounds joined to a ring.

    In the long order a head's rounds stand between copies of the chunks that its first and last
    windows reach around the ring. A row's ring has only the chunks that the row uses.
    """
    before, after = chunk_length * num_chunks_before, chunk_length * num_chunks_after
    geometry = Geometry(chunk_length, before, after)
    rounds, padded = sort.order.shape[2:]
    used = (laid_out // chunk_length).clamp(min=1)[:, None] * chunk_length
    length = rounds * used
    unrolled = torch.arange(-before, rounds * padded + after, device=real.device)
    on_ring = unrolled < length + after
    ring_ranks = unrolled % length
    ranks = (ring_ranks // used * padded + ring_ranks % used)[:, None]
    places = sort.order.flatten(2).gather(-1, ranks.expand(-1, sort.order.shape[1], -1))
    # What is laid out behind a row stands off the ring, with the last place of all.
    places = places.masked_fill(~on_ring[:, None], padded - 1)
    is_key = on_ring[:, None] & (places < real[:, None, None])
    is_query = is_key & (torch.arange(places.shape[-1], device=real.device) >= before)
    keys = places.masked_fill(~is_key, NO_KEY).to(torch.int32).flatten()
    mask = (EarlierPlaceMask if causal else PlaceMask)(
        places.masked_fill(~is_query, -1).to(torch.int32).flatten(),
        torch.nn.functional.pad(keys, (before, after), value=NO_KEY),
    )
    used = used[:, None, None]
    in_round = before + torch.arange(rounds, device=real.device)[:, None] * used + sort.inverse
    in_round = torch.where(sort.inverse < used, in_round, places.shape[-1] - 1)
    behind = length + torch.arange(after, device=real.device)
    copied = torch.cat([unrolled[:before].expand(len(length), -1), behind], dim=-1)
    copies = before + torch.stack([copied, copied % length], dim=1)
    return Windows(
        number_rows(places, padded, geometry),
        in_round.to(torch.int32),
        copies.unsqueeze(1).expand(-1, sort.order.shape[1], -1, -1).to(torch.int32),
        mask,
        geometry,
    )


class _Windows:
    """The windows of all rounds' chunks, with each row wrapping to its own last chunk.

    Chunks are numbered over all rounds, ``round * chunks + chunk``; a row uses the first ``used``
    chunks of each round.
    """

    def __init__(
        self,
        sort: SortOrder,
        real: Tensor,
        laid_out: Tensor,
        chunk_length: int,
        num_chunks_before: int,
        num_chunks_after: int,
    ):
        self.sort, self.chunk_length = sort, chunk_length
        self.rounds, seq = sort.order.shape[2:]
        self.chunks = seq // chunk_length
        self.used = (laid_out // chunk_length).clamp(min=1)[:, None]
        self.offsets = range(-num_chunks_before, num_chunks_after + 1)
        self.query_places = self._split(sort.order.unsqueeze(-1))
        self.key_places = self._look_adjacent(self.query_places).transpose(-1, -2)
        self.own = self.query_places == self.key_places
        self.real = self.key_places < real.view(-1, 1, 1, 1, 1)
        # A chunk appears once in a window, even if two offsets lead to it.
        first = torch.stack([self._is_first(offset) for offset in self.offsets], dim=-1)
        repeated = first.repeat_interleave(chunk_length, dim=-1)
        self.distinct = repeated.view(repeated.shape[0], 1, 1, 1, -1)

    def attend(
        self, query: Tensor, value: Tensor, causal: bool, deduplicate: bool, dropout: float
    ) -> Attended:
        """Attend all rounds; the result is by round and rank."""
        query = self._split(permute(query, self.sort))
        value = self._split(permute(value, self.sort))
        visible = self.real & self.distinct
        if causal:
            visible = visible & (self.query_places >= self.key_places)
        attended = attend_windows(
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

    def combine(self, attended: Attended) -> Tensor:
        """Combine the rounds in the order of the row."""
        logsumexps = unpermute(attended.logsumexp.unsqueeze(-1), self.sort).squeeze(-1)
        return combine_rounds(unpermute(attended.output, self.sort), logsumexps)

    def to_map(self, attended: Attended) -> AttentionMap:
        """The attention map in the order of the row."""
        places = self.key_places.expand(-1, -1, -1, self.chunk_length, -1)
        places = self._merge(places)
        assert attended.probabilities is not None
        return map_rounds(attended.probabilities, attended.logsumexp, places, self.sort)

    def _split(self, vectors: Shaped[Tensor, "batch heads rounds seq dim"]) -> Tensor:
        return split_chunks(vectors, self.chunk_length).flatten(2, 3)

    def _merge(self, tensor: Tensor) -> Tensor:
        return tensor.unflatten(2, (self.rounds, self.chunks)).flatten(3, 4)

    def _neighbour(self, offset: int) -> Int[Tensor, "batch chunks"]:
        """Number of the chunk ``offset`` chunks away, among the row's used chunks."""
        number = torch.arange(self.rounds * self.chunks, device=self.sort.order.device)
        round_, chunk = number // self.chunks, number % self.chunks
        moved = (round_ * self.used + chunk + offset) % (self.rounds * self.used)
        neighbour = moved // self.used * self.chunks + moved % self.used
        return torch.where(chunk < self.used, neighbour, number)

    def _is_first(self, offset: int) -> Bool[Tensor, " batch"]:
        """Whether no offset nearer to the own chunk leads to the same chunk."""
        count = (self.rounds * self.used).squeeze(-1)
        nearer = [o for o in self.offsets if (abs(o), o) < (abs(offset), offset)]
        first = torch.ones_like(count, dtype=torch.bool)
        for other in nearer:
            first &= (offset - other) % count != 0
        return first

    def _look_adjacent(self, chunks: Shaped[Tensor, "batch heads chunks chunk_len dim"]) -> Tensor:
        batch, heads, count, length, dim = chunks.shape
        flat = chunks.reshape(batch * heads, count, length * dim)
        parts = []
        for offset in self.offsets:
            order, inverse = (
                self._neighbour(o)[:, None].expand(-1, heads, -1).reshape(-1, 1, count)
                for o in (offset, -offset)
            )
            parts.append(rearrange(flat, order, inverse).view(chunks.shape))
        return torch.cat(parts, dim=-2)

    def _count_appearances(self) -> Int[Tensor, "batch heads chunks chunk_len window"]:
        """How often, over all rounds, the windows of a query show each key of this window."""
        batch, heads, rounds, seq = self.sort.order.shape
        chunk_of = self.sort.inverse // self.chunk_length
        chunk_of = chunk_of + torch.arange(rounds, device=chunk_of.device).view(-1, 1) * self.chunks
        queries, keys = self.query_places.squeeze(-1), self.key_places.squeeze(-2)
        counts: Tensor | int = 0
        for round_ in range(rounds):
            query_chunk = _lookup(chunk_of[:, :, round_], queries)
            for offset in self.offsets:
                number = self._neighbour(offset)[:, None].expand(-1, heads, -1)
                shown = _lookup(number, query_chunk).unsqueeze(-1)
                once = self._is_first(offset).view(-1, 1, 1, 1, 1)
                for other in range(rounds):
                    key_chunk = _lookup(chunk_of[:, :, other], keys).unsqueeze(-2)
                    counts = counts + ((shown == key_chunk) & once).long()
        assert isinstance(counts, Tensor)
        return counts


def _lookup(table: Tensor, index: Tensor) -> Tensor:
    """``table[b, h, index[b, h, ...]]``."""
    return table.gather(-1, index.flatten(2)).view(index.shape)


def _choose(one_chunk: Tensor, short: Tensor, long: Tensor) -> Tensor:
    """Per row, the one-chunk result (over the first places) or the chunked one."""
    short = torch.nn.functional.pad(short, (0, 0, 0, long.shape[-2] - short.shape[-2]))
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
