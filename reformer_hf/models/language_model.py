"""What models that write tokens share: the output projection and its loss."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_utils import slice_logits_to_keep

from reformer_hf.models.configuration_reformer_hf import ReformerHFConfig
from reformer_hf.models.layers import mean_of_streams
from reformer_hf.ops.losses import chunked_cross_entropy


class ReformerHFLMHead(nn.Module):
    """Projection of the last hidden state to the vocabulary.

    Word embeddings are half as wide: an output tied to them reads the mean of both streams.
    """

    def __init__(self, config: ReformerHFConfig):
        super().__init__()
        self.tied = config.tie_word_embeddings
        width = config.hidden_size if self.tied else 2 * config.hidden_size
        self.decoder = nn.Linear(width, config.vocab_size, bias=False)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Logits of hidden states."""
        if self.tied:
            hidden_states = mean_of_streams(hidden_states)
        return self.decoder(hidden_states) + self.bias


class LanguageModelMixin:
    """For models with an `lm_head`, before `PreTrainedModel` among their bases."""

    config: ReformerHFConfig
    reformer: Any  # ReformerHFModel, whose module knows this one; or override `_finish`
    lm_head: ReformerHFLMHead

    def get_output_embeddings(self) -> nn.Module:
        """The output projection."""
        return self.lm_head.decoder

    def set_output_embeddings(self, new_embeddings: nn.Linear) -> None:
        """Replace the output projection."""
        self.lm_head.decoder = new_embeddings

    def resize_token_embeddings(self, *args: Any, **kwargs: Any) -> nn.Embedding:
        """Resize embeddings, output projection and its bias; see `PreTrainedModel`."""
        embeddings = super().resize_token_embeddings(*args, **kwargs)  # type: ignore[misc]
        missing = self.lm_head.decoder.weight.shape[0] - self.lm_head.bias.shape[0]
        if missing:
            bias = nn.functional.pad(self.lm_head.bias.detach(), (0, missing))
            self.lm_head.bias = nn.Parameter(bias, requires_grad=self.lm_head.bias.requires_grad)
        return embeddings

    def _finish(self, x1: Tensor, x2: Tensor) -> Tensor:
        """The last hidden state that both streams make."""
        return self.reformer.encoder.finish(x1, x2)

    def _records_hidden_states(self, arguments: dict[str, Any]) -> bool:
        """Whether a forward with these arguments returns hidden states."""
        asked = arguments.get("output_hidden_states")
        return bool(self.config.output_hidden_states if asked is None else asked)

    def _predict(
        self,
        hidden_states: Any,
        labels: Tensor | None,
        targets: Tensor | None,
        num_items: Tensor | int | None,
        logits_to_keep: int | Tensor = 0,
    ) -> tuple[Tensor | None, Tensor | None]:
        """Loss and logits.

        The loss is made of the logits that are returned, so that these get its gradient; with
        `chunk_size_lm_head` a chunk of them at a time. There are two exceptions. In training a
        chunked loss is there to hold no logits, and returns none. Where only some places' logits
        are asked for, the loss is of all places all the same, and what is returned is a copy.

        Args:
            hidden_states: the last ones, or in training with a chunked loss both streams, as
                `return_streams` leaves them.
            labels: what the targets were made of.
            targets: token that each place is to predict, -100 for none, (batch, seq); or None.
            num_items: what the summed loss is divided by; None for the number of targets.
            logits_to_keep: how many last places' logits to return, or which; 0 for all.
        """
        keep_all = isinstance(logits_to_keep, int) and logits_to_keep == 0
        if targets is None:
            return None, self.lm_head(slice_logits_to_keep(hidden_states, logits_to_keep))
        if self.config.chunk_size_lm_head and (self.training or not keep_all):  # type: ignore[attr-defined]
            loss = self._chunked_loss(hidden_states, targets, num_items, self._project)
            if self.training:  # type: ignore[attr-defined]
                return loss, None
            return loss, self.lm_head(slice_logits_to_keep(hidden_states, logits_to_keep))
        logits = self.lm_head(hidden_states)
        if self.config.chunk_size_lm_head:
            loss = self._chunked_loss(logits, targets, num_items, lambda logits: logits)
        else:
            loss = self.loss_function(  # type: ignore[attr-defined]
                logits,
                labels,
                vocab_size=self.config.vocab_size,
                num_items_in_batch=num_items,
                shift_labels=targets,
            )
        return loss, logits if keep_all else slice_logits_to_keep(logits, logits_to_keep)

    def _project(self, *states: Tensor) -> Tensor:
        """Logits of the last hidden state, or of both streams."""
        return self.lm_head(states[0] if len(states) == 1 else self._finish(*states))

    def _chunked_loss(
        self,
        states: Tensor | tuple[Tensor, Tensor],
        targets: Tensor,
        num_items: Tensor | int | None,
        project: Callable[..., Tensor],
    ) -> Tensor:
        """Loss with the logits of some places at a time, which `project` makes of their states."""
        device = states[0].device
        if isinstance(num_items, Tensor):
            num_items = num_items.to(device)
        chunk_size = self.config.chunk_size_lm_head
        return chunked_cross_entropy(states, targets.to(device), project, chunk_size, num_items)
