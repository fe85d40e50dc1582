"""The bare encoder-decoder: hidden states of the target, before any head."""

from typing import Any

from torch import Tensor, nn
from transformers.cache_utils import Cache
from transformers.modeling_outputs import BaseModelOutput, Seq2SeqModelOutput
from transformers.utils.generic import can_return_tuple
from transformers.utils.import_utils import is_tracing

from reformer_hf.models.configuration_reformer_hf import ReformerHFConfig
from reformer_hf.models.encoder_decoder.cross_attention import Source
from reformer_hf.models.encoder_decoder.decoder_layers import ReformerHFDecoderLayer
from reformer_hf.models.encoder_decoder.packed_decoder import pack_rows, split_map
from reformer_hf.models.encoder_decoder.seq2seq_generation import choose_seq2seq_cache
from reformer_hf.models.encoder_decoder.target_inputs import (
    check_source,
    check_target,
    mask_padding,
    repeat_source,
)
from reformer_hf.models.modeling_reformer_hf import ReformerHFModel, ReformerHFPreTrainedModel
from reformer_hf.nn.layer_norm import cast_for_products
from reformer_hf.ops.attention_map import MapForm


class ReformerHFDecoder(ReformerHFModel):
    """A causal Reformer whose layers also attend to a source."""

    layer_class = ReformerHFDecoderLayer
    _no_split_modules = ["ReformerHFDecoderLayer"]


class ReformerHFEncoderDecoderModel(ReformerHFPreTrainedModel):
    """A Reformer that reads a source, and one that reads a target and the source.

    Both sides are reversible (`config.reversible=False` computes the same with every activation
    stored). The encoder looks both ways. With `config.decoder_form="cross_attention"` each decoder
    layer has a sub-layer that attends to the encoder output; with `"packed"` the encoder output
    stands before the target in one causal row.
    """

    # Of the language model around this one.
    _keys_to_ignore_on_load_unexpected = [r"^lm_head\."]

    def __init__(self, config: ReformerHFConfig):
        if not config.is_encoder_decoder:
            raise ValueError(
                f"is_encoder_decoder=False: {type(self).__name__} has an encoder and a decoder; "
                "set it to True and give encoder_attn_layers and decoder_attn_layers"
            )
        super().__init__(config)
        self.packed = config.decoder_form == "packed"
        self.encoder = ReformerHFModel(config.side("encoder"))
        decoder_class = ReformerHFModel if self.packed else ReformerHFDecoder
        self.decoder = decoder_class(config.side("decoder"))
        if config.share_encoder_decoder_embeddings:
            self.decoder.embeddings.word_embeddings = None  # type: ignore[assignment]
        if self.packed:
            width = config.hidden_size
            self.enc_to_dec_proj = nn.Linear(2 * width, width, bias=False)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """The encoder's word embeddings, by default the decoder's, too."""
        return self.encoder.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        """Replace the encoder's word embeddings, by default the decoder's, too."""
        self.encoder.set_input_embeddings(value)

    def resize_token_embeddings(self, *args: Any, **kwargs: Any) -> nn.Embedding:
        """Resize the word embeddings of both sides; see `PreTrainedModel`."""
        if self.decoder.get_input_embeddings() is not None:
            self.decoder.resize_token_embeddings(*args, **kwargs)
        embeddings = super().resize_token_embeddings(*args, **kwargs)
        for side in (self.encoder, self.decoder):
            side.config.vocab_size = self.config.vocab_size
        return embeddings

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        decoder_input_ids: Tensor | None = None,
        decoder_attention_mask: Tensor | None = None,
        encoder_outputs: Any = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        decoder_inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        num_hashes: int | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | MapForm | None = None,
        return_streams: bool = False,
        **kwargs: Any,
    ) -> Seq2SeqModelOutput:
        """Read a source and a target.

        Args:
            input_ids: token ids of the source, (batch, source); or give `inputs_embeds`.
            attention_mask: 1 at real tokens of the source, 0 at padding on either side.
            decoder_input_ids: token ids that the decoder reads, (batch, target). By default, as in
                transformers' `BartModel`, the source shifted right.
            decoder_attention_mask: 1 at real tokens of the target, (batch, target). By default
                pad tokens before `decoder_start_token_id` are padding.
            encoder_outputs: what `get_encoder()` returned for this source, in place of `input_ids`.
            past_key_values: cache of the target tokens before; nothing has a gradient then.
            inputs_embeds: embedded source, (batch, source, hidden_size).
            decoder_inputs_embeds: embedded target, (batch, target, hidden_size).
            use_cache: return a cache. By default not.
            num_hashes: rounds of both sides, if other than the configuration's.
            output_hidden_states: also return both streams before each layer, side by side.
            output_attentions: also return the maps of self-attention, and the probabilities of
                cross-attention, always dense, (batch, heads, target, source).
            return_streams: see `ReformerHFModel.forward`.
            **kwargs: others of transformers' `TransformersKwargs`.

        Returns:
            `Seq2SeqModelOutput`. A packed decoder's maps are parted: that of the target to itself,
            and as cross-attention that to the source; both together sum to 1. They are cut from
            those of the packed rows: `retain_grad()` gives them no gradient.

        Raises:
            ValueError: if inputs are missing, of the wrong shape, out of range or too long.
            TypeError: if an argument is unknown.
        """
        if decoder_input_ids is None and decoder_inputs_embeds is None and input_ids is not None:
            decoder_input_ids = repeat_source(self.config, input_ids, attention_mask)
            decoder_attention_mask = attention_mask
        check_target(self.config, decoder_input_ids, decoder_inputs_embeds, None)
        recorded = self.recorded(output_hidden_states, output_attentions)
        options = {**kwargs, **recorded, "num_hashes": num_hashes, "return_dict": True}
        if encoder_outputs is None:
            encoder_outputs = self.encoder(
                input_ids=input_ids,
                attention_mask=attention_mask,
                inputs_embeds=inputs_embeds,
                **options,
            )
        elif isinstance(encoder_outputs, tuple | list):
            encoder_outputs = BaseModelOutput(*encoder_outputs)
        states: Any = encoder_outputs[0] if len(encoder_outputs) else None
        cache = choose_seq2seq_cache(self.config, past_key_values, use_cache)
        if decoder_inputs_embeds is None:
            assert decoder_input_ids is not None
            if decoder_attention_mask is None and (cache is None or not cache.get_seq_length()):
                decoder_attention_mask = mask_padding(self.config, decoder_input_ids)
            words = self.decoder.get_input_embeddings() or self.encoder.get_input_embeddings()
            decoder_inputs_embeds = words(decoder_input_ids)
        assert decoder_inputs_embeds is not None
        rows = len(decoder_inputs_embeds)
        check_source(states, attention_mask, rows, 2 * self.config.hidden_size)
        target = (decoder_inputs_embeds, decoder_attention_mask)
        options["return_streams"] = return_streams
        outputs = self._decode(states, attention_mask, *target, cache, options)
        return Seq2SeqModelOutput(
            last_hidden_state=outputs.last_hidden_state,
            past_key_values=cache,  # type: ignore[arg-type]
            decoder_hidden_states=outputs.hidden_states,
            decoder_attentions=outputs.attentions,
            cross_attentions=getattr(outputs, "cross_attentions", None),
            encoder_last_hidden_state=states,
            encoder_hidden_states=getattr(encoder_outputs, "hidden_states", None),
            encoder_attentions=getattr(encoder_outputs, "attentions", None),
        )

    def _decode(
        self,
        states: Tensor,
        source_mask: Tensor | None,
        embedded: Tensor,
        target_mask: Tensor | None,
        cache: Any,
        options: dict[str, Any],
    ) -> Any:
        """Run the decoder; of a packed one, what is recorded is that of the target alone."""
        if not self.packed:
            visible = None if source_mask is None else source_mask.bool()
            if visible is not None and not is_tracing(visible) and visible.all():
                visible = None
            kept: Any = None if cache is None else cache.cross_attention_cache
            outputs = self.decoder(
                inputs_embeds=embedded,
                attention_mask=target_mask,
                past_key_values=None if cache is None else cache.self_attention_cache,
                source=Source(cast_for_products(states), visible, kept),
                **options,
            )
            if cache is not None:
                cache.is_updated = dict.fromkeys(range(len(kept)), True)
            return outputs
        first = cache is None or not cache.source_length
        source = self.enc_to_dec_proj(states) if first else None
        rows = pack_rows(source, embedded, source_mask, target_mask, cache)
        options["skipped"] = rows.inputs_embeds.shape[1] - embedded.shape[1]
        outputs = self.decoder(past_key_values=cache, **rows._asdict(), **options)
        if outputs.attentions is not None:
            length = states.shape[1]
            parts = [split_map(found, length, embedded.shape[1]) for found in outputs.attentions]
            outputs.attentions, outputs.cross_attentions = zip(*parts, strict=True)
        return outputs
