"""What models that write tokens share: the output projection and its loss."""

from typing import Any

import torch
from torch import Tensor, nn

from reformer_hf.models.configuration_reformer_hf import ReformerHFConfig
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
            hidden_states = hidden_states.unflatten(-1, (2, -1)).mean(dim=-2)
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

    def _token_loss(
        self,
        hidden_states: Tensor | tuple[Tensor, Tensor],
        logits: Tensor | None,
        labels: Tensor | None,
        targets: Tensor,
        num_items: Tensor | int | None,
    ) -> Tensor:
        """Loss from the logits, or with `chunk_size_lm_head` from the hidden states in chunks.

        `labels` are what the `targets` were made of; see `_chunked_loss` for the rest.
        """
        if self.config.chunk_size_lm_head:
            return self._chunked_loss(hidden_states, targets, num_items)
        return self.loss_function(  # type: ignore[attr-defined]
            logits,
            labels,
            vocab_size=self.config.vocab_size,
            num_items_in_batch=num_items,
            shift_labels=targets,
        )

    def _chunked_loss(
        self,
        hidden_states: Tensor | tuple[Tensor, Tensor],
        targets: Tensor,
        num_items: Tensor | int | None,
    ) -> Tensor:
        """Loss without the logits of the whole sequence.

        Args:
            hidden_states: the last ones, or both streams as `return_streams` leaves them.
            targets: token that each place is to predict, -100 for none, (batch, seq).
            num_items: what the summed loss is divided by; None for the number of targets.
        """
        project, device = self.lm_head, hidden_states[0].device
        if isinstance(hidden_states, tuple):

            def project(x1: Tensor, x2: Tensor) -> Tensor:
                return self.lm_head(self._finish(x1, x2))

        if isinstance(num_items, Tensor):
            num_items = num_items.to(device)
        chunk_size = self.config.chunk_size_lm_head
        return chunked_cross_entropy(
            hidden_states, targets.to(device), project, chunk_size, num_items
        )
