"""The layers of a Reformer, built from the configuration: embeddings, reversible blocks, encoder.

No algorithm lives here. Attention is in :mod:`reformer_hf.nn.attention`, the reversible replay in
:mod:`reformer_hf.nn.reversible`.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers.activations import ACT2FN
from transformers.modeling_outputs import BaseModelOutputWithPast

from reformer_hf.models.cache_reformer_hf import Remembered
from reformer_hf.models.configuration_reformer_hf import ReformerHFConfig
from reformer_hf.nn.attention import LocalSelfAttention, LSHSelfAttention
from reformer_hf.nn.embeddings import AxialPositionEmbeddings, LearnedPositionEmbeddings
from reformer_hf.nn.feed_forward import ChunkedFeedForward, OutputProjection
from reformer_hf.nn.full_attention import FullSelfAttention
from reformer_hf.nn.layer_norm import StreamLayerNorm, cast_for_products
from reformer_hf.nn.reversible import Decision, PlainCoupling, ReversibleCoupling
from reformer_hf.nn.window_attention import WindowSelfAttention
from reformer_hf.ops.attention import AttentionMap
from reformer_hf.ops.dropout import draw_seed


def build_self_attention(
    config: ReformerHFConfig, layer_index: int
) -> LSHSelfAttention | WindowSelfAttention:
    """Build the self-attention module of a layer.

    Args:
        config: the configuration.
        layer_index: which layer.

    Returns:
        A module of :mod:`reformer_hf.nn.attention`.
    """
    kind = config.attn_layers[layer_index]
    causal = bool(config.is_decoder)
    shared_qk = kind in ("lsh", "full_shared_qk")
    dropout_field = "lsh" if shared_qk else "local"
    common: dict[str, Any] = {
        "hidden_size": config.hidden_size,
        "num_heads": config.num_attention_heads,
        "head_dim": config.attention_head_size,
        "causal": causal,
        "dropout": getattr(config, f"{dropout_field}_attention_probs_dropout_prob") or 0.0,
    }
    if kind in ("full", "full_shared_qk"):
        return FullSelfAttention(shared_query_key=shared_qk, **common)
    common |= {"scope": config.attention_scope, **config.attention_window(kind, causal)._asdict()}
    if kind == "local":
        return LocalSelfAttention(**common)
    common |= {"num_buckets": config.num_buckets, "share_rotations": config.share_rotations}
    return LSHSelfAttention(
        num_hashes=config.num_hashes,
        deduplicate_rounds=config.deduplicate_rounds,
        layer_index=layer_index,
        chunk_lengths=config.chunk_lengths(),
        **common,
    )


class ReformerHFEmbeddings(nn.Module):
    """Word embeddings plus position embeddings, in the precision of the streams."""

    def __init__(self, config: ReformerHFConfig):
        super().__init__()
        self.word_embeddings = nn.Embedding(config.vocab_size, config.hidden_size)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
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

    def forward(self, inputs_embeds: Tensor, position_ids: Tensor) -> Tensor:
        """Add positions to embedded tokens; the result is float32 or wider."""
        stream_dtype = torch.promote_types(inputs_embeds.dtype, torch.float32)
        hidden_states = self.dropout(inputs_embeds).to(stream_dtype)
        if self.position_embeddings is not None:
            hidden_states = hidden_states + self.position_embeddings(position_ids)
        return hidden_states


class ReformerHFAttention(nn.Module):
    """LayerNorm, self-attention, output projection: sub-layer f of a reversible block."""

    def __init__(self, config: ReformerHFConfig, layer_index: int):
        super().__init__()
        self.config = config
        self.layer_norm = StreamLayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.self_attention = build_self_attention(config, layer_index)
        width = config.num_attention_heads * config.attention_head_size
        self.output = OutputProjection(width, config.hidden_size, config.hidden_dropout_prob)

    def forward(
        self,
        hidden_states: Tensor,
        documents: Tensor | None,
        hashing: dict[str, Any],
        output_map: bool,
        remembered: Remembered | None = None,
        heads: slice | None = None,
        dropout_seed: int | None = None,
    ) -> tuple[Tensor, AttentionMap | None]:
        """Return what is added to the other stream, and the attention map or None.

        Of some `heads`, their share of what is added; `dropout_seed` is the same for all of them.
        """
        normalised = cast_for_products(self.layer_norm(hidden_states))
        # Read at each pass: `set_attn_implementation` changes it.
        implementation: Any = self.config._attn_implementation or "sdpa"
        if remembered is None:
            options = hashing if isinstance(self.self_attention, LSHSelfAttention) else {}
            outputs, attention_map = self.self_attention(
                normalised,
                documents,
                output_map=output_map,
                implementation=implementation,
                heads=heads,
                **options,
            )
        else:
            outputs, attention_map = remembered.layer.attend(
                self.self_attention, normalised, remembered.new, hashing, output_map, implementation
            )
        if heads is not None:
            count = self.self_attention.num_heads
            return self.output.project_some(outputs, count, heads, dropout_seed), None
        return self.output(outputs), attention_map

    def head_groups(self) -> list[slice]:
        """Groups of heads that `chunk_size_attention_heads` allows to attend at a time.

        One group where it allows all, and where a projection is not called for its weight alone:
        an adapter has replaced it, or a hook brings the weight in, changes or watches it.
        """
        step, count = self.config.chunk_size_attention_heads, self.self_attention.num_heads
        modules = [*self.self_attention.children(), self.output.dense]
        if not 0 < step < count or not all(map(_is_bare_linear, modules)):
            return [slice(0, count)]
        return [slice(head, min(head + step, count)) for head in range(0, count, step)]


def _is_bare_linear(module: nn.Module) -> bool:
    hooked = module._forward_hooks or module._forward_pre_hooks or hasattr(module, "_hf_hook")
    return type(module) is nn.Linear and not hooked and "forward" not in vars(module)


class ReformerHFLayer(nn.Module):
    """A reversible block: ``y1 = x1 + attention(x2)``, ``y2 = x2 + feed_forward(y1)``."""

    def __init__(self, config: ReformerHFConfig, layer_index: int):
        super().__init__()
        self.attention = ReformerHFAttention(config, layer_index)
        self.feed_forward = ChunkedFeedForward(
            hidden_size=config.hidden_size,
            feed_forward_size=config.feed_forward_size,
            activation=ACT2FN[config.hidden_act],
            dropout=config.hidden_dropout_prob,
            chunk_size=config.chunk_size_feed_forward,
            layer_norm_eps=config.layer_norm_eps,
        )

    def forward(
        self,
        x1: Tensor,
        x2: Tensor,
        coupling: PlainCoupling | ReversibleCoupling,
        documents: Tensor | None = None,
        hashing: dict[str, Any] | None = None,
        output_map: bool = False,
        remembered: Remembered | None = None,
    ) -> tuple[Tensor, Tensor, AttentionMap | None]:
        """Advance both streams.

        Args:
            x1: stream of shape (batch, seq, hidden) that attention adds to.
            x2: stream of the same shape that the feed-forward sub-layer adds to.
            coupling: adds a sub-layer's output to a stream, plainly or for replay.
            documents: document of each place, (batch, seq), or None.
            hashing: keyword arguments of `LSHSelfAttention.forward`.
            output_map: also return the attention map.
            remembered: the tokens before, in a pass with a cache.

        Returns:
            Both streams, and the map or None.
        """
        maps = []

        def attend(stream: Tensor, hashing: dict[str, Any], **some_heads: Any) -> Tensor:
            output, attention_map = self.attention(
                stream, documents, hashing, output_map, remembered, **some_heads
            )
            maps.append(attention_map)
            return output

        hashing = hashing or {}
        terms = [partial(attend, hashing=hashing)]
        groups = self.attention.head_groups()
        if len(groups) > 1 and not output_map and remembered is None:
            drops = self.training and self.attention.output.dropout.p
            seed = draw_seed() if drops else None
            terms = [
                partial(
                    attend,
                    hashing={**hashing, "decision": Decision()},
                    heads=heads,
                    dropout_seed=seed,
                )
                for heads in groups
            ]
        x1 = coupling.couple(x1, terms, x2)
        x2 = coupling.couple(x2, self.feed_forward, x1, self.feed_forward.piece_length(x1))
        return x1, x2, maps[0]


class ReformerHFEncoder(nn.Module):
    """The reversible layers and the layer norm over both streams."""

    _gradient_checkpointing_func: Callable[..., Any]  # transformers sets it with the flag

    def __init__(self, config: ReformerHFConfig):
        super().__init__()
        self.reversible, self.activation_budget = config.reversible, config.activation_budget
        self.gradient_checkpointing = False
        self.layers = nn.ModuleList(
            ReformerHFLayer(config, index) for index in range(config.num_hidden_layers)
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
        output_attentions: bool,
        remembered: list[Remembered] | None = None,
        return_streams: bool = False,
    ) -> BaseModelOutputWithPast:
        """Run all layers; returns what `finish` makes of the streams, or these themselves.

        `embedded` holds the embedded tokens and is emptied: nobody else is to keep them alive.
        """
        replay = self.reversible and not output_attentions and torch.is_grad_enabled()
        coupling = ReversibleCoupling(self.activation_budget) if replay else PlainCoupling()
        checkpointing = self.gradient_checkpointing and self.training and not replay
        x1 = x2 = embedded.pop()
        streams, maps = [], []
        for index, (layer, decision) in enumerate(zip(self.layers, decisions, strict=True)):
            if output_hidden_states:
                streams.append(torch.cat([x1, x2], dim=-1))
            hashing = {"hash_seed": hash_seed, "num_hashes": num_hashes, "decision": decision}
            past = None if remembered is None else remembered[index]
            arguments = (x1, x2, coupling, documents, hashing, output_attentions, past)
            run = partial(self._gradient_checkpointing_func, layer) if checkpointing else layer
            x1, x2, attention_map = run(*arguments)
            del arguments
            maps.append(attention_map)
            if past is not None and past.offload:
                past.layer.offload()
        last: Any = (x1, x2) if return_streams else self.finish(x1, x2)
        return BaseModelOutputWithPast(
            last_hidden_state=last,
            hidden_states=(*streams, last) if output_hidden_states else None,  # type: ignore[arg-type]
            attentions=tuple(maps) if output_attentions else None,  # type: ignore[arg-type]
        )

    def finish(self, x1: Tensor, x2: Tensor) -> Tensor:
        """The last hidden state: both streams side by side, normalised."""
        return self.dropout(self.layer_norm(torch.cat([x1, x2], dim=-1)))
