"""Exact self-attention: what the other kinds approximate."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from reformer_hf.nn.distance_attention import DistanceSelfAttention
from reformer_hf.nn.past.distance import DistancePast
from reformer_hf.nn.self_attention import DEFAULT_HASHING, Hashing
from reformer_hf.ops.attend import normalise_keys
from reformer_hf.ops.attention_map import HeadsAndMap
from reformer_hf.ops.full_attention import full_attention


class FullSelfAttention(DistanceSelfAttention):
    """Exact attention to the whole document: what the other kinds approximate.

    With ``shared_query_key`` it takes the weights of an LSH layer, otherwise those of a local one.

    Args:
        hidden_size: width of the input.
        num_heads: heads.
        head_dim: dimension of a head.
        shared_query_key: keys are the queries at unit length, with the self mask.
        causal: whether later places are hidden.
        dropout: of the attention probabilities, in training.
        conv_kernel: tokens that a short convolution on the input sees; 0 for no convolution.
        sparsity: modules of sparse projections; 0 for dense ones.
        sparsity_kernel: tokens that their convolutions see.
        use_qk_norm: normalise queries and keys of each head, before they are turned; not where they
            are shared.
    """

    def __init__(
        self,
        *,
        hidden_size: int,
        num_heads: int,
        head_dim: int,
        shared_query_key: bool = False,
        causal: bool = True,
        dropout: float = 0.0,
        conv_kernel: int = 0,
        sparsity: int = 0,
        sparsity_kernel: int = 3,
        use_qk_norm: bool = False,
    ):
        sizes = (hidden_size, num_heads, head_dim, dropout, conv_kernel, causal)
        normalised = use_qk_norm and not shared_query_key
        super().__init__(*sizes, sparsity, sparsity_kernel, use_qk_norm=normalised)
        self.causal, self.shared_query_key = causal, shared_query_key
        if shared_query_key:
            self.query_key = self.new_projection(modules_seen=3)
        else:
            self.query = self.new_projection(modules_seen=3)
            self.key = self.new_projection(modules_seen=3)
        self.value = self.new_projection(modules_seen=1)

    def new_past(
        self, hashing: Hashing = DEFAULT_HASHING, device: torch.device | str = "cpu"
    ) -> DistancePast:
        """Make an empty past; see the base class."""
        return DistancePast(self_mask=self.shared_query_key)

    def project(
        self, hidden_states: Float[Tensor, "batch seq dim"], *inputs: Any, **options: Any
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values; see the base class."""
        if self.shared_query_key:
            projections = (self.query_key, self.value)
            query, value = self.project_input(projections, hidden_states, *inputs, **options)
            return query, normalise_keys(query), value
        projections = (self.query, self.key, self.value)
        query, key, value = self.project_input(projections, hidden_states, *inputs, **options)
        return query, key, value

    def attend(
        self, query: Tensor, key: Tensor, value: Tensor, documents: Tensor | None, **options: Any
    ) -> HeadsAndMap:
        """Attend within rows; see the base class."""
        return full_attention(
            query,
            key,
            value,
            documents,
            causal=self.causal,
            self_mask=self.shared_query_key,
            **options,
        )
