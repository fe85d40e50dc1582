"""Cross-attention as a sub-layer of a reversible block: what a decoder reads of the source."""

from typing import Any, NamedTuple

from torch import Tensor, nn
from transformers.cache_utils import Cache

from reformer_hf.models.configuration_reformer_hf import ReformerHFConfig
from reformer_hf.models.implementations import to_implementation
from reformer_hf.nn.cross_attention import CrossAttention, KeysValues
from reformer_hf.nn.feed_forward import OutputProjection
from reformer_hf.nn.layer_norm import StreamLayerNorm, cast_for_products


class Source(NamedTuple):
    """What the encoder made of the source, for a decoder to attend to.

    Attributes:
        states: encoder output, (batch, source, 2 * hidden_size).
        visible: True at real tokens, (batch, source); None if all are.
        cache: keeps the keys and values of each layer, in a pass with a cache.
    """

    states: Tensor
    visible: Tensor | None
    cache: Cache | None = None


class ReformerHFCrossAttention(nn.Module):
    """LayerNorm, cross-attention, output projection: the middle sub-layer of a decoder block."""

    def __init__(self, config: ReformerHFConfig, layer_index: int):
        super().__init__()
        self.config, self.layer_index = config, layer_index
        self.layer_norm = StreamLayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.cross_attention = CrossAttention(
            hidden_size=config.hidden_size,
            source_size=2 * config.hidden_size,
            num_heads=config.num_attention_heads,
            head_dim=config.attention_head_size,
            dropout=config.local_attention_probs_dropout_prob,
        )
        width = config.num_attention_heads * config.attention_head_size
        self.output = OutputProjection(width, config.hidden_size, config.hidden_dropout_prob)

    def forward(
        self, hidden_states: Tensor, source: Source, output_map: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Return what is added to the other stream, and the probabilities or None."""
        normalised = cast_for_products(self.layer_norm(hidden_states))
        outputs, probabilities = self.cross_attention(
            normalised,
            self._keys_values(source),
            source.visible,
            output_map=output_map,
            implementation=to_implementation(self.config._attn_implementation),
        )
        return self.output(outputs), probabilities

    def _keys_values(self, source: Source) -> KeysValues:
        """Keys and values: from the cache, or projected here.

        Here and not once for all passes through the sub-layer: kept for backward, those of all
        layers would grow with depth. A replay projects them again.
        """
        cache, index = source.cache, self.layer_index
        if cache is None:
            return self.cross_attention.project_source(source.states)
        if not cache.get_seq_length(index):
            return cache.update(*self.cross_attention.project_source(source.states), index)
        layer: Any = cache.layers[index]
        return layer.keys, layer.values
