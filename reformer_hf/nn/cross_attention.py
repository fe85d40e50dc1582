"""Attention of a decoder to what an encoder made of the source."""

from jaxtyping import Bool, Float
from torch import Tensor, nn

from reformer_hf.nn.heads import merge_heads, project_heads
from reformer_hf.ops.attend import Implementation
from reformer_hf.ops.full_attention import cross_attention

KeysValues = tuple[
    Float[Tensor, "batch heads source head_dim"], Float[Tensor, "batch heads source head_dim"]
]
"""Keys and values of a source."""


class CrossAttention(nn.Module):
    """Exact attention with queries from one sequence, keys and values from another.

    Args:
        hidden_size: width of the stream that asks.
        source_size: width of the encoder output.
        num_heads: heads.
        head_dim: dimension of a head.
        dropout: of the attention probabilities, in training.

    Source: Vaswani et al. 2017 (arXiv 1706.03762), section 3.2.3.
    """

    def __init__(
        self,
        *,
        hidden_size: int,
        source_size: int,
        num_heads: int,
        head_dim: int,
        dropout: float = 0.0,
    ):
        super().__init__()
        self.num_heads, self.dropout = num_heads, dropout
        self.query = nn.Linear(hidden_size, num_heads * head_dim, bias=False)
        self.key = nn.Linear(source_size, num_heads * head_dim, bias=False)
        self.value = nn.Linear(source_size, num_heads * head_dim, bias=False)

    def project_source(self, source: Float[Tensor, "batch source source_size"]) -> KeysValues:
        """Keys and values of a source, which are the same for all queries.

        Args:
            source: encoder output.

        Returns:
            Both.
        """
        key, value = project_heads((self.key, self.value), source, self.num_heads)
        return key, value

    def forward(
        self,
        hidden_states: Float[Tensor, "batch seq dim"],
        keys_values: KeysValues,
        visible: Bool[Tensor, "batch source"] | None = None,
        *,
        output_map: bool = False,
        implementation: Implementation = "auto",
    ) -> tuple[
        Float[Tensor, "batch seq all_heads"], Float[Tensor, "batch heads seq source"] | None
    ]:
        """Attend.

        Args:
            hidden_states: normalised stream.
            keys_values: from :meth:`project_source`.
            visible: real places of the source; None for all.
            output_map: also return the probabilities.
            implementation: how to compute attention.

        Returns:
            Heads side by side, and the probabilities or None.
        """
        (query,) = project_heads((self.query,), hidden_states, self.num_heads)
        output, probabilities = cross_attention(
            query,
            *keys_values,
            visible,
            dropout=self.dropout if self.training else 0.0,
            output_map=output_map,
            implementation=implementation,
        )
        return merge_heads(output), probabilities
