"""The layers of a Reformer, built from the configuration: embeddings, reversible blocks, encoder.

No algorithm lives here. Attention is in :mod:`reformer_hf.nn.attention`, the reversible replay in
:mod:`reformer_hf.nn.reversible`.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import (
    BaseModelOutputWithPast,
    BaseModelOutputWithPastAndCrossAttentions,
)

from reformer_hf.models.cache_reformer_hf import Remembered
from reformer_hf.models.configuration_reformer_hf import ReformerHFConfig
from reformer_hf.models.encoder_decoder.cross_attention import Source
from reformer_hf.models.feed_forward import build_feed_forward
from reformer_hf.models.self_attention import LayerInputs, ReformerHFAttention
from reformer_hf.models.sequence_parallel import Sharded
from reformer_hf.models.sparsity_rules import check_recurrence
from reformer_hf.nn.dropout import SeededDropout
from reformer_hf.nn.embeddings import (
    AxialPositionEmbeddings,
    LearnedPositionEmbeddings,
    NgramEmbeddings,
)
from reformer_hf.nn.layer_norm import StreamLayerNorm
from reformer_hf.nn.reversible import Decision, PlainCoupling, ReversibleCoupling
from reformer_hf.nn.self_attention import Hashing
from reformer_hf.nn.sru import LowRankSRU
from reformer_hf.ops.attention_map import AttentionMap, MapForm
from reformer_hf.ops.dropout import draw_seed
from reformer_hf.ops.rotary import Rotary


class ReformerHFEmbeddings(nn.Module):
    """Word embeddings plus position embeddings, in the precision of the streams."""

    def __init__(self, config: ReformerHFConfig):
        super().__init__()
        self.word_embeddings = nn.Embedding(config.vocab_size, config.hidden_size)
        self.dropout = SeededDropout(config.hidden_dropout_prob)
        self.ngram_embeddings = None
        if config.ngram_sizes:
            self.ngram_embeddings = NgramEmbeddings(
                sizes=config.ngram_sizes,
                table_size=config.ngram_table_size,
                hidden_size=config.hidden_size,
            )
        self.position_embeddings = None
        if config.position_embedding_type == "axial":
            self.position_embeddings = AxialPositionEmbeddings(
                shape=config.axial_pos_shape,
                dims=config.axial_pos_embds_dim,
                dropout=config.hidden_dropout_prob,
            )
        elif config.position_embedding_type == "learned":
            assert config.max_position_embeddings is not None  # the configuration resolves it
            self.position_embeddings = LearnedPositionEmbeddings(
                max_positions=config.max_position_embeddings,
                hidden_size=config.hidden_size,
                dropout=config.hidden_dropout_prob,
            )

    def forward(
        self, inputs_embeds: Tensor, position_ids: Tensor, ngrams: Tensor | None = None
    ) -> Tensor:
        """Add n-grams and positions to embedded tokens; the result is float32 or wider."""
        if ngrams is not None:
            inputs_embeds = inputs_embeds + ngrams
        stream_dtype = torch.promote_types(inputs_embeds.dtype, torch.float32)
        hidden_states = self.dropout(inputs_embeds).to(stream_dtype)
        if self.position_embeddings is not None:
            hidden_states = hidden_states + self.position_embeddings(position_ids)
        return hidden_states


class ReformerHFLayer(GradientCheckpointingLayer):
    """A reversible block: ``y1 = x1 + attention(x2)``, ``y2 = x2 + feed_forward(y1)``.

    With recurrent units, ``y2 = x2 + feed_forward(y1) + sru(y1)``.
    """

    def __init__(self, config: ReformerHFConfig, layer_index: int):
        super().__init__()
        self.attention = ReformerHFAttention(config, layer_index)
        self.feed_forward = build_feed_forward(config)
        self.sru = None
        if config.ff_sru_size:
            check_recurrence(config)
            self.sru = LowRankSRU(
                hidden_size=config.hidden_size,
                size=config.ff_sru_size,
                num_layers=config.ff_sru_layers,
                layer_norm_eps=config.layer_norm_eps,
            )

    def forward(
        self,
        x1: Tensor,
        x2: Tensor,
        coupling: PlainCoupling | ReversibleCoupling,
        inputs: LayerInputs,
    ) -> tuple[Any, ...]:
        """Advance both streams.

        Args:
            x1: stream of shape (batch, seq, hidden) that attention adds to.
            x2: stream of the same shape that the feed-forward sub-layer adds to.
            coupling: adds a sub-layer's output to a stream, plainly or for replay.
            inputs: what the layer is given besides.

        Returns:
            Both streams, and the map or None.
        """
        x1, attention_map = self.add_attention(x1, x2, coupling, inputs)
        x2 = self.add_feed_forward(x2, x1, coupling, inputs)
        return x1, x2, attention_map

    def add_attention(
        self, target: Tensor, stream: Tensor, coupling: PlainCoupling, inputs: LayerInputs
    ) -> tuple[Tensor, AttentionMap | Tensor | None]:
        """Add self-attention of a stream to the other; of some heads at a time if need be."""
        maps = []

        def attend(stream: Tensor, inputs: LayerInputs, **some_heads: Any) -> Tensor:
            output, attention_map = self.attention(stream, inputs, **some_heads)
            maps.append(attention_map)
            return output

        terms = [partial(attend, inputs=inputs)]
        groups = self.attention.head_groups()
        if len(groups) > 1 and not inputs.output_map and inputs.remembered is None:
            drops = self.training and self.attention.output.dropout.p
            seed = draw_seed() if drops else None
            terms = []
            for heads in groups:
                own = inputs._replace(hashing=inputs.hashing._replace(decision=Decision()))
                terms.append(partial(attend, inputs=own, heads=heads, dropout_seed=seed))
        target = coupling.couple(target, terms, stream)
        return target, maps[0]

    def add_feed_forward(
        self, target: Tensor, stream: Tensor, coupling: PlainCoupling, inputs: LayerInputs
    ) -> Tensor:
        """Add the feed-forward sub-layer of a stream to the other, and recurrent units if any."""
        terms: list[Callable[[Tensor], Tensor]] = [self.feed_forward]
        lengths = [self.feed_forward.piece_length(stream)]
        if self.sru is not None:
            options: dict[str, Any] = {"documents": inputs.documents}
            if (remembered := inputs.remembered) is not None:
                options = {"past": remembered.recurrent_past(), "new": remembered.new}
            terms.append(partial(self.sru, **options))
            lengths.append(0)  # a recurrence needs whole rows
        return coupling.couple(target, terms, stream, lengths)


def mean_of_streams(hidden_states: Tensor) -> Tensor:
    """The mean, hidden_size wide, of both streams that stand side by side."""
    return hidden_states.unflatten(-1, (2, -1)).mean(dim=-2)


def checkpoint_stored(
    checkpoint: Callable[..., Any],
    run: Callable[..., Any],
    x1: Tensor,
    x2: Tensor,
    coupling: PlainCoupling | ReversibleCoupling,
    inputs: LayerInputs,
) -> Any:
    """Checkpoint a layer where its activations would be stored; a replay stores none."""
    if isinstance(coupling, ReversibleCoupling) or not torch.is_grad_enabled():
        return run(x1, x2, coupling, inputs)
    if inputs.source is None:
        return checkpoint(run, x1, x2, coupling, inputs)

    def run_with(states: Tensor, x1: Tensor, x2: Tensor) -> Any:
        assert inputs.source is not None
        source = inputs.source._replace(states=states)
        return run(x1, x2, coupling, inputs._replace(source=source))

    # Torch's reentrant checkpoint only cuts off what it is given itself.
    return checkpoint(run_with, inputs.source.states, x1, x2)


class ReformerHFEncoder(nn.Module):
    """The reversible layers and the layer norm over both streams; decoders use it, too."""

    def __init__(
        self, config: ReformerHFConfig, layer_class: type[ReformerHFLayer] = ReformerHFLayer
    ):
        super().__init__()
        self.reversible, self.activation_budget = config.reversible, config.activation_budget
        self.layers = nn.ModuleList(
            layer_class(config, index) for index in range(config.num_hidden_layers)
        )
        self.layer_norm = StreamLayerNorm(2 * config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(
        self,
        embedded: list[Tensor],
        documents: Tensor | None,
        hash_seed: int,
        num_hashes: int | None,
        decisions: list[Decision],
        output_hidden_states: bool,
        output_attentions: MapForm | None,
        remembered: Sequence[Remembered | Sharded] | None = None,
        return_streams: bool = False,
        source: Source | None = None,
        skipped: int = 0,
        rotary: Rotary | None = None,
    ) -> BaseModelOutputWithPast | BaseModelOutputWithPastAndCrossAttentions:
        """Run all layers; returns what `finish` makes of the streams, or these themselves.

        `embedded` holds the embedded tokens and is emptied: nobody else is to keep them alive.
        States of the first `skipped` places are not returned.
        """
        replay = self.reversible and not output_attentions and torch.is_grad_enabled()
        # The layers of a shard are replayed on all processes or on none; a cache knows no replay.
        budget = self.activation_budget if remembered is None else 0
        coupling = ReversibleCoupling(budget) if replay else PlainCoupling()
        x1 = x2 = embedded.pop()
        streams, maps, cross_maps = [], [], []
        for index, (layer, decision) in enumerate(zip(self.layers, decisions, strict=True)):
            if output_hidden_states:
                # The layer goes on from what is returned, so that this gets a gradient.
                state = torch.cat([x1, x2], dim=-1)
                streams.append(state[:, skipped:] if skipped else state)
                if skipped:
                    state = torch.cat([state[:, :skipped], streams[-1]], dim=1)
                x1, x2 = state.chunk(2, dim=-1)
                if replay:
                    coupling = ReversibleCoupling(budget // len(self.layers))
            hashing = Hashing(hash_seed, num_hashes, decision)
            past = None if remembered is None else remembered[index]
            inputs = LayerInputs(documents, hashing, output_attentions, past, source, rotary)
            x1, x2, attention_map, *cross_map = layer(x1, x2, coupling, inputs)
            maps.append(attention_map)
            cross_maps += cross_map
            if past is not None:
                past.leave()
        if skipped:
            x1, x2 = x1[:, skipped:], x2[:, skipped:]
        last: Any = (x1, x2) if return_streams else self.finish(x1, x2)
        outputs: dict[str, Any] = {
            "last_hidden_state": last,
            "hidden_states": (*streams, last) if output_hidden_states else None,
            "attentions": tuple(maps) if output_attentions else None,
        }
        if source is None:
            return BaseModelOutputWithPast(**outputs)
        return BaseModelOutputWithPastAndCrossAttentions(
            **outputs, cross_attentions=tuple(cross_maps) if output_attentions else None
        )

    def finish(self, x1: Tensor, x2: Tensor) -> Tensor:
        """The last hidden state: both streams side by side, normalised."""
        return self.dropout(self.layer_norm(torch.cat([x1, x2], dim=-1)))
