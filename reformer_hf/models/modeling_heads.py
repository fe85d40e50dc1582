"""Heads that say something about each token: masked language model, classes of tokens, answers."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers.modeling_outputs import (
    MaskedLMOutput,
    QuestionAnsweringModelOutput,
    TokenClassifierOutput,
)
from transformers.utils.generic import can_return_tuple

from reformer_hf.models.configuration_reformer_hf import ReformerHFConfig
from reformer_hf.models.inputs import can_look, require_integers, require_whole_rows
from reformer_hf.models.labels import IGNORE_INDEX, check_token_labels
from reformer_hf.models.language_model import LanguageModelMixin, ReformerHFLMHead
from reformer_hf.models.task_model import ReformerHFTaskModel, leading_shape


class ReformerHFForMaskedLM(LanguageModelMixin, ReformerHFTaskModel):
    """A bidirectional Reformer that predicts the tokens that were masked."""

    supports_sequence_parallel = True

    def __init__(self, config: ReformerHFConfig):
        if config.is_decoder:
            raise ValueError(
                "is_decoder=True: ReformerHFForMaskedLM is bidirectional; set is_decoder to False "
                "or leave it out, or use ReformerHFForCausalLM"
            )
        config = config.decided(is_decoder=False)
        super().__init__(config)
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
        num_items_in_batch: Tensor | int | None = None,
        seq_idx: Tensor | None = None,
        **kwargs: Any,
    ) -> MaskedLMOutput:
        """Predict the token at each place.

        Args:
            input_ids: token ids, (batch, seq); or give `inputs_embeds`.
            attention_mask: 1 at real tokens, 0 at padding, (batch, seq).
            position_ids: positions, (batch, seq).
            inputs_embeds: embedded tokens, (batch, seq, hidden_size).
            labels: token ids, (batch, seq); -100 where nothing was masked. Not shifted.
            num_items_in_batch: what the summed loss is divided by; None for the mean.
            seq_idx: document of each token of a packed row, (batch, seq).
            **kwargs: others of `ReformerHFModel.forward`, except for a cache.

        Returns:
            `MaskedLMOutput`. With `chunk_size_lm_head` above 0 and labels, `logits` is None in
            training; else the loss is made of them, and they get its gradient.

        Raises:
            ValueError: if inputs are empty, of the wrong shape, out of range or too long.
            TypeError: if an argument is unknown.
        """
        if labels is not None:
            shape = leading_shape(input_ids, inputs_embeds, 2)
            check_token_labels(labels, shape, self.config, "vocab_size")
            labels = labels.long()
        chunked = labels is not None and self.training and self.config.chunk_size_lm_head > 0
        inputs = (input_ids, attention_mask, position_ids, inputs_embeds)
        streams = chunked and not self._records_hidden_states(kwargs)
        outputs = self.encode(kwargs, *inputs, seq_idx=seq_idx, return_streams=streams)
        loss, logits = self._predict(outputs.last_hidden_state, labels, labels, num_items_in_batch)
        return MaskedLMOutput(
            loss=loss,  # type: ignore[arg-type]
            logits=logits,  # type: ignore[arg-type]
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )


class ReformerHFForTokenClassification(ReformerHFTaskModel):
    """A Reformer that classifies each token."""

    def __init__(self, config: ReformerHFConfig):
        super().__init__(config)
        self.dropout = nn.Dropout(self.head_dropout)
        self.classifier = nn.Linear(2 * config.hidden_size, config.num_labels)  # type: ignore[arg-type]
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
        seq_idx: Tensor | None = None,
        **kwargs: Any,
    ) -> TokenClassifierOutput:
        """Classify each token.

        Args:
            input_ids: token ids, (batch, seq); or give `inputs_embeds`.
            attention_mask: 1 at real tokens, 0 at padding, (batch, seq).
            position_ids: positions, (batch, seq).
            inputs_embeds: embedded tokens, (batch, seq, hidden_size).
            labels: class of each token, (batch, seq); -100 without a loss, as at padding.
            num_items_in_batch: what the summed loss is divided by; None for the mean.
            seq_idx: document of each token of a packed row, (batch, seq).
            **kwargs: others of `ReformerHFModel.forward`, except for a cache.

        Returns:
            `TokenClassifierOutput` with logits of shape (batch, seq, num_labels).

        Raises:
            ValueError: if inputs are empty, of the wrong shape, out of range or too long.
            TypeError: if an argument is unknown.
        """
        if labels is not None:
            shape = leading_shape(input_ids, inputs_embeds, 2)
            check_token_labels(labels, shape, self.config, "num_labels")
        inputs = (input_ids, attention_mask, position_ids, inputs_embeds)
        outputs = self.encode(kwargs, *inputs, seq_idx=seq_idx)
        logits = self.classifier(self.dropout(outputs.last_hidden_state))
        loss = None
        if labels is not None:
            loss = self.loss_function(
                logits, labels.long(), self.config, num_items_in_batch=num_items_in_batch
            )
        return TokenClassifierOutput(
            loss=loss,
            logits=logits,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )


class ReformerHFForQuestionAnswering(ReformerHFTaskModel):
    """A Reformer that finds where an answer begins and ends."""

    def __init__(self, config: ReformerHFConfig):
        super().__init__(config)
        self.qa_outputs = nn.Linear(2 * config.hidden_size, 2)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        start_positions: Tensor | None = None,
        end_positions: Tensor | None = None,
        **kwargs: Any,
    ) -> QuestionAnsweringModelOutput:
        """Score each token as the first and as the last one of the answer.

        Args:
            input_ids: token ids, (batch, seq); or give `inputs_embeds`.
            attention_mask: 1 at real tokens, 0 at padding, (batch, seq).
            position_ids: positions, (batch, seq).
            inputs_embeds: embedded tokens, (batch, seq, hidden_size).
            start_positions: place in the row of the answer's first token, (batch,); -100 where
                there is no loss.
            end_positions: of its last one.
            **kwargs: others of `ReformerHFModel.forward`, except for a cache and packed rows.

        Returns:
            `QuestionAnsweringModelOutput`. Logits at padding are the lowest number of their dtype.

        Raises:
            ValueError: if inputs are empty, of the wrong shape, out of range or too long.
            TypeError: if an argument is unknown.
        """
        require_whole_rows(attention_mask, position_ids, kwargs.get("seq_idx"))
        if (start_positions is None) != (end_positions is None):
            raise ValueError("give both of start_positions and end_positions, or neither")
        outputs = self.encode(kwargs, input_ids, attention_mask, position_ids, inputs_embeds)
        logits = self.qa_outputs(outputs.last_hidden_state)
        if attention_mask is not None:
            padding = (attention_mask == 0).to(logits.device).unsqueeze(-1)
            logits = logits.masked_fill(padding, torch.finfo(logits.dtype).min)
        start_logits, end_logits = logits.unbind(dim=-1)
        loss = None
        if start_positions is not None and end_positions is not None:
            loss = (
                _place_loss("start_positions", start_logits, start_positions, attention_mask)
                + _place_loss("end_positions", end_logits, end_positions, attention_mask)
            ) / 2
        return QuestionAnsweringModelOutput(
            loss=loss,  # type: ignore[arg-type]
            start_logits=start_logits,  # type: ignore[arg-type]
            end_logits=end_logits,  # type: ignore[arg-type]
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )


def _place_loss(name: str, logits: Tensor, places: Tensor, attention_mask: Tensor | None) -> Tensor:
    """Cross-entropy over the places of a row, after a check of the right ones.

    Args:
        name: of the argument.
        logits: (batch, seq).
        places: (batch,) or (batch, 1).
        attention_mask: (batch, seq).
    """
    rows, seq = logits.shape
    require_integers(name, places)
    if tuple(places.shape) not in ((rows,), (rows, 1)):
        raise ValueError(
            f"{name} has shape {tuple(places.shape)}: give one place per row, {(rows,)}"
        )
    places = places.view(-1).long()
    if can_look(places):
        real = torch.ones(rows, seq) if attention_mask is None else attention_mask.cpu()
        for row, place in enumerate(places.tolist()):
            if place != IGNORE_INDEX and not (0 <= place < seq and real[row, place]):
                raise ValueError(
                    f"{name} has {place} in row {row}, which is no real token of the {seq} places: "
                    "give a place in the row, or -100 where there is no answer"
                )
    places = places.to(logits.device)
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    # By a sum: a batch without any answer has the loss 0, not one that is not a number.
    total = cross_entropy(wide, places, ignore_index=IGNORE_INDEX, reduction="sum")
    return total / (places != IGNORE_INDEX).sum().clamp(min=1)
