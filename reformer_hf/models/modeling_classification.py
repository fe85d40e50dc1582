"""Heads that say something about a whole row: a class, a number, the right choice."""

from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import MultipleChoiceModelOutput, SequenceClassifierOutput
from transformers.utils.generic import can_return_tuple

from reformer_hf.models.configuration_reformer_hf import ReformerHFConfig
from reformer_hf.models.inputs import require_integers, require_whole_rows
from reformer_hf.models.labels import (
    check_classes,
    check_row_labels,
    problem_type_of,
    row_loss,
)
from reformer_hf.models.task_model import ReformerHFTaskModel, leading_shape


def pool(hidden_states: Tensor, attention_mask: Tensor | None, causal: bool) -> Tensor:
    """Make one vector of each row.

    Args:
        hidden_states: (batch, seq, dim).
        attention_mask: 1 at real tokens, (batch, seq), on either side of padding or around it.
        causal: take the last real token, the only one that has seen all others, instead of the
            mean of all real ones.

    Returns:
        Shape (batch, dim).
    """
    if attention_mask is None:
        real = torch.ones(hidden_states.shape[:2], dtype=torch.bool, device=hidden_states.device)
    else:
        real = attention_mask.to(hidden_states.device).bool()
    if causal:
        places = torch.arange(real.shape[1], device=real.device)
        last = places.masked_fill(~real, -1).amax(dim=-1).clamp(min=0)
        return hidden_states[torch.arange(len(last), device=last.device), last]
    wide = torch.promote_types(hidden_states.dtype, torch.float32)
    kept = hidden_states.masked_fill(~real.unsqueeze(-1), 0.0)
    mean = kept.sum(dim=1, dtype=wide) / real.sum(dim=1, keepdim=True).clamp(min=1)
    return mean.to(hidden_states.dtype)


class ReformerHFClassificationHead(nn.Module):
    """Two dense layers on a pooled row."""

    def __init__(self, hidden_size: int, num_outputs: int, dropout: float):
        super().__init__()
        self.dense = nn.Linear(2 * hidden_size, hidden_size)
        self.dropout = nn.Dropout(dropout)
        self.out_proj = nn.Linear(hidden_size, num_outputs)

    def forward(self, pooled: Tensor) -> Tensor:
        """Logits (batch, num_outputs) of pooled rows (batch, 2 * hidden_size)."""
        hidden_states = torch.tanh(self.dense(self.dropout(pooled)))
        return self.out_proj(self.dropout(hidden_states))


class ReformerHFForSequenceClassification(ReformerHFTaskModel):
    """A Reformer that classifies each row, or gives it a number or several.

    A causal model reads the last real token, a bidirectional one the mean of all real tokens.
    """

    def __init__(self, config: ReformerHFConfig):
        super().__init__(config)
        self.num_labels = config.num_labels
        self.classifier = ReformerHFClassificationHead(
            config.hidden_size,
            config.num_labels,  # type: ignore[arg-type]
            self.head_dropout,
        )
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
        **kwargs: Any,
    ) -> SequenceClassifierOutput:
        """Classify each row.

        Args:
            input_ids: token ids, (batch, seq); or give `inputs_embeds`.
            attention_mask: 1 at real tokens, 0 at padding, (batch, seq). Without it all tokens are
                real, whatever their ids.
            position_ids: positions, (batch, seq).
            inputs_embeds: embedded tokens, (batch, seq, hidden_size).
            labels: class of each row, (batch,), or for several classes at a time, or numbers,
                (batch, num_labels); `config.problem_type` says which, or else their dtype.
            num_items_in_batch: what the summed loss is divided by; None for the mean.
            **kwargs: others of `ReformerHFModel.forward`, except for a cache and packed rows.

        Returns:
            `SequenceClassifierOutput` with logits of shape (batch, num_labels).

        Raises:
            ValueError: if inputs are empty, of the wrong shape, out of range or too long.
            TypeError: if an argument is unknown.
        """
        require_whole_rows(attention_mask, position_ids, kwargs.get("seq_idx"))
        kind = None
        if labels is not None:
            kind = problem_type_of(self.config, labels)
            rows = leading_shape(input_ids, inputs_embeds, 1)[0]
            check_row_labels(labels, rows, self.config, kind)
        outputs = self.encode(kwargs, input_ids, attention_mask, position_ids, inputs_embeds)
        causal = bool(self.config.is_decoder)
        logits = self.classifier(pool(outputs.last_hidden_state, attention_mask, causal))
        loss = None
        if labels is not None and kind is not None:
            loss = row_loss(logits, labels, kind, num_items_in_batch)
        return SequenceClassifierOutput(
            loss=loss,  # type: ignore[arg-type]
            logits=logits,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )


class ReformerHFForMultipleChoice(ReformerHFTaskModel):
    """A Reformer that says which of several rows is right; it pools as for classification."""

    def __init__(self, config: ReformerHFConfig):
        super().__init__(config)
        self.classifier = ReformerHFClassificationHead(config.hidden_size, 1, self.head_dropout)
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
        **kwargs: Any,
    ) -> MultipleChoiceModelOutput:
        """Score each choice.

        Args:
            input_ids: token ids, (batch, choices, seq); or give `inputs_embeds`.
            attention_mask: 1 at real tokens, 0 at padding, (batch, choices, seq).
            position_ids: positions, (batch, choices, seq).
            inputs_embeds: embedded tokens, (batch, choices, seq, hidden_size).
            labels: the right choice, (batch,), or -100 without a loss.
            num_items_in_batch: what the summed loss is divided by; None for the mean.
            **kwargs: others of `ReformerHFModel.forward`, except for a cache and packed rows.

        Returns:
            `MultipleChoiceModelOutput` with logits of shape (batch, choices). Hidden states and
            maps have all choices of the batch as rows.

        Raises:
            ValueError: if inputs are empty, of the wrong shape, out of range or too long.
            TypeError: if an argument is unknown.
        """
        tensors = {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "position_ids": position_ids,
            "inputs_embeds": inputs_embeds,
        }
        shape = leading_shape(input_ids, inputs_embeds, 3)
        rows: dict[str, Any] = {
            name: _flatten_choices(name, tensor, shape) for name, tensor in tensors.items()
        }
        require_whole_rows(rows["attention_mask"], rows["position_ids"], kwargs.get("seq_idx"))
        if labels is not None:
            _check_choices(labels, *shape[:2])
        outputs = self.encode(kwargs, **rows)
        causal = bool(self.config.is_decoder)
        pooled = pool(outputs.last_hidden_state, rows["attention_mask"], causal)
        logits = self.classifier(pooled).view(shape[:2])
        loss = None
        if labels is not None:
            loss = row_loss(logits, labels, "single_label_classification", num_items_in_batch)
        return MultipleChoiceModelOutput(
            loss=loss,  # type: ignore[arg-type]
            logits=logits,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )


def _flatten_choices(name: str, tensor: Tensor | None, shape: torch.Size) -> Tensor | None:
    """Make each choice a row."""
    if tensor is None:
        return None
    axes = 4 if name == "inputs_embeds" else 3
    if tensor.ndim != axes or tensor.shape[:3] != shape:
        wanted = tuple(shape) if len(shape) == 3 else "(batch, choices, seq)"
        raise ValueError(
            f"{name} has shape {tuple(tensor.shape)}: it must begin with {wanted}"
            + (" and end with hidden_size" if axes == 4 else "")
        )
    return tensor.flatten(0, 1)


def _check_choices(labels: Tensor, rows: int, choices: int) -> None:
    require_integers("labels", labels)
    if tuple(labels.shape) not in ((rows,), (rows, 1)):
        raise ValueError(
            f"labels has shape {tuple(labels.shape)}: give one choice per row, {(rows,)}"
        )
    check_classes(labels, choices, "the number of choices")
