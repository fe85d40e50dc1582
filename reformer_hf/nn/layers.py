"""Attention layers to take away: all projections inside, from a stream to one of the same shape."""

import weakref
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Float, Integer
from torch import Tensor, nn

from reformer_hf.nn.attention import LocalSelfAttention, LSHSelfAttention
from reformer_hf.nn.checks import (
    check_attention_mask,
    check_documents,
    check_hidden_states,
    check_implementation,
    check_rotary,
)
from reformer_hf.nn.past.base import NewTokens, Past
from reformer_hf.nn.reversible import recalled_decision
from reformer_hf.nn.self_attention import DEFAULT_HASHING, Hashing
from reformer_hf.ops.attend import Implementation
from reformer_hf.ops.checks import require_bools, require_ints
from reformer_hf.ops.dropout import draw_seed
from reformer_hf.ops.hashing import NumBuckets, default_num_buckets
from reformer_hf.ops.rotary import Rotary, rotary_angles, rotary_frequencies
from reformer_hf.ops.sorting import number_documents, places_in_document
from reformer_hf.ops.window import Scope


class AttentionCache:
    """What a causal layer remembers of the tokens so far; `new_cache` of the layer makes one.

    Rows are independent. No gradient flows into what is remembered.
    """

    def __init__(self, layer: nn.Module):
        self._layer = weakref.ref(layer)  # a copy of the cache is not to copy the layer
        self._real: Tensor | int = 0  # real tokens of each row, (batch, 1)
        self.past: Past | None = None

    @property
    def length(self) -> int:
        """Tokens of each row so far, padding included."""
        return 0 if self.past is None else self.past.length

    def check(self, layer: nn.Module, rows: int) -> None:
        """Refuse to go on with another layer or another number of rows."""
        if self._layer() is not layer:
            raise ValueError("cache is of another layer: give each layer its own new_cache()")
        if self.past is not None and self.past.rows != rows:
            raise ValueError(
                f"x has {rows} rows, the cache {self.past.rows}: give as many, or a new_cache()"
            )

    def place(self, real: Bool[Tensor, "batch seq"]) -> NewTokens:
        """Number the real tokens of a pass, following those of earlier passes."""
        places = (self._real + real.cumsum(dim=1) - 1).masked_fill(~real, -1)
        return NewTokens(places, padded=not real.all())

    def count(self, real: Bool[Tensor, "batch seq"]) -> None:
        """Count the real tokens of a pass that is done."""
        self._real = self._real + real.sum(dim=1, keepdim=True)


class _AttentionLayer(nn.Module):
    """Self-attention with input and output projections."""

    def __init__(
        self,
        dim: int,
        attention: LSHSelfAttention | LocalSelfAttention,
        causal: bool,
        bias: bool,
        implementation: Implementation,
        rope_theta: float | None,
    ):
        super().__init__()
        require_bools(bias=bias)
        check_rotary(rope_theta, attention.head_dim)
        self.dim, self.causal, self.rope_theta = dim, causal, rope_theta
        self.implementation: Implementation = implementation
        self.attention = attention
        self.output = nn.Linear(attention.value.out_features, dim, bias=bias)  # type: ignore[arg-type]

    def forward(
        self,
        x: Float[Tensor, "batch seq dim"],
        attention_mask: Bool[Tensor, "batch seq"] | Integer[Tensor, "batch seq"] | None = None,
        *,
        seq_idx: Integer[Tensor, "batch seq"] | None = None,
        cache: AttentionCache | None = None,
    ) -> Float[Tensor, "batch seq dim"]:
        """Attend.

        Args:
            x: the tokens' vectors.
            attention_mask: 1 (True) at real tokens, 0 at padding, which may stand anywhere. Real
                tokens see each other as if it were not there; its own output is 0.
            seq_idx: number of each token's document in packed rows: tokens see their own document
                only. Not with a cache, nor in the `chunk` scope.
            cache: of the tokens before x, from `new_cache`. It remembers those of x as well.

        Returns:
            What the tokens saw, projected to the width of x.

        Raises:
            TypeError: naming an argument of another type.
            ValueError: naming the argument, its value and the fix.
        """
        check_hidden_states(x, self.dim, self.attention.value.weight, name="x")
        real = None
        if attention_mask is not None:
            check_attention_mask(attention_mask, x)
            real = attention_mask.bool()
            x = x.masked_fill(~real.unsqueeze(-1), 0)  # not even a NaN there matters
        if seq_idx is not None:
            check_documents(seq_idx, x, name="seq_idx")
            seq_idx = seq_idx.long()
            if cache is not None or self.attention.window.scope == "chunk":
                reason = "scope='chunk', which mixes documents" if cache is None else "a cache"
                raise ValueError(f"seq_idx with {reason}: give each document a row of its own")
        if cache is None:
            documents = number_documents(real, seq_idx)
            heads, _ = self.attention(
                x,
                documents,
                hashing=self._hashing(draw=self.training),
                implementation=self.implementation,
                rotary=self._angles(x, partial(_places, x, documents)),
            )
        else:
            heads = self._attend_cached(x, real, cache)
        output = self.output(heads)
        return output if real is None else output.masked_fill(~real.unsqueeze(-1), 0)

    def new_cache(self) -> AttentionCache:
        """Make an empty cache for `forward`.

        Returns:
            The cache of one batch of rows. Passes with it use the rotations of evaluation.

        Raises:
            ValueError: if the layer is not causal.
        """
        if not self.causal:
            raise ValueError("causal=False: a layer that sees later tokens has no cache")
        return AttentionCache(self)

    def _attend_cached(self, x: Tensor, real: Tensor | None, cache: AttentionCache) -> Tensor:
        """Attend from new tokens to remembered ones and to each other."""
        if not isinstance(cache, AttentionCache):
            raise TypeError(f"cache is a {type(cache).__name__}: give a new_cache() of this layer")
        cache.check(self, x.shape[0])
        if cache.past is None:
            cache.past = self.attention.new_past(self._hashing(draw=False), x.device)
        real = torch.ones_like(x[:, :, 0], dtype=torch.bool) if real is None else real
        new = cache.place(real)
        heads, _ = self.attention.attend_cached(
            x,
            cache.past,
            new,
            implementation=self.implementation,
            rotary=self._angles(x, lambda: new.places),
        )
        cache.count(real)
        return heads

    def _angles(self, x: Tensor, places: Callable[[], Tensor]) -> Rotary | None:
        """By how much queries and keys are turned, if they are."""
        if self.rope_theta is None:
            return None
        frequencies = rotary_frequencies(self.attention.head_dim, self.rope_theta, x.device)
        return rotary_angles(places(), frequencies, x.dtype)

    def _hashing(self, draw: bool) -> Hashing:
        """How to hash: with new rotations, if the layer draws any, or with those of evaluation."""
        return DEFAULT_HASHING


class LSHAttention(_AttentionLayer):
    """Attention to the tokens that hash to the same bucket: the cost grows with n, not with n².

    Queries are their own keys. In training each pass hashes with new rotations from torch's default
    generator; in evaluation `hash_seed` and `layer_index` fix them.

    Args:
        dim: width of input and output.
        heads: heads.
        causal: whether later tokens are hidden.
        head_dim: dimension of a head; None for `dim / heads`.
        num_hashes: rounds. More rounds find more of the keys that matter, and cost as much more.
        chunk_length: tokens.
        num_chunks_before: in each round a token sees the last `chunk_length * num_chunks_before`
            tokens of its bucket.
        num_chunks_after: the same for later tokens; None for 0 if causal, else as many as before.
        num_buckets: an even int or even factors; None to derive it from `hash_length`.
        hash_length: tokens at which an average bucket fills its window; best about the length of
            your rows. Not read if `num_buckets` is given.
        scope: `band`, or `chunk` as in published checkpoints, which is not strictly causal.
        deduplicate_rounds: count a key that several rounds show once.
        local_round: attend in one more round, in which all tokens share a bucket, so that a token
            also sees its nearest ones. `band` scope only.
        next_values: take from a key the value of the token that follows it: what stood behind its
            like. With `local_round` only.
        dropout: of the attention probabilities, in training.
        bias: of the output projection.
        conv_kernel: tokens that a short convolution on the input sees; 0 for no convolution.
        rope_theta: base of rotary positions, which turn queries and keys by their token's place
            among the real ones of its document; None for no positions.
        hash_seed: of the rotations in evaluation.
        layer_index: makes the rotations of layers with one seed differ.
        redraw_rotations: False for the rotations of evaluation in training, too.
        implementation: how attention is computed.

    Raises:
        TypeError: naming an argument of another type.
        ValueError: naming the argument, its value and the fix.

    Source: Kitaev et al. 2020, "Reformer" (arXiv 2001.04451), section 2.
    """

    attention: LSHSelfAttention

    def __init__(
        self,
        dim: int,
        heads: int,
        causal: bool = True,
        *,
        head_dim: int | None = None,
        num_hashes: int = 4,
        chunk_length: int = 64,
        num_chunks_before: int = 1,
        num_chunks_after: int | None = None,
        num_buckets: NumBuckets | None = None,
        hash_length: int = 8192,
        scope: Scope = "band",
        deduplicate_rounds: bool = False,
        local_round: bool = False,
        next_values: bool = False,
        dropout: float = 0.0,
        bias: bool = False,
        conv_kernel: int = 0,
        rope_theta: float | None = None,
        hash_seed: int = 0,
        layer_index: int = 0,
        redraw_rotations: bool = True,
        implementation: Implementation = "auto",
    ):
        require_ints(0, hash_seed=hash_seed, num_chunks_before=num_chunks_before)
        require_ints(1, hash_length=hash_length, chunk_length=chunk_length)
        require_bools(redraw_rotations=redraw_rotations)
        if num_buckets is None:
            window = chunk_length * max(num_chunks_before, 1)
            num_buckets = default_num_buckets(hash_length, window)
        attention = LSHSelfAttention(
            hidden_size=dim,
            num_heads=heads,
            head_dim=_head_dim(dim, heads, head_dim),
            num_buckets=num_buckets,
            num_hashes=num_hashes,
            chunk_length=chunk_length,
            num_chunks_before=num_chunks_before,
            num_chunks_after=_look_ahead(num_chunks_before, num_chunks_after, causal),
            causal=causal,
            scope=scope,
            deduplicate_rounds=deduplicate_rounds,
            local_round=local_round,
            next_values=next_values,
            dropout=dropout,
            conv_kernel=conv_kernel,
            layer_index=layer_index,
        )
        check_implementation(implementation, dropout, ring=scope == "chunk")
        super().__init__(dim, attention, causal, bias, implementation, rope_theta)
        self.hash_seed, self.redraw_rotations = hash_seed, redraw_rotations

    def _hashing(self, draw: bool) -> Hashing:
        # A replay draws as well, so that what is drawn after it stays the same.
        drawn = draw_seed() if draw and self.redraw_rotations else None
        seed = self.hash_seed if drawn is None else drawn
        return Hashing(seed, decision=recalled_decision())


class LocalAttention(_AttentionLayer):
    """Attention to the tokens nearby, with separate queries and keys.

    Args:
        dim: width of input and output.
        heads: heads.
        causal: whether later tokens are hidden.
        head_dim: dimension of a head; None for `dim / heads`.
        chunk_length: tokens.
        num_chunks_before: a token sees `chunk_length * num_chunks_before` tokens before it.
        num_chunks_after: the same for later tokens; None for 0 if causal, else as many as before.
        scope: `band`, or `chunk` for windows with fixed borders.
        dropout: of the attention probabilities, in training.
        bias: of the output projection.
        conv_kernel: tokens that a short convolution on the input sees; 0 for no convolution.
        rope_theta: base of rotary positions, which turn queries and keys by their token's place
            among the real ones of its document; None for no positions.
        use_qk_norm: normalise queries and keys of each head, with learned scales, before they are
            turned.
        implementation: how attention is computed.

    Raises:
        TypeError: naming an argument of another type.
        ValueError: naming the argument, its value and the fix.
    """

    attention: LocalSelfAttention

    def __init__(
        self,
        dim: int,
        heads: int,
        causal: bool = True,
        *,
        head_dim: int | None = None,
        chunk_length: int = 64,
        num_chunks_before: int = 1,
        num_chunks_after: int | None = None,
        scope: Scope = "band",
        dropout: float = 0.0,
        bias: bool = False,
        conv_kernel: int = 0,
        rope_theta: float | None = None,
        use_qk_norm: bool = False,
        implementation: Implementation = "auto",
    ):
        attention = LocalSelfAttention(
            hidden_size=dim,
            num_heads=heads,
            head_dim=_head_dim(dim, heads, head_dim),
            chunk_length=chunk_length,
            num_chunks_before=num_chunks_before,
            num_chunks_after=_look_ahead(num_chunks_before, num_chunks_after, causal),
            causal=causal,
            scope=scope,
            dropout=dropout,
            conv_kernel=conv_kernel,
            use_qk_norm=use_qk_norm,
        )
        check_implementation(implementation, dropout, ring=False)
        super().__init__(dim, attention, causal, bias, implementation, rope_theta)


def _places(x: Tensor, documents: Tensor | None) -> Tensor:
    """Place of each token in its document, (batch or 1, seq)."""
    if documents is None:
        return torch.arange(x.shape[1], device=x.device).unsqueeze(0)
    return places_in_document(documents)


def _head_dim(dim: Any, heads: Any, head_dim: Any) -> Any:
    require_ints(1, dim=dim, heads=heads)
    if head_dim is not None:
        return head_dim
    if dim % heads:
        raise ValueError(
            f"dim={dim} is no multiple of heads={heads}: choose another number of heads, or give "
            "head_dim"
        )
    return dim // heads


def _look_ahead(num_chunks_before: Any, num_chunks_after: Any, causal: Any) -> Any:
    if num_chunks_after is not None:
        return num_chunks_after
    return 0 if causal else num_chunks_before
