"""The Reformer as transformers knows it: embeddings, reversible encoder, language-model head.

No algorithm lives here. Attention is in :mod:`reformer_hf.nn.attention`, the reversible replay in
:mod:`reformer_hf.nn.reversible`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from os import PathLike
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.cache_utils import Cache
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from transformers.modeling_utils import slice_logits_to_keep
from transformers.utils.generic import can_return_tuple
from transformers.utils.import_utils import is_fake_tensor

from reformer_hf.models.cache_reformer_hf import Remembered
from reformer_hf.models.cached_inputs import check_cache, choose_cache, place_tokens
from reformer_hf.models.checkpoint_files import CONSTANT_BUFFERS, explain_unreadable_files
from reformer_hf.models.configuration_reformer_hf import ReformerHFConfig
from reformer_hf.models.generation import ReformerHFGenerationMixin
from reformer_hf.models.inputs import (
    RowLayout,
    check_hashing,
    check_inputs,
    check_labels,
    check_other_arguments,
    first_token_labels,
    lay_out_rows,
)
from reformer_hf.nn.attention import LocalSelfAttention, LSHSelfAttention
from reformer_hf.nn.embeddings import AxialPositionEmbeddings, LearnedPositionEmbeddings
from reformer_hf.nn.feed_forward import ChunkedFeedForward, OutputProjection
from reformer_hf.nn.full_attention import FullSelfAttention
from reformer_hf.nn.layer_norm import StreamLayerNorm, cast_for_products
from reformer_hf.nn.reversible import Decision, PlainCoupling, ReversibleCoupling
from reformer_hf.nn.window_attention import WindowSelfAttention
from reformer_hf.ops.attention import AttentionMap
from reformer_hf.ops.dropout import draw_seed
from reformer_hf.ops.losses import chunked_cross_entropy

IGNORE_INDEX = -100


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
        self.reversible = config.reversible
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
        coupling = ReversibleCoupling() if replay else PlainCoupling()
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


class ReformerHFPreTrainedModel(PreTrainedModel):
    """What all Reformer models share: configuration, initial weights, loading and saving."""

    config: ReformerHFConfig
    config_class = ReformerHFConfig
    base_model_prefix = "reformer"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flex_attn = True
    _no_split_modules = ["ReformerHFLayer"]
    _skip_keys_device_placement = ["past_key_values"]

    def __init__(self, config: ReformerHFConfig, *inputs: Any, **kwargs: Any):
        config.check_fields()
        super().__init__(config, *inputs, **kwargs)

    @classmethod
    def _can_set_attn_implementation(cls) -> bool:
        # transformers looks for its own interface in the source, which serves dense masks only.
        return True

    def _flex_attn_can_dispatch(self, is_init_check: bool = False) -> bool:
        if self.config.attention_scope == "chunk" and {"lsh"} & set(self.config.attn_layers):
            raise ValueError(
                "attn_implementation='flex_attention' with attention_scope='chunk', whose windows "
                "wrap around: use 'sdpa' or 'eager', or the band scope"
            )
        return super()._flex_attn_can_dispatch(is_init_check)

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | PathLike | None, *inputs: Any, **kwargs: Any
    ) -> Any:
        """Load a model of this package or of transformers' Reformer; see `PreTrainedModel`.

        Raises:
            OSError: if a weights file is damaged, or holds more than tensors.
            ValueError: if the configuration's fields contradict each other, or the file holds two
                different biases of the head.
        """
        with explain_unreadable_files(pretrained_model_name_or_path):
            return super().from_pretrained(pretrained_model_name_or_path, *inputs, **kwargs)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, nn.ParameterList):
            # Of AxialPositionEmbeddings. Not asked of the owner: loading skips modules that have
            # no parameters of their own.
            for weight in module:
                init.normal_(weight, std=self.config.axial_norm_std)
        elif isinstance(module, ReformerHFLMHead):
            init.zeros_(module.bias)


class ReformerHFModel(ReformerHFPreTrainedModel):
    """The bare Reformer: hidden states of shape (batch, seq, 2 * hidden_size).

    Both streams, normalised together, are the last hidden state.
    """

    # Models with a head take this over from the model inside them.
    _keys_to_ignore_on_load_unexpected = [*CONSTANT_BUFFERS, r"^lm_head\."]

    def __init__(self, config: ReformerHFConfig):
        super().__init__(config)
        self.embeddings = ReformerHFEmbeddings(config)
        self.encoder = ReformerHFEncoder(config)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """The word embeddings."""
        return self.embeddings.word_embeddings

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        """Replace the word embeddings."""
        self.embeddings.word_embeddings = value

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        seq_idx: Tensor | None = None,
        num_hashes: int | None = None,
        hash_decisions: list[Decision] | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        past_key_values: Cache | None = None,
        use_cache: bool | None = None,
        return_streams: bool = False,
        **kwargs: Any,
    ) -> BaseModelOutputWithPast:
        """Encode a batch of rows of any length up to the position limit.

        Args:
            input_ids: token ids, (batch, seq); or give `inputs_embeds`.
            attention_mask: 1 at real tokens, 0 at padding, (batch, seq). Padding may be on either
                side; it never changes the real tokens' outputs.
            position_ids: positions, (batch, seq); by default each token's place in its document.
                If they restart while `attention_mask` is None, the row is a packed one.
            inputs_embeds: embedded tokens, (batch, seq, hidden_size).
            seq_idx: document of each token of a packed row, (batch, seq). `band` scope only.
            num_hashes: rounds, if other than the configuration's.
            hash_decisions: one `Decision` per layer; keeps this pass's bucket ids, or brings those
                of an earlier pass.
            output_hidden_states: also return both streams before each layer, side by side, and
                the last hidden state.
            output_attentions: also return an `AttentionMap` per layer.
            past_key_values: `ReformerHFCache` of the tokens before. The input is then what comes
                after them, `attention_mask` covers all or only the new tokens, and the rotations
                are those outside training. Nothing has a gradient.
            use_cache: return a cache. By default not, so that a plain pass costs no more than it
                must; `generate` asks for it.
            return_streams: without a cache, leave the final layer norm out: `last_hidden_state` is
                the two streams, for `encoder.finish` to take a piece at a time.
            **kwargs: others of transformers' `TransformersKwargs`.

        Returns:
            `BaseModelOutputWithPast`.

        Raises:
            ValueError: if inputs are empty, of the wrong shape, out of range or too long.
            TypeError: if an argument is unknown.
        """
        self._refuse_export()
        packed = seq_idx is not None or position_ids is not None
        check_other_arguments(self.config, kwargs, packed)
        check_inputs(self.config, input_ids, inputs_embeds, attention_mask)
        check_hashing(self.config, num_hashes, hash_decisions)
        if inputs_embeds is None:
            inputs_embeds = self.embeddings.word_embeddings(input_ids)
        assert inputs_embeds is not None
        if hash_decisions is None:
            hash_decisions = [Decision() for _ in self.encoder.layers]
        recorded = (
            _default(output_hidden_states, self.config.output_hidden_states),
            _default(output_attentions, self.config.output_attentions),
        )
        cache = choose_cache(self.config, past_key_values, use_cache, seq_idx)
        if cache is not None:
            rows = (attention_mask, position_ids)
            return self._forward_with_cache(
                cache, inputs_embeds, *rows, num_hashes, hash_decisions, *recorded
            )
        layout: RowLayout = lay_out_rows(
            self.config, inputs_embeds, attention_mask, position_ids, seq_idx
        )
        embedded = [self.embeddings(inputs_embeds, layout.position_ids)]
        del inputs_embeds  # as large as a stream
        return self.encoder(
            embedded,
            layout.documents,
            self._draw_hash_seed(),
            num_hashes,
            hash_decisions,
            *recorded,
            return_streams=return_streams,
        )

    @torch.no_grad()
    def _forward_with_cache(
        self,
        cache: Cache,
        inputs_embeds: Tensor,
        attention_mask: Tensor | None,
        position_ids: Tensor | None,
        num_hashes: int | None,
        hash_decisions: list[Decision],
        output_hidden_states: bool,
        output_attentions: bool,
    ) -> BaseModelOutputWithPast:
        """Encode what comes after the cached tokens, and remember it too."""
        check_cache(cache, inputs_embeds.shape[0], num_hashes)
        new, position_ids = place_tokens(
            self.config, cache, inputs_embeds, attention_mask, position_ids
        )
        layers: list[Any] = cache.layers
        offload = getattr(cache, "offload_between_layers", cache.offloading)
        layers[0].in_pass = True
        outputs = self.encoder(
            [self.embeddings(inputs_embeds, position_ids)],
            None,
            self.config.hash_seed or 0,
            num_hashes,
            hash_decisions,
            output_hidden_states,
            output_attentions,
            [Remembered(layer, new, offload) for layer in layers],
        )
        layers[0].in_pass = False
        outputs.past_key_values = cache
        return outputs

    def _refuse_export(self) -> None:
        # The draw of the rotations would become a part of the graph, without its seed.
        if torch.compiler.is_exporting() and "lsh" in self.config.attn_layers:
            raise ValueError(
                "torch.export of LSH layers is not supported yet: it would draw other rotations "
                "at every call"
            )

    def _draw_hash_seed(self) -> int:
        """The seed of this pass's rotations: fixed outside training, else drawn."""
        if self.training and self.config.redraw_rotations and "lsh" in self.config.attn_layers:
            # From the CPU's default generator, so that `set_seed` reproduces a run.
            drawn = torch.randint(2**63 - 1, (), device="cpu")
            if not is_fake_tensor(drawn):  # a fake pass has no numbers to draw
                return int(drawn)
        return self.config.hash_seed or 0


class ReformerHFLMHead(nn.Module):
    """Projection of the last hidden state to the vocabulary."""

    def __init__(self, config: ReformerHFConfig):
        super().__init__()
        self.decoder = nn.Linear(2 * config.hidden_size, config.vocab_size, bias=False)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Logits of hidden states."""
        return self.decoder(hidden_states) + self.bias


@dataclass
class ReformerHFCausalLMOutput(CausalLMOutputWithPast):
    """Loss, logits (None where a chunked loss left them out), the cache, hidden states and maps."""


class ReformerHFForCausalLM(ReformerHFPreTrainedModel, ReformerHFGenerationMixin):
    """A Reformer that predicts the next token."""

    def __init__(self, config: ReformerHFConfig):
        if config.is_decoder is False:
            raise ValueError(
                "is_decoder=False: ReformerHFForCausalLM is causal; set is_decoder to True or "
                "leave it out"
            )
        config.is_decoder = True
        super().__init__(config)
        self.reformer = ReformerHFModel(config)
        self.lm_head = ReformerHFLMHead(config)
        self.post_init()

    def get_output_embeddings(self) -> nn.Module:
        """The output projection."""
        return self.lm_head.decoder

    def set_output_embeddings(self, new_embeddings: nn.Linear) -> None:
        """Replace the output projection."""
        self.lm_head.decoder = new_embeddings

    def resize_token_embeddings(self, *args: Any, **kwargs: Any) -> nn.Embedding:
        """Resize embeddings, output projection and its bias; see `PreTrainedModel`."""
        embeddings = super().resize_token_embeddings(*args, **kwargs)
        missing = self.lm_head.decoder.weight.shape[0] - self.lm_head.bias.shape[0]
        if missing:
            bias = nn.functional.pad(self.lm_head.bias.detach(), (0, missing))
            self.lm_head.bias = nn.Parameter(bias, requires_grad=self.lm_head.bias.requires_grad)
        return embeddings

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        logits_to_keep: int | Tensor = 0,
        num_items_in_batch: Tensor | int | None = None,
        seq_idx: Tensor | None = None,
        num_hashes: int | None = None,
        past_key_values: Cache | None = None,
        use_cache: bool | None = None,
        **kwargs: Any,
    ) -> ReformerHFCausalLMOutput:
        """Predict the next token at each place.

        Args:
            input_ids: token ids, (batch, seq); or give `inputs_embeds`.
            attention_mask: 1 at real tokens, 0 at padding, (batch, seq).
            position_ids: positions, (batch, seq).
            inputs_embeds: embedded tokens, (batch, seq, hidden_size).
            labels: token ids, (batch, seq), -100 without a loss; shifted inside. The first token
                of each document has no loss, since nothing predicts it. Trainer counts the first
                real token of a left-padded row; set its label to -100, or pad on the right.
            logits_to_keep: how many last places' logits to return, or which; 0 for all.
            num_items_in_batch: what the summed loss is divided by; None for the mean.
            seq_idx: document of each token of a packed row, (batch, seq).
            num_hashes: rounds, if other than the configuration's; `generate` takes it too.
            past_key_values: cache of the tokens before; see `ReformerHFModel.forward`.
            use_cache: return a cache; see there.
            **kwargs: others of `ReformerHFModel.forward`.

        Returns:
            `ReformerHFCausalLMOutput`. With `chunk_size_lm_head` above 0 and labels, `logits` is
            None in training.

        Raises:
            ValueError: if inputs are empty, of the wrong shape, out of range or too long.
            TypeError: if an argument is unknown.
        """
        inputs = inputs_embeds if input_ids is None else input_ids
        if labels is not None and inputs is not None:
            check_labels(self.config, labels, inputs.shape[:2])
        chunked = labels is not None and self.config.chunk_size_lm_head > 0
        recorded = _default(kwargs.get("output_hidden_states"), self.config.output_hidden_states)
        cached = use_cache or past_key_values is not None
        return_streams = chunked and self.training and not (recorded or cached)
        outputs = self.reformer(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            inputs_embeds=inputs_embeds,
            seq_idx=seq_idx,
            num_hashes=num_hashes,
            past_key_values=past_key_values,
            use_cache=use_cache,
            return_dict=True,
            return_streams=return_streams,
            **kwargs,
        )
        hidden_states = outputs.last_hidden_state
        logits, loss = None, None
        # Without a gradient behind a cache, or that of the head alone would look like the model's.
        with torch.set_grad_enabled(torch.is_grad_enabled() and outputs.past_key_values is None):
            if not (chunked and self.training):
                keep = 0 if labels is not None and not chunked else logits_to_keep
                logits = self.lm_head(slice_logits_to_keep(hidden_states, keep))
            if labels is not None:
                counted = num_items_in_batch is not None
                mask = None if attention_mask is None else attention_mask[:, -labels.shape[1] :]
                labels = first_token_labels(labels, mask, position_ids, seq_idx, counted)
                loss = self._loss(hidden_states, logits, labels, num_items_in_batch, chunked)
                if logits is not None and not chunked:
                    logits = slice_logits_to_keep(logits, logits_to_keep)
        return ReformerHFCausalLMOutput(
            loss=loss,  # type: ignore[arg-type]
            logits=logits,  # type: ignore[arg-type]
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )

    def _loss(
        self,
        hidden_states: Tensor | tuple[Tensor, Tensor],
        logits: Tensor | None,
        labels: Tensor,
        num_items: Tensor | int | None,
        chunked: bool,
    ) -> Tensor:
        """Next-token loss, from the logits or in chunks from the hidden states."""
        if not chunked:
            return self.loss_function(
                logits, labels, vocab_size=self.config.vocab_size, num_items_in_batch=num_items
            )
        shifted = nn.functional.pad(labels, (0, 1), value=IGNORE_INDEX)[:, 1:]
        project, device = self.lm_head, hidden_states[0].device
        if isinstance(hidden_states, tuple):

            def project(x1: Tensor, x2: Tensor) -> Tensor:
                return self.lm_head(self.reformer.encoder.finish(x1, x2))

        if isinstance(num_items, Tensor):
            num_items = num_items.to(device)
        chunk_size = self.config.chunk_size_lm_head
        return chunked_cross_entropy(
            hidden_states, shifted.to(device), project, chunk_size, num_items
        )


def _default(value: bool | None, default: bool | None) -> bool:
    return bool(default if value is None else value)
