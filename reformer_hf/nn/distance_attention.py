"""What local and full self-attention have in common: a token sees others by their distance."""

from abc import abstractmethod
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor, nn

from reformer_hf.nn.head_norm import HeadRMSNorm
from reformer_hf.nn.layer_norm import StreamLayerNorm
from reformer_hf.nn.past.base import NewTokens, Past
from reformer_hf.nn.past.distance import DistancePast
from reformer_hf.nn.self_attention import (
    DEFAULT_HASHING,
    Attention,
    Hashing,
    SelfAttention,
    join_heads,
)
from reformer_hf.ops.attend import Implementation
from reformer_hf.ops.attention_map import HeadsAndMap, MapForm
from reformer_hf.ops.checks import require_bools
from reformer_hf.ops.rotary import Rotary, rotate, rotate_queries


class DistanceSelfAttention(SelfAttention):
    """Self-attention in which places alone decide who sees whom; see the base class.

    Args:
        *common: of the base class.
        use_qk_norm: normalise queries and keys of each head, before they are turned.
    """

    value: nn.Module  # each kind makes it

    def __init__(self, *common: Any, use_qk_norm: bool):
        super().__init__(*common)
        require_bools(use_qk_norm=use_qk_norm)
        self.q_norm = HeadRMSNorm(self.head_dim) if use_qk_norm else None
        self.k_norm = HeadRMSNorm(self.head_dim) if use_qk_norm else None

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
        query, key, value = self._prepare(rotary, hidden_states, documents, heads=heads, norm=norm)
        attended = self.attend(
            query,
            key,
            value,
            documents,
            dropout=self.active_dropout,
            output_map=output_map is not None,
            implementation=implementation,
        )
        return join_heads(attended, output_map, value.shape[2], value)

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
        assert isinstance(past, DistancePast)
        query, key, value = self._prepare(rotary, hidden_states, past=past, new=new)
        attended = past.attend(
            self.attend,
            query,
            key,
            value,
            new,
            dropout=self.active_dropout,
            output_map=output_map is not None,
            implementation=implementation,
        )
        return join_heads(attended, output_map, past.length)

    def _prepare(
        self, rotary: Rotary | None, *inputs: Any, **options: Any
    ) -> tuple[Tensor, Tensor, Tensor]:
        """What `project` makes, with queries and keys normalised and turned."""
        query, key, value = self.project(*inputs, **options)
        if self.q_norm is not None and self.k_norm is not None:
            query, key = self.q_norm(query), self.k_norm(key)
        if rotary is not None:
            query, key = rotate_queries(query, rotary), rotate(key, rotary)
        return query, key, value

    @abstractmethod
    def project(
        self, hidden_states: Float[Tensor, "batch seq dim"], *inputs: Any, **options: Any
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values.

        Args:
            hidden_states: normalised stream.
            *inputs: of `project_input`.
            **options: of the same.

        Returns:
            Each of shape (batch, heads, seq, head_dim).
        """

    @abstractmethod
    def attend(
        self,
        query: Float[Tensor, "batch heads seq dim"],
        key: Float[Tensor, "batch heads seq dim"],
        value: Float[Tensor, "batch heads seq dim"],
        documents: Int[Tensor, "batch seq"] | None,
        **options: Any,
    ) -> HeadsAndMap:
        """Attend from all tokens of a row to each other.

        Args:
            query: queries.
            key: keys.
            value: values.
            documents: document of each place, padding last; None for a single document.
            **options: `dropout`, `output_map` and `implementation`, as the functions of
                :mod:`reformer_hf.ops` have them.

        Returns:
            The output, and the map or None.
        """
