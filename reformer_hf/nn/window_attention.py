"""What local and full self-attention have in common: a token sees others by their distance."""

from abc import ABC, abstractmethod

from jaxtyping import Float, Int
from torch import Tensor, nn

from reformer_hf.nn.heads import Attention, merge_heads
from reformer_hf.nn.past.base import NewTokens
from reformer_hf.nn.past.window import WindowPast
from reformer_hf.ops.attention import Implementation
from reformer_hf.ops.attention_map import AttentionMap


class WindowSelfAttention(nn.Module, ABC):
    """Self-attention with a window that depends on places only.

    Args:
        num_heads: heads.
        causal: whether later places are hidden.
        dropout: of the attention probabilities, in training.
    """

    def __init__(self, *, num_heads: int, causal: bool, dropout: float):
        super().__init__()
        self.num_heads, self.causal, self.dropout = num_heads, causal, dropout

    def forward(
        self,
        hidden_states: Float[Tensor, "batch seq dim"],
        documents: Int[Tensor, "batch seq"] | None = None,
        *,
        output_map: bool = False,
        implementation: Implementation = "sdpa",
        heads: slice | None = None,
        past: WindowPast | None = None,
        new: NewTokens | None = None,
    ) -> Attention:
        """Attend.

        Args:
            hidden_states: normalised stream.
            documents: document of each place, padding last; None for a single document.
            output_map: also return the attention map.
            implementation: how to compute attention.
            heads: attend with these only; not in a pass with a cache.
            past: from :meth:`new_past`, in a pass with a cache.
            new: where the tokens stand, if there is a past; in place of ``documents``.

        Returns:
            Heads side by side, and the map or None.
        """
        query, key, value = self.project(hidden_states, heads)
        if past is not None and new is not None:
            output, attention_map = self._attend_with_past(
                query, key, value, past, new, output_map, implementation
            )
        else:
            output, attention_map = self.attend(
                query, key, value, documents, output_map, implementation
            )
        return merge_heads(output), attention_map

    @abstractmethod
    def new_past(self) -> WindowPast:
        """Make an empty past, for :meth:`forward`.

        Returns:
            It.
        """

    @abstractmethod
    def project(
        self, hidden_states: Float[Tensor, "batch seq dim"], heads: slice | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values.

        Args:
            hidden_states: normalised stream.
            heads: of these heads only; None for all.

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
        output_map: bool,
        implementation: Implementation = "sdpa",
    ) -> tuple[Float[Tensor, "batch heads seq dim"], AttentionMap | None]:
        """Attend from all tokens of a row to each other.

        Args:
            query: queries.
            key: keys.
            value: values.
            documents: document of each place, padding last; None for a single document.
            output_map: also return the attention map.
            implementation: how to compute it.

        Returns:
            The output, and the map or None.
        """

    def _attend_with_past(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        past: WindowPast,
        new: NewTokens,
        output_map: bool,
        implementation: Implementation,
    ) -> tuple[Tensor, AttentionMap | None]:
        """Attend from new tokens to the past and to each other; the past remembers them."""
        if past.length:
            dropout = self.dropout if self.training else 0.0
            return past.decode(query, key, value, new, dropout=dropout, output_map=output_map)
        past.remember(key, value, new)
        return self.attend(query, key, value, new.documents, output_map, implementation)
