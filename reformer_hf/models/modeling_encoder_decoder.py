"""The encoder-decoder with the interface of transformers, in two forms of decoder.

No algorithm lives here. The blocks are in :mod:`reformer_hf.models.layers` and
:mod:`reformer_hf.models.encoder_decoder.decoder_layers`, the rows of the packed form in
:mod:`reformer_hf.models.encoder_decoder.packed_decoder`.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache
from transformers.modeling_outputs import Seq2SeqLMOutput
from transformers.utils.generic import can_return_tuple
from transformers.utils.import_utils import is_tracing

from reformer_hf.models.configuration_reformer_hf import ReformerHFConfig
from reformer_hf.models.encoder_decoder.cross_attention import Source
from reformer_hf.models.encoder_decoder.decoder_layers import ReformerHFDecoderLayer
from reformer_hf.models.encoder_decoder.packed_decoder import pack_rows
from reformer_hf.models.encoder_decoder.seq2seq_generation import (
    ReformerHFSeq2SeqGenerationMixin,
    choose_seq2seq_cache,
)
from reformer_hf.models.encoder_decoder.target_inputs import (
    check_source,
    check_target,
    mask_padding,
    shift_right,
)
from reformer_hf.models.language_model import LanguageModelMixin, ReformerHFLMHead
from reformer_hf.models.modeling_reformer_hf import ReformerHFModel, ReformerHFPreTrainedModel
from reformer_hf.nn.layer_norm import cast_for_products
from reformer_hf.ops.attention_map import MapForm

WORDS = "embeddings.word_embeddings.weight"


class ReformerHFDecoder(ReformerHFModel):
    """A causal Reformer whose layers also attend to a source."""

    layer_class = ReformerHFDecoderLayer
    _no_split_modules = ["ReformerHFDecoderLayer"]


@dataclass
class ReformerHFSeq2SeqLMOutput(Seq2SeqLMOutput):
    """Loss, logits (None where a chunked loss left them out), cache, and what both sides record.

    Of a packed decoder, hidden states and maps are those of the packed rows.
    """


class ReformerHFForConditionalGeneration(
    LanguageModelMixin, ReformerHFPreTrainedModel, ReformerHFSeq2SeqGenerationMixin
):
    """A Reformer that reads a source and writes a target.

    Both sides are reversible (`config.reversible=False` computes the same with every activation
    stored). The encoder looks both ways. With `config.decoder_form="cross_attention"` each decoder
    layer has a sub-layer that attends to the encoder output; with `"packed"` the encoder output
    stands before the target in one causal row.
    """

    def __init__(self, config: ReformerHFConfig):
        if not config.is_encoder_decoder:
            raise ValueError(
                "is_encoder_decoder=False: ReformerHFForConditionalGeneration has an encoder and a "
                "decoder; set it to True and give encoder_attn_layers and decoder_attn_layers"
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
        self.lm_head = ReformerHFLMHead(config)
        owner = "encoder" if config.share_encoder_decoder_embeddings else "decoder"
        self._tied_weights_keys = {"lm_head.decoder.weight": f"{owner}.{WORDS}"}
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """The encoder's word embeddings, by default the decoder's, too."""
        return self.encoder.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        """Replace the encoder's word embeddings, by default the decoder's, too."""
        self.encoder.set_input_embeddings(value)

    def prepare_decoder_input_ids_from_labels(self, labels: Tensor) -> Tensor:
        """What the decoder reads to predict these labels; `DataCollatorForSeq2Seq` calls it."""
        return shift_right(self.config, labels)

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
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        num_items_in_batch: Tensor | int | None = None,
        num_hashes: int | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | MapForm | None = None,
        **kwargs: Any,
    ) -> ReformerHFSeq2SeqLMOutput:
        """Predict the target from the source.

        Args:
            input_ids: token ids of the source, (batch, source); or give `inputs_embeds`.
            attention_mask: 1 at real tokens of the source, 0 at padding on either side.
            decoder_input_ids: token ids that the decoder reads, (batch, target); by default the
                labels shifted right. Pad tokens before `decoder_start_token_id` are padding.
            decoder_attention_mask: 1 at real tokens of the target, (batch, target).
            encoder_outputs: what `get_encoder()` returned for this source, in place of `input_ids`.
            past_key_values: cache of the target tokens before; nothing has a gradient then.
            inputs_embeds: embedded source, (batch, source, hidden_size).
            decoder_inputs_embeds: embedded target, (batch, target, hidden_size).
            labels: token ids, -100 without a loss, (batch, target); each place predicts its own.
            use_cache: return a cache. By default not; `generate` asks for it.
            logits_to_keep: how many last places' logits to return, or which; 0 for all.
            num_items_in_batch: what the summed loss is divided by; None for the mean.
            num_hashes: rounds of both sides, if other than the configuration's.
            output_hidden_states: also return both streams before each layer, side by side.
            output_attentions: also return the attention maps of both sides, as `ReformerHFModel`
                does, and those of cross-attention, always dense, (batch, heads, target, source).
            **kwargs: others of transformers' `TransformersKwargs`.

        Returns:
            `ReformerHFSeq2SeqLMOutput`. With labels the loss is made of `logits`, which get its
            gradient; but with `logits_to_keep` they are a copy, and with `chunk_size_lm_head`
            above 0 they are None in training.

        Raises:
            ValueError: if inputs are missing, of the wrong shape, out of range or too long.
            TypeError: if an argument is unknown.
        """
        check_target(self.config, decoder_input_ids, decoder_inputs_embeds, labels)
        recorded = self.recorded(output_hidden_states, output_attentions)
        options = {**kwargs, **recorded, "num_hashes": num_hashes, "return_dict": True}
        if encoder_outputs is None:
            encoder_outputs = self.encoder(
                input_ids=input_ids,
                attention_mask=attention_mask,
                inputs_embeds=inputs_embeds,
                **options,
            )
        states = encoder_outputs[0]
        cache = choose_seq2seq_cache(self.config, past_key_values, use_cache)
        if decoder_inputs_embeds is None:
            if decoder_input_ids is None:
                assert labels is not None
                decoder_input_ids = shift_right(self.config, labels)
            if decoder_attention_mask is None and (cache is None or not cache.get_seq_length()):
                decoder_attention_mask = mask_padding(self.config, decoder_input_ids)
            words = self.decoder.get_input_embeddings() or self.encoder.get_input_embeddings()
            decoder_inputs_embeds = words(decoder_input_ids)
        assert decoder_inputs_embeds is not None
        rows = len(decoder_inputs_embeds)
        check_source(states, attention_mask, rows, 2 * self.config.hidden_size)
        chunked = labels is not None and self.config.chunk_size_lm_head > 0
        in_training = cache is None and self.training and not recorded["output_hidden_states"]
        outputs = self._decode(
            states,
            attention_mask,
            decoder_inputs_embeds,
            decoder_attention_mask,
            cache,
            {**options, "return_streams": chunked and in_training},
        )
        if labels is not None:
            labels = labels.long().contiguous()  # which transformers' loss takes for granted
        # Without a gradient behind a cache, or that of the head alone would look like the model's.
        with torch.set_grad_enabled(torch.is_grad_enabled() and cache is None):
            loss, logits = self._predict(
                outputs.last_hidden_state, labels, labels, num_items_in_batch, logits_to_keep
            )
        return ReformerHFSeq2SeqLMOutput(
            loss=loss,  # type: ignore[arg-type]
            logits=logits,  # type: ignore[arg-type]
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
        """Run the decoder; of a packed one, the last hidden state is that of the target alone."""
        if not self.packed:
            visible = None if source_mask is None else source_mask.bool()
            if visible is not None and not is_tracing(visible) and visible.all():
                visible = None
            kept = None if cache is None else cache.cross_attention_cache
            return self.decoder(
                inputs_embeds=embedded,
                attention_mask=target_mask,
                past_key_values=None if cache is None else cache.self_attention_cache,
                source=Source(cast_for_products(states), visible, kept),
                **options,
            )
        first = cache is None or not cache.source_length
        source = self.enc_to_dec_proj(states) if first else None
        rows = pack_rows(source, embedded, source_mask, target_mask, cache)
        outputs = self.decoder(past_key_values=cache, **rows._asdict(), **options)
        last, skipped = outputs.last_hidden_state, rows.inputs_embeds.shape[1] - embedded.shape[1]
        if isinstance(last, tuple):
            outputs.last_hidden_state = tuple(stream[:, skipped:] for stream in last)
        else:
            outputs.last_hidden_state = last[:, skipped:]
        return outputs

    def _finish(self, x1: Tensor, x2: Tensor) -> Tensor:
        """The last hidden state that both streams make."""
        return self.decoder.encoder.finish(x1, x2)

    def resize_token_embeddings(self, *args: Any, **kwargs: Any) -> nn.Embedding:
        """Resize all embeddings, output projection and its bias; see `PreTrainedModel`."""
        if self.decoder.get_input_embeddings() is not None:
            self.decoder.resize_token_embeddings(*args, **kwargs)  # what an output is tied to
        return super().resize_token_embeddings(*args, **kwargs)
