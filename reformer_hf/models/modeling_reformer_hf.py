"""Models with the interface of transformers: the bare Reformer and the causal language model.

No algorithm lives here. The layers are in :mod:`reformer_hf.models.layers`.
"""

from collections.abc import Callable
from functools import partial
from os import PathLike
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.cache_utils import Cache
from transformers.modeling_outputs import (
    BaseModelOutputWithPast,
    BaseModelOutputWithPastAndCrossAttentions,
    CausalLMOutputWithPast,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.utils import logging
from transformers.utils.generic import can_return_tuple

from reformer_hf.models.attention_maps import check_dense_maps, read_output_attentions
from reformer_hf.models.cache_reformer_hf import ReformerHFCacheLayer, remember
from reformer_hf.models.cached_inputs import check_cache, choose_cache, place_tokens
from reformer_hf.models.configuration_reformer_hf import ReformerHFConfig
from reformer_hf.models.encoder_decoder.cross_attention import Source
from reformer_hf.models.files.checkpoint_files import CONSTANT_BUFFERS, explain_unreadable_files
from reformer_hf.models.generation import ReformerHFGenerationMixin
from reformer_hf.models.implementations import to_implementation
from reformer_hf.models.inputs import (
    RowLayout,
    check_hashing,
    check_inputs,
    check_other_arguments,
    lay_out_rows,
)
from reformer_hf.models.labels import IGNORE_INDEX, check_token_labels, first_token_labels
from reformer_hf.models.language_model import LanguageModelMixin, ReformerHFLMHead
from reformer_hf.models.layers import (
    ReformerHFEmbeddings,
    ReformerHFEncoder,
    ReformerHFLayer,
    checkpoint_stored,
    mean_of_streams,
)
from reformer_hf.models.quantised import read_int8_directly
from reformer_hf.models.rotary import rotary_of
from reformer_hf.models.sequence_parallel import (
    SequenceParallel,
    Sharded,
    check_sequence_parallel,
    check_shard_pass,
)
from reformer_hf.models.shard_layout import lay_out_shard
from reformer_hf.nn.convolution import ShortConvolution
from reformer_hf.nn.past.base import NewTokens
from reformer_hf.nn.reversible import Decision
from reformer_hf.nn.sequence_parallel.pasts import NeighbourInputs
from reformer_hf.nn.sequence_parallel.row_group import RowGroup
from reformer_hf.nn.sparse_dense import LocallyConvolutionalDense, MultiplicativeDense
from reformer_hf.nn.sparse_feed_forward import SparseFeedForward
from reformer_hf.ops.attention_map import MapForm
from reformer_hf.ops.dropout import draw_seed

logger = logging.get_logger(__name__)


class ReformerHFPreTrainedModel(PreTrainedModel):
    """What all Reformer models share: configuration, initial weights, loading and saving."""

    config: ReformerHFConfig
    config_class = ReformerHFConfig
    base_model_prefix = "reformer"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flex_attn = True
    _no_split_modules = ["ReformerHFLayer"]  # all must be in the model, or accelerate refuses
    _skip_keys_device_placement = ["past_key_values"]
    supports_sequence_parallel = False
    sequence_parallel: SequenceParallel | None = None

    def __init__(self, config: ReformerHFConfig, *inputs: Any, **kwargs: Any):
        config.check_fields()
        super().__init__(config, *inputs, **kwargs)

    @classmethod
    def _can_set_attn_implementation(cls) -> bool:
        # transformers looks for its own interface in the source, which serves dense masks only.
        return True

    def get_correct_attn_implementation(
        self, requested_attention: str | None, is_init_check: bool = False
    ) -> str:
        """Accept our own names, and refuse what transformers knows but no Reformer; see there."""
        if requested_attention is None or "flash" not in requested_attention:  # which it explains
            to_implementation(requested_attention)
        if requested_attention in ("auto", "blockwise", "triton"):
            return requested_attention
        return super().get_correct_attn_implementation(requested_attention, is_init_check)

    def _flex_attn_can_dispatch(self, is_init_check: bool = False) -> bool:
        if self.config.attention_scope == "chunk" and {"lsh"} & set(self.config.attn_layers):
            raise ValueError(
                "attn_implementation='flex_attention' with attention_scope='chunk', whose windows "
                "wrap around: use 'blockwise' or 'eager', or the band scope"
            )
        return super()._flex_attn_can_dispatch(is_init_check)

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | PathLike | None, *inputs: Any, **kwargs: Any
    ) -> Any:
        """Load a model of this package or of transformers' Reformer; see `PreTrainedModel`.

        Raises:
            ImportError: if the weights are quantised and the library for them is missing.
            OSError: if a weights file is damaged, or holds more than tensors.
            ValueError: if the configuration's fields contradict each other, or the file holds two
                different biases of the head.
        """
        with explain_unreadable_files(pretrained_model_name_or_path):
            loaded = super().from_pretrained(pretrained_model_name_or_path, *inputs, **kwargs)
        # With output_loading_info=True the model comes first.
        read_int8_directly(loaded[0] if isinstance(loaded, tuple) else loaded)
        return loaded

    def _set_gradient_checkpointing(
        self,
        enable: bool = True,
        gradient_checkpointing_func: Callable[..., Any] = checkpoint,
        every_n_layers: int = 1,
    ) -> None:
        """Checkpoint the layers, or one of so many; see `PreTrainedModel`."""
        if every_n_layers < 1:
            raise ValueError(f"every_n_layers={every_n_layers}: give 1 for every layer, or more")
        function = partial(checkpoint_stored, gradient_checkpointing_func)
        super()._set_gradient_checkpointing(enable, function, every_n_layers)
        if enable and self.config.reversible:
            logger.warning_once(
                "Activation checkpointing is left to reversible=True, which rebuilds activations "
                "instead of storing them, beyond activation_budget bytes (0 rebuilds all). Set "
                "reversible=False for checkpoints instead."
            )

    def set_sequence_parallel(self, parallel: SequenceParallel | None) -> None:
        """Spread rows over several processes: each gives the model its part of them.

        Args:
            parallel: the processes; None for whole rows again. Nothing of it is saved.

        Raises:
            ValueError: if this model's rows cannot be spread, naming the reason.
        """
        base = self.base_model
        if not self.supports_sequence_parallel:
            raise ValueError(
                f"{type(self).__name__} in a row over several processes: only ReformerHFModel, "
                "ReformerHFForCausalLM and ReformerHFForMaskedLM can do that"
            )
        if parallel is not None:
            check_sequence_parallel(self.config)
        base.sequence_parallel = parallel  # type: ignore[assignment]

    def recorded(
        self, output_hidden_states: bool | None, output_attentions: bool | MapForm | None
    ) -> dict[str, Any]:
        """What a pass records: as asked, or else as the configuration says."""
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        if output_attentions is None:
            output_attentions = self.config.output_attentions
        return {
            "output_hidden_states": bool(output_hidden_states),
            "output_attentions": read_output_attentions(output_attentions),
        }

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, nn.ParameterList):
            # Of AxialPositionEmbeddings. Not asked of the owner: loading skips modules that have
            # no parameters of their own.
            for weight in module:
                init.normal_(weight, std=self.config.axial_norm_std)
        elif isinstance(module, ShortConvolution):
            init.copy_(module.weight, module.initial_weight())
        elif isinstance(module, SparseFeedForward):
            for weight in (module.up_weight, module.down_weight):
                init.normal_(weight, std=self.config.initializer_range)
            for bias in (module.up_bias, module.down_bias):
                init.zeros_(bias)
        elif isinstance(module, MultiplicativeDense | LocallyConvolutionalDense):
            for name, value in module.initial_values().items():
                init.copy_(getattr(module, name), value)
        elif isinstance(module, ReformerHFLMHead):
            init.zeros_(module.bias)


class ReformerHFModel(ReformerHFPreTrainedModel):
    """The bare Reformer: hidden states of shape (batch, seq, 2 * hidden_size).

    Both streams, normalised together, are the last hidden state. With
    `config.output_streams="mean"` hidden states are the mean of both, hidden_size wide.
    """

    # Models with a head take this over from the model inside them: another head is no surprise.
    _keys_to_ignore_on_load_unexpected = [
        *CONSTANT_BUFFERS,
        r"^(lm_head|classifier|qa_outputs)\.",
    ]
    supports_sequence_parallel = True
    layer_class = ReformerHFLayer
    _input_embed_layer = "word_embeddings"

    def __init__(self, config: ReformerHFConfig):
        _refuse_encoder_decoder(config)
        super().__init__(config)
        self.embeddings = ReformerHFEmbeddings(config)
        self.encoder = ReformerHFEncoder(config, self.layer_class)
        self.post_init()

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
        output_attentions: bool | MapForm | None = None,
        past_key_values: Cache | None = None,
        use_cache: bool | None = None,
        return_streams: bool | None = None,
        source: Source | None = None,
        skipped: int = 0,
        **kwargs: Any,
    ) -> BaseModelOutputWithPast | BaseModelOutputWithPastAndCrossAttentions:
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
                the last hidden state. All of them get gradients under `retain_grad()`, but means.
            output_attentions: also return an attention map per layer: with True a tensor of
                (batch, heads, query, key) that multiplies the values (with `lsh_next_values` those
                of the tokens behind the keys); with "sparse" an `AttentionMap`, for rows whose
                matrices are too large.
            past_key_values: `ReformerHFCache` of the tokens before. The input is then what comes
                after them, `attention_mask` covers all or only the new tokens, and the rotations
                are those outside training. Nothing has a gradient.
            use_cache: return a cache. By default not, so that a plain pass costs no more than it
                must; `generate` asks for it. Of rows over several processes each gets that of all
                tokens up to the end of its part.
            return_streams: for heads, which read both streams whatever `config.output_streams`
                says. False for the last hidden state; True, without a cache, for the two streams
                without the final layer norm, for `encoder.finish` to take a piece at a time.
            source: what a decoder with cross-attention attends to beside its own tokens.
            skipped: first places of each row whose states are not returned.
            **kwargs: others of transformers' `TransformersKwargs`.

        Returns:
            `BaseModelOutputWithPast`, given a `source` with cross-attentions. Its hidden states
            are `2 * hidden_size` wide: both streams side by side. For tools that size what follows
            by `config.hidden_size`, `config.output_streams="mean"` makes it their mean.

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
        options: dict[str, Any] = {
            "num_hashes": num_hashes,
            "decisions": hash_decisions,
            "source": source,
            "skipped": skipped,
            **self.recorded(output_hidden_states, output_attentions),
        }
        cache = choose_cache(self.config, past_key_values, use_cache, seq_idx)
        if self.sequence_parallel is not None:
            check_shard_pass(options["output_attentions"])
            rows = (input_ids, inputs_embeds, attention_mask, position_ids, seq_idx)
            options["return_streams"] = bool(return_streams)
            with torch.set_grad_enabled(torch.is_grad_enabled() and cache is None):
                outputs = self._forward_shard(self.sequence_parallel.group, cache, *rows, options)
            return self._narrow(outputs, return_streams is not None)
        if options["output_attentions"] == "dense":
            self._check_dense_maps(inputs_embeds, cache, source)
        if cache is not None:
            rows = (input_ids, inputs_embeds, attention_mask, position_ids)
            outputs = self._forward_with_cache(cache, *rows, options)
            return self._narrow(outputs, return_streams is not None)
        layout: RowLayout = lay_out_rows(
            self.config, inputs_embeds, attention_mask, position_ids, seq_idx
        )
        ngrams = self.embeddings.ngram_embeddings
        if ngrams is not None:
            ngrams = ngrams(input_ids, layout.documents)
        embedded = [self.embeddings(inputs_embeds, layout.position_ids, ngrams)]
        del inputs_embeds  # as large as a stream
        options["return_streams"] = bool(return_streams)
        options["rotary"] = rotary_of(self.config, layout.position_ids, embedded[0].dtype)
        outputs = self.encoder(embedded, layout.documents, self._draw_hash_seed(), **options)
        return self._narrow(outputs, return_streams is not None)

    @torch.no_grad()
    def _forward_with_cache(
        self,
        cache: Cache,
        input_ids: Tensor | None,
        inputs_embeds: Tensor,
        attention_mask: Tensor | None,
        position_ids: Tensor | None,
        options: dict[str, Any],
    ) -> BaseModelOutputWithPast | BaseModelOutputWithPastAndCrossAttentions:
        """Encode what comes after the cached tokens, and remember it too."""
        maps = options["output_attentions"] is not None
        check_cache(cache, inputs_embeds.shape[0], options["num_hashes"], maps)
        new, position_ids = place_tokens(
            self.config, cache, inputs_embeds, attention_mask, position_ids
        )
        layers: list[Any] = cache.layers
        layers[0].in_pass = True
        ngrams = self.embeddings.ngram_embeddings
        if ngrams is not None:
            layers[0].prefetch()
            assert input_ids is not None  # since vectors are refused
            recent, recording = layers[0].tokens, layers[0].record_past
            ngrams = ngrams(input_ids, recent=recent, new=new, recording=recording)
        embedded = [self.embeddings(inputs_embeds, position_ids, ngrams)]
        seed = self.config.hash_seed or 0
        options["rotary"] = rotary_of(self.config, position_ids, embedded[0].dtype)
        options["remembered"] = remember(cache, new)
        outputs = self.encoder(embedded, None, seed, **options)
        layers[0].in_pass = False
        outputs.past_key_values = cache
        return outputs

    def _forward_shard(
        self,
        group: RowGroup,
        cache: Cache | None,
        input_ids: Tensor | None,
        inputs_embeds: Tensor,
        attention_mask: Tensor | None,
        position_ids: Tensor | None,
        seq_idx: Tensor | None,
        options: dict[str, Any],
    ) -> BaseModelOutputWithPast | BaseModelOutputWithPastAndCrossAttentions:
        """Encode this process's part of rows that several processes hold together.

        A cache remembers what tokens behind this part see of all tokens up to its end.
        """
        given = (inputs_embeds, attention_mask, position_ids, seq_idx)
        held = None if cache is None else cache.get_seq_length()
        shard, position_ids = lay_out_shard(self.config, group, *given, cached=held)
        new = NewTokens(position_ids, padded=False)
        if cache is None:
            seed = self._draw_hash_seed(inputs_embeds.device)  # weights may lie elsewhere
            recent, remembered = None, [Sharded(shard, new)] * len(self.encoder.layers)
        else:
            check_cache(cache, inputs_embeds.shape[0], options["num_hashes"], maps=False)
            seed, first = self.config.hash_seed or 0, cache.layers[0]
            assert isinstance(first, ReformerHFCacheLayer)
            first.in_pass, recent = True, first.tokens
            remembered = [Sharded(shard, new, each) for each in remember(cache, new)]
        ngrams = self.embeddings.ngram_embeddings
        if ngrams is not None:
            assert input_ids is not None  # since vectors are refused
            ngrams = ngrams(input_ids, recent=NeighbourInputs(shard, kept=recent), new=new)
        embedded = [self.embeddings(inputs_embeds, position_ids, ngrams)]
        options["rotary"] = rotary_of(self.config, position_ids, embedded[0].dtype)
        outputs = self.encoder(embedded, None, seed, remembered=remembered, **options)
        if cache is not None:
            cache.layers[0].in_pass = False  # type: ignore[attr-defined]
            outputs.past_key_values = cache
        return outputs

    def _narrow(self, outputs: Any, for_head: bool) -> Any:
        """Replace states by the mean of both streams, if the configuration says so."""
        states = outputs.hidden_states
        if self.config.output_streams == "both" or (for_head and states is None):
            return outputs
        means = tuple(map(mean_of_streams, states or [outputs.last_hidden_state]))
        if states is not None:
            outputs.hidden_states = means
        if not for_head:
            outputs.last_hidden_state = means[-1]
        return outputs

    def _check_dense_maps(
        self, inputs_embeds: Tensor, cache: Cache | None, source: Source | None
    ) -> None:
        """Check that the maps of all layers, of cross-attention too, are not too large."""
        cached = 0 if cache is None else cache.get_seq_length()
        keys = [cached + inputs_embeds.shape[1]]
        if source is not None:
            keys.append(source.states.shape[1])
        keys *= self.config.num_hidden_layers
        check_dense_maps(inputs_embeds, self.config.num_attention_heads, cached, keys)

    def _refuse_export(self) -> None:
        # The draw of the rotations would become a part of the graph, without its seed.
        if torch.compiler.is_exporting() and "lsh" in self.config.attn_layers:
            raise ValueError(
                "torch.export of LSH layers is not supported yet: it would draw other rotations "
                "at every call"
            )

    def _draw_hash_seed(self, device: torch.device | None = None) -> int:
        """The seed of this pass's rotations: fixed outside training, else drawn."""
        if self.training and self.config.redraw_rotations and "lsh" in self.config.attn_layers:
            drawn = draw_seed()  # from the default generator: `set_seed` reproduces a run
            if drawn is not None and self.sequence_parallel is not None:
                drawn = self.sequence_parallel.share(drawn, device or self.device)
            if drawn is not None:
                return drawn
        return self.config.hash_seed or 0


class ReformerHFForCausalLM(
    LanguageModelMixin, ReformerHFPreTrainedModel, ReformerHFGenerationMixin
):
    """A Reformer that predicts the next token."""

    supports_sequence_parallel = True

    def __init__(self, config: ReformerHFConfig):
        _refuse_encoder_decoder(config)
        if config.is_decoder is False:
            raise ValueError(
                "is_decoder=False: ReformerHFForCausalLM is causal; set is_decoder to True or "
                "leave it out"
            )
        config = config.decided(is_decoder=True)
        super().__init__(config)
        self.reformer = ReformerHFModel(config)
        self.lm_head = ReformerHFLMHead(config)
        self.post_init()

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
    ) -> CausalLMOutputWithPast:
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
            **kwargs: others of `ReformerHFModel.forward`; and `shift_labels`, (batch, seq), the
                target of each place itself, which takes the place of `labels`.

        Returns:
            `CausalLMOutputWithPast`. With labels the loss is made of `logits`, which get its
            gradient; but with `logits_to_keep` they are a copy, and with `chunk_size_lm_head`
            above 0 they are None in training.

        Raises:
            ValueError: if inputs are empty, of the wrong shape, out of range or too long.
            TypeError: if an argument is unknown.
        """
        # Not a parameter: Trainer evaluates only if all parameters named "label" are given.
        shift_labels = kwargs.pop("shift_labels", None)
        inputs = inputs_embeds if input_ids is None else input_ids
        targets = labels if shift_labels is None else shift_labels
        if targets is not None and inputs is not None:
            check_token_labels(targets, inputs.shape[:2], self.config, "vocab_size")
        chunked = targets is not None and self.config.chunk_size_lm_head > 0
        recorded = self._records_hidden_states(kwargs)
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
        parallel = self.reformer.sequence_parallel
        if shift_labels is None and labels is not None:
            counted = num_items_in_batch is not None
            mask = None if attention_mask is None else attention_mask[:, -labels.shape[1] :]
            where = (mask, position_ids, seq_idx, counted)
            if parallel is not None:
                shift_labels = parallel.shift_labels(labels, *where)
            else:
                labels = first_token_labels(labels, *where)
                shift_labels = nn.functional.pad(labels, (0, 1), value=IGNORE_INDEX)[:, 1:]
        targets = None if shift_labels is None else shift_labels.long().contiguous()
        # Without a gradient behind a cache, or that of the head alone would look like the model's.
        with torch.set_grad_enabled(torch.is_grad_enabled() and outputs.past_key_values is None):
            loss, logits = self._predict(
                outputs.last_hidden_state, labels, targets, num_items_in_batch, logits_to_keep
            )
        return CausalLMOutputWithPast(
            loss=loss,  # type: ignore[arg-type]
            logits=logits,  # type: ignore[arg-type]
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )


# Trainer asks here by name whether labels are to be shifted, as its label smoothing must do.
MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[ReformerHFConfig.model_type] = ReformerHFForCausalLM.__name__


def _refuse_encoder_decoder(config: ReformerHFConfig) -> None:
    if config.is_encoder_decoder:
        raise ValueError(
            "is_encoder_decoder=True: only ReformerHFForConditionalGeneration "
            "(AutoModelForSeq2SeqLM) and ReformerHFEncoderDecoderModel (AutoModel) have an encoder "
            "and a decoder; use one of them, or set is_encoder_decoder to False"
        )
