"""What the models with a task head share."""

from typing import Any

import torch
from torch import Tensor

from reformer_hf.models.configuration_reformer_hf import ReformerHFConfig
from reformer_hf.models.inputs import require_tensor
from reformer_hf.models.modeling_reformer_hf import ReformerHFModel, ReformerHFPreTrainedModel


class ReformerHFTaskModel(ReformerHFPreTrainedModel):
    """A Reformer that a head reads at all its places, so that there is nothing to cache."""

    def __init__(self, config: ReformerHFConfig):
        super().__init__(config)
        self.reformer = ReformerHFModel(config)

    def encode(
        self,
        arguments: dict[str, Any],
        input_ids: Tensor | None,
        attention_mask: Tensor | None,
        position_ids: Tensor | None,
        inputs_embeds: Tensor | None,
        return_streams: bool = False,
        **others: Any,
    ) -> Any:
        """Run the Reformer.

        Args:
            arguments: those that the forward has no parameters for.
            input_ids: as given to the forward, like the following.
            attention_mask: see there.
            position_ids: see there.
            inputs_embeds: see there.
            return_streams: see `ReformerHFModel.forward`.
            **others: of `ReformerHFModel.forward`.

        Returns:
            `BaseModelOutputWithPast`.

        Raises:
            ValueError: if a cache is asked for.
        """
        if arguments.get("use_cache") or arguments.get("past_key_values") is not None:
            raise ValueError(
                f"use_cache=True or past_key_values with {type(self).__name__}, which reads whole "
                "rows: leave it out"
            )
        return self.reformer(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            inputs_embeds=inputs_embeds,
            return_dict=True,
            return_streams=return_streams,
            **others,
            **arguments,
        )

    @property
    def head_dropout(self) -> float:
        """Dropout of a classification head: `classifier_dropout`, or that of hidden states."""
        chosen = self.config.classifier_dropout
        return self.config.hidden_dropout_prob if chosen is None else chosen


def leading_shape(input_ids: Tensor | None, inputs_embeds: Tensor | None, axes: int) -> torch.Size:
    """The first axes of whichever input is given, such as (batch, seq).

    Raises:
        ValueError: if there is none, or it has fewer axes.
    """
    given = inputs_embeds if input_ids is None else input_ids
    if given is None:
        raise ValueError("give exactly one of input_ids and inputs_embeds")
    require_tensor("input_ids" if inputs_embeds is None else "inputs_embeds", given)
    if given.ndim < axes:
        raise ValueError(
            f"the input has shape {tuple(given.shape)}: this model needs at least {axes} axes"
        )
    return given.shape[:axes]
