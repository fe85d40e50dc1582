"""Exact self-attention: what the other kinds approximate."""

from jaxtyping import Float, Int
from torch import Tensor, nn

from reformer_hf.nn.attention import Attention, merge_heads, split_heads
from reformer_hf.ops.full_attention import full_attention
from reformer_hf.ops.window_attention import normalise_keys


class FullSelfAttention(nn.Module):
    """Exact attention to the whole document: what the other kinds approximate.

    With ``shared_query_key`` it takes the weights of an LSH layer, otherwise those of a local one.

    Args:
        hidden_size: width of the input.
        num_heads: heads.
        head_dim: dimension of a head.
        shared_query_key: keys are the queries at unit length, with the self mask.
        causal: whether later places are hidden.
        dropout: of the attention probabilities, in training.
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
    ):
        super().__init__()
        self.num_heads, self.dropout, self.causal = num_heads, dropout, causal
        self.shared_query_key = shared_query_key
        if shared_query_key:
            self.query_key = nn.Linear(hidden_size, num_heads * head_dim, bias=False)
        else:
            self.query = nn.Linear(hidden_size, num_heads * head_dim, bias=False)
            self.key = nn.Linear(hidden_size, num_heads * head_dim, bias=False)
        self.value = nn.Linear(hidden_size, num_heads * head_dim, bias=False)

    def forward(
        self,
        hidden_states: Float[Tensor, "batch seq dim"],
        documents: Int[Tensor, "batch seq"] | None = None,
        *,
        output_map: bool = False,
    ) -> Attention:
        """Attend.

        Args:
            hidden_states: normalised stream.
            documents: document of each place, padding last; None for a single document.
            output_map: also return the attention map.

        Returns:
            Heads side by side, and the map or None.
        """
        if self.shared_query_key:
            query = split_heads(self.query_key(hidden_states), self.num_heads)
            key = normalise_keys(query)
        else:
            query = split_heads(self.query(hidden_states), self.num_heads)
            key = split_heads(self.key(hidden_states), self.num_heads)
        output, attention_map = full_attention(
            query,
            key,
            split_heads(self.value(hidden_states), self.num_heads),
            documents,
            causal=self.causal,
            self_mask=self.shared_query_key,
            dropout=self.dropout if self.training else 0.0,
            output_map=output_map,
        )
        return merge_heads(output), attention_map
