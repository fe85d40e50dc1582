"""The encoder-decoder that writes: a language model of targets, given a source.

No algorithm lives here. The model without its head is in
:mod:`reformer_hf.models.encoder_decoder.base_model`.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache
from transformers.modeling_outputs import Seq2SeqLMOutput
from transformers.utils.generic import can_return_tuple

from reformer_hf.models.configuration_reformer_hf import ReformerHFConfig
from reformer_hf.models.encoder_decoder.base_model import ReformerHFEncoderDecoderModel
from reformer_hf.models.encoder_decoder.seq2seq_generation import ReformerHFSeq2SeqGenerationMixin
from reformer_hf.models.encoder_decoder.target_inputs import check_target, shift_right
from reformer_hf.models.files.checkpoint_files import add_base_prefix
from reformer_hf.models.language_model import LanguageModelMixin, ReformerHFLMHead
from reformer_hf.models.modeling_reformer_hf import ReformerHFPreTrainedModel
from reformer_hf.ops.attention_map import MapForm

WORDS = "embeddings.word_embeddings.weight"


class ReformerHFForConditionalGeneration(
    LanguageModelMixin, ReformerHFPreTrainedModel, ReformerHFSeq2SeqGenerationMixin
):
    """A Reformer that reads a source and writes a target; see `ReformerHFEncoderDecoderModel`."""

    # Of adapters that were saved before there was a base model; PEFT asks for it by this name.
    _checkpoint_conversion_mapping = {r"^(encoder|decoder|enc_to_dec_proj)\.": r"reformer.\1."}

    def __init__(self, config: ReformerHFConfig):
        super().__init__(config)
        self.reformer = ReformerHFEncoderDecoderModel(config)
        self.lm_head = ReformerHFLMHead(config)
        owner = "encoder" if config.share_encoder_decoder_embeddings else "decoder"
        self._tied_weights_keys = {"lm_head.decoder.weight": f"reformer.{owner}.{WORDS}"}
        self.register_load_state_dict_pre_hook(add_base_prefix)
        self.post_init()

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
    ) -> Seq2SeqLMOutput:
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
            `Seq2SeqLMOutput`. With labels the loss is made of `logits`, which get its
            gradient; but with `logits_to_keep` they are a copy, and with `chunk_size_lm_head`
            above 0 they are None in training. Of a packed decoder, maps are those of the packed
            rows.

        Raises:
            ValueError: if inputs are missing, of the wrong shape, out of range or too long.
            TypeError: if an argument is unknown.
        """
        check_target(self.config, decoder_input_ids, decoder_inputs_embeds, labels)
        if decoder_input_ids is None and decoder_inputs_embeds is None:
            assert labels is not None
            decoder_input_ids = shift_right(self.config, labels)
        recorded = self.recorded(output_hidden_states, output_attentions)
        cached = use_cache or past_key_values is not None
        chunked = labels is not None and self.config.chunk_size_lm_head > 0
        in_training = self.training and not (cached or recorded["output_hidden_states"])
        outputs = self.reformer(
            input_ids=input_ids,
            attention_mask=attention_mask,
            decoder_input_ids=decoder_input_ids,
            decoder_attention_mask=decoder_attention_mask,
            encoder_outputs=encoder_outputs,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            decoder_inputs_embeds=decoder_inputs_embeds,
            use_cache=use_cache,
            num_hashes=num_hashes,
            return_dict=True,
            return_streams=chunked and in_training,
            **recorded,
            **kwargs,
        )
        if labels is not None:
            labels = labels.long().contiguous()  # which transformers' loss takes for granted
        # Without a gradient behind a cache, or that of the head alone would look like the model's.
        with torch.set_grad_enabled(torch.is_grad_enabled() and not cached):
            loss, logits = self._predict(
                outputs.last_hidden_state, labels, labels, num_items_in_batch, logits_to_keep
            )
        recorded = {name: value for name, value in outputs.items() if name != "last_hidden_state"}
        return Seq2SeqLMOutput(loss=loss, logits=logits, **recorded)  # type: ignore[arg-type]

    def _finish(self, x1: Tensor, x2: Tensor) -> Tensor:
        """The last hidden state that both streams make."""
        return self.reformer.decoder.encoder.finish(x1, x2)

    def resize_token_embeddings(self, *args: Any, **kwargs: Any) -> nn.Embedding:
        """Resize all embeddings, output projection and its bias; see `PreTrainedModel`."""
        self.reformer.resize_token_embeddings(*args, **kwargs)  # also what an output is tied to
        return super().resize_token_embeddings(*args, **kwargs)
