"""LSH and local self-attention: projections around the functions of :mod:`reformer_hf.ops`."""

from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from reformer_hf.nn.checks import check_hashing, check_rounds
from reformer_hf.nn.distance_attention import DistanceSelfAttention
from reformer_hf.nn.layer_norm import StreamLayerNorm
from reformer_hf.nn.past.base import LSHPast, NewTokens, Past
from reformer_hf.nn.past.distance import DistancePast
from reformer_hf.nn.past.lsh_band import LSHBandPast
from reformer_hf.nn.past.lsh_chunk import LSHChunkPast
from reformer_hf.nn.reversible import Decision
from reformer_hf.nn.self_attention import (
    DEFAULT_HASHING,
    Attention,
    Hashing,
    SelfAttention,
    join_heads,
)
from reformer_hf.nn.sequence_parallel.pasts import DistanceShardPast, LSHShardPast
from reformer_hf.nn.sequence_parallel.shard import Shard
from reformer_hf.ops.attend import Implementation
from reformer_hf.ops.attention import local_attention, lsh_attention
from reformer_hf.ops.attention_map import HeadsAndMap, MapForm
from reformer_hf.ops.chunk_ring import layout_length
from reformer_hf.ops.chunk_scope import chunk_attention
from reformer_hf.ops.convolution import following
from reformer_hf.ops.hashing import (
    NumBuckets,
    hash_vectors,
    narrow_buckets,
    sample_rotations,
    total_buckets,
)
from reformer_hf.ops.rotary import Rotary, rotate_queries
from reformer_hf.ops.sorting import places_in_document
from reformer_hf.ops.window import Scope, Window


class LSHSelfAttention(SelfAttention):
    """Shared-QK attention to the tokens that hash to the same bucket.

    Args:
        hidden_size: width of the input.
        num_heads: heads.
        head_dim: dimension of a head.
        num_buckets: even int or even factors.
        num_hashes: rounds.
        chunk_length: tokens.
        num_chunks_before: look-back, in chunks.
        num_chunks_after: look-ahead, in chunks.
        causal: whether later places are hidden.
        scope: ``band`` or ``chunk``.
        deduplicate_rounds: count a key that several rounds show once.
        local_round: attend in one more round, in which all tokens of a document share a bucket, so
            that a query also sees its nearest tokens.
        next_values: take from a key the value of the token that follows it. The first token of a
            document, which sees no other, takes nothing. With a local round only.
        dropout: of the attention probabilities, in training.
        conv_kernel: tokens that a short convolution on the input sees; 0 for no convolution.
        sparsity: modules of sparse projections; 0 for dense ones.
        sparsity_kernel: tokens that their convolutions see.
        layer_index: makes the rotations of layers differ.
        share_rotations: one draw for all layers, as transformers does with an integer seed.
        chunk_lengths: of all chunked layers of the model (``chunk`` scope).

    Source: paper section 2.
    """

    def __init__(
        self,
        *,
        hidden_size: int,
        num_heads: int,
        head_dim: int,
        num_buckets: NumBuckets,
        num_hashes: int,
        chunk_length: int,
        num_chunks_before: int,
        num_chunks_after: int = 0,
        causal: bool = True,
        scope: Scope = "band",
        deduplicate_rounds: bool = False,
        local_round: bool = False,
        next_values: bool = False,
        dropout: float = 0.0,
        conv_kernel: int = 0,
        sparsity: int = 0,
        sparsity_kernel: int = 3,
        layer_index: int = 0,
        share_rotations: bool = False,
        chunk_lengths: tuple[int, ...] = (),
    ):
        sparse = (sparsity, sparsity_kernel)
        super().__init__(hidden_size, num_heads, head_dim, dropout, conv_kernel, causal, *sparse)
        self.window = Window(chunk_length, num_chunks_before, num_chunks_after, scope, causal)
        check_hashing(self.window, num_buckets, num_hashes, layer_index)
        check_rounds(self.window, deduplicate_rounds, local_round, next_values)
        self.num_buckets, self.num_hashes = num_buckets, num_hashes
        self.layer_index, self.share_rotations = layer_index, share_rotations
        self.chunk_lengths = (chunk_length, *chunk_lengths)
        self.deduplicate_rounds, self.local_round = deduplicate_rounds, local_round
        self.next_values = next_values
        self.query_key = self.new_projection(modules_seen=3)
        self.value = self.new_projection(modules_seen=1)

    def forward(
        self,
        hidden_states: Float[Tensor, "batch seq dim"],
        documents: Int[Tensor, "batch seq"] | None = None,
        *,
        hashing: Hashing = DEFAULT_HASHING,
        output_map: MapForm | None = None,
        implementation: Implementation = "auto",
        heads: slice | None = None,
        norm: StreamLayerNorm | None = None,
        rotary: Rotary | None = None,
    ) -> Attention:
        """Attend within rows; see the base class."""
        self.check(hidden_states, documents, self.value, heads, norm)
        projections = (self.query_key, self.value)
        query, value = self.project_input(
            projections, hidden_states, documents, heads=heads, norm=norm
        )
        if self.window.scope == "chunk" and self._fits_one_chunk(hidden_states.shape[1]):
            buckets = None
        else:
            decision = Decision() if hashing.decision is None else hashing.decision
            drawn = (hashing.seed, hashing.num_hashes, heads)
            buckets = decision.recall(
                lambda: narrow_buckets(self.hash(query, *drawn), self.num_buckets)
            )
        turned = query if rotary is None else rotate_queries(query, rotary)
        if self.next_values:
            value = following(value, documents)
        options = {
            "num_buckets": total_buckets(self.num_buckets),
            "window": self.window,
            "deduplicate_rounds": self.deduplicate_rounds,
            "dropout": self.active_dropout,
            "output_map": output_map is not None,
            "implementation": implementation,
        }
        if self.window.scope == "band":
            assert buckets is not None
            attended = lsh_attention(turned, value, buckets, documents, **options)
        else:
            attended = chunk_attention(
                turned, value, buckets, documents, chunk_lengths=self.chunk_lengths, **options
            )
        joined = join_heads(attended, output_map, value.shape[2], value)
        if not self.next_values or self.window.after:
            return joined
        if documents is None:
            begins = torch.arange(hidden_states.shape[1], device=hidden_states.device) == 0
        else:
            begins = places_in_document(documents) == 0
        return _hide_own_next(joined, begins)

    def new_past(
        self, hashing: Hashing = DEFAULT_HASHING, device: torch.device | str = "cpu"
    ) -> LSHPast:
        """Make an empty past, which keeps the rotations; see the base class."""
        rounds = hashing.num_hashes or self.num_hashes
        common = (
            self.rotations(hashing.seed, rounds, device),
            total_buckets(self.num_buckets),
            self.window,
            self.deduplicate_rounds,
        )
        if self.window.scope == "band":
            return LSHBandPast(*common)
        return LSHChunkPast(*common, chunk_lengths=self.chunk_lengths)

    def new_shard_past(
        self,
        shard: Shard,
        hashing: Hashing = DEFAULT_HASHING,
        device: torch.device | str = "cpu",
        kept: Past | None = None,
    ) -> LSHShardPast:
        """Make the past of a row's shard; see the base class."""
        assert kept is None or isinstance(kept, LSHBandPast)
        _check_shard(self.window)
        if self.deduplicate_rounds:
            raise ValueError(
                "deduplicate_rounds=True in a row over several processes: a key that two rounds "
                "show comes from another process twice; set it to False"
            )
        rotations = self.rotations(hashing.seed, hashing.num_hashes or self.num_hashes, device)
        sizes = (total_buckets(self.num_buckets), self.window)
        return LSHShardPast(shard, rotations, *sizes, kept)

    def attend_cached(
        self,
        hidden_states: Float[Tensor, "batch seq dim"],
        past: Past,
        new: NewTokens,
        *,
        hashing: Hashing = DEFAULT_HASHING,
        output_map: MapForm | None = None,
        implementation: Implementation = "auto",
        rotary: Rotary | None = None,
    ) -> Attention:
        """Attend from new tokens; see the base class."""
        assert isinstance(past, LSHPast)
        projections = (self.query_key, self.value)
        query, value = self.project_input(projections, hidden_states, past=past, new=new)
        decision = Decision() if hashing.decision is None else hashing.decision
        buckets = decision.recall(
            lambda: narrow_buckets(self._hash_all(query, past.rotations), self.num_buckets)
        ).long()
        if rotary is not None:
            query = rotate_queries(query, rotary)
        if self.next_values:
            value = past.follow(value, new)
        attended = past.attend(
            query,
            value,
            buckets,
            new,
            dropout=self.active_dropout,
            output_map=output_map is not None,
            implementation=implementation,
        )
        joined = join_heads(attended, output_map, past.length)
        if not self.next_values or self.window.after:
            return joined
        return _hide_own_next(joined, past.begins(new))

    def hash(
        self,
        query: Float[Tensor, "batch heads seq dim"],
        hash_seed: int,
        num_hashes: int | None = None,
        heads: slice | None = None,
    ) -> Int[Tensor, "batch heads rounds seq"]:
        """Bucket ids of queries under the rotations of a seed.

        Queries are hashed before their position turns them: a bucket holds what is alike, however
        far apart it stands.

        Args:
            query: queries.
            hash_seed: seed of the model's rotations.
            num_hashes: rounds, if other than the module's.
            heads: which heads the queries are of; None for all.

        Returns:
            Bucket ids of all rounds, the local one last.
        """
        rotations = self.rotations(hash_seed, num_hashes or self.num_hashes, query.device)
        return self._hash_all(query, rotations[heads or slice(None)])

    def rotations(
        self, hash_seed: int, num_hashes: int, device: torch.device | str = "cpu"
    ) -> Float[Tensor, "heads dim rounds columns"]:
        """This layer's rotations.

        Args:
            hash_seed: seed of the model's rotations.
            num_hashes: rounds.
            device: where they go.

        Returns:
            Standard normal float32.
        """
        shape = (self.num_heads, self.head_dim, num_hashes, self.num_buckets, device)
        layer_index = None if self.share_rotations else self.layer_index
        return sample_rotations(hash_seed, *shape, layer_index=layer_index)

    def _hash_all(self, query: Tensor, rotations: Tensor) -> Tensor:
        """Bucket ids of all rounds under these rotations."""
        buckets = hash_vectors(query, rotations, self.num_buckets)
        return nn.functional.pad(buckets, (0, 0, 0, 1)) if self.local_round else buckets

    def _fits_one_chunk(self, seq: int) -> bool:
        return int(layout_length(seq, self.chunk_lengths)) <= self.chunk_lengths[0]


class LocalSelfAttention(DistanceSelfAttention):
    """Attention to the tokens nearby, with separate queries and keys.

    Args:
        hidden_size: width of the input.
        num_heads: heads.
        head_dim: dimension of a head.
        chunk_length: tokens.
        num_chunks_before: look-back, in chunks.
        num_chunks_after: look-ahead, in chunks.
        causal: whether later places are hidden.
        scope: ``band`` or ``chunk``.
        dropout: of the attention probabilities, in training.
        conv_kernel: tokens that a short convolution on the input sees; 0 for no convolution.
        sparsity: modules of sparse projections; 0 for dense ones.
        sparsity_kernel: tokens that their convolutions see.
        use_qk_norm: normalise queries and keys of each head, before they are turned.
    """

    def __init__(
        self,
        *,
        hidden_size: int,
        num_heads: int,
        head_dim: int,
        chunk_length: int,
        num_chunks_before: int,
        num_chunks_after: int = 0,
        causal: bool = True,
        scope: Scope = "band",
        dropout: float = 0.0,
        conv_kernel: int = 0,
        sparsity: int = 0,
        sparsity_kernel: int = 3,
        use_qk_norm: bool = False,
    ):
        sizes = (hidden_size, num_heads, head_dim, dropout, conv_kernel, causal)
        super().__init__(*sizes, sparsity, sparsity_kernel, use_qk_norm=use_qk_norm)
        self.window = Window(chunk_length, num_chunks_before, num_chunks_after, scope, causal)
        self.query = self.new_projection(modules_seen=3)
        self.key = self.new_projection(modules_seen=3)
        self.value = self.new_projection(modules_seen=1)

    def new_past(
        self, hashing: Hashing = DEFAULT_HASHING, device: torch.device | str = "cpu"
    ) -> DistancePast:
        """Make an empty past; see the base class."""
        return DistancePast(self.window)

    def new_shard_past(
        self,
        shard: Shard,
        hashing: Hashing = DEFAULT_HASHING,
        device: torch.device | str = "cpu",
        kept: Past | None = None,
    ) -> DistanceShardPast:
        """Make the past of a row's shard; see the base class."""
        assert kept is None or isinstance(kept, DistancePast)
        _check_shard(self.window)
        return DistanceShardPast(shard, self.window, kept)

    def project(
        self, hidden_states: Float[Tensor, "batch seq dim"], *inputs: Any, **options: Any
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values; see the base class."""
        projections = (self.query, self.key, self.value)
        query, key, value = self.project_input(projections, hidden_states, *inputs, **options)
        return query, key, value

    def attend(
        self, query: Tensor, key: Tensor, value: Tensor, documents: Tensor | None, **options: Any
    ) -> HeadsAndMap:
        """Attend within rows; see the base class."""
        return local_attention(query, key, value, documents, window=self.window, **options)


def _hide_own_next(attention: Attention, begins: Bool[Tensor, "*#batch seq"]) -> Attention:
    """Take what follows it from the first token of a document, which sees itself alone."""
    output, found = attention
    return output.masked_fill(begins.unsqueeze(-1), 0), found


def _check_shard(window: Window) -> None:
    """Refuse windows that cannot be cut into shards."""
    if window.scope == "chunk":
        raise ValueError(
            f"scope={window.scope!r} in a row over several processes: use 'band', since chunks are "
            "cut from whole sorted rows"
        )
