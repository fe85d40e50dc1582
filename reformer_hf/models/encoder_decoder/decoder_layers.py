"""The layers of a decoder with cross-attention."""

from typing import Any

from torch import Tensor

from reformer_hf.models.configuration_reformer_hf import ReformerHFConfig
from reformer_hf.models.encoder_decoder.cross_attention import ReformerHFCrossAttention
from reformer_hf.models.layers import ReformerHFLayer
from reformer_hf.models.self_attention import LayerInputs
from reformer_hf.nn.reversible import PlainCoupling, ReversibleCoupling


class ReformerHFDecoderLayer(ReformerHFLayer):
    """A reversible block of three steps.

    ``y1 = x1 + attention(x2)``, ``y2 = x2 + cross_attention(y1, source)``,
    ``z1 = y1 + feed_forward(y2)``, with recurrent units ``+ sru(y2)``.

    The roles of the streams swap after every step, and three is odd: the stream that self-attention
    adds to in one block is the one that it reads in the next. So the block returns its streams in
    the order (y2, z1), and the next block's x1 is the y2 of this one.
    """

    def __init__(self, config: ReformerHFConfig, layer_index: int):
        super().__init__(config, layer_index)
        self.cross_attention = ReformerHFCrossAttention(config, layer_index)

    def forward(
        self,
        x1: Tensor,
        x2: Tensor,
        coupling: PlainCoupling | ReversibleCoupling,
        inputs: LayerInputs,
    ) -> tuple[Any, ...]:
        """Advance both streams; see `ReformerHFLayer.forward`.

        Returns:
            Both streams, the map of self-attention or None, and the probabilities of
            cross-attention or None.
        """
        probabilities = []

        def attend(stream: Tensor) -> Tensor:
            assert inputs.source is not None
            output, found = self.cross_attention(stream, inputs.source, bool(inputs.output_map))
            probabilities.append(found)
            return output

        x1, attention_map = self.add_attention(x1, x2, coupling, inputs)
        x2 = coupling.couple(x2, attend, x1)
        x1 = self.add_feed_forward(x1, x2, coupling, inputs)
        return x2, x1, attention_map, probabilities[0]
