"""What models that write tokens share: the output projection and its loss."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_utils import slice_logits_to_keep

from reformer_hf.models.configuration_reformer_hf import ReformerHFConfig
from reformer_hf.models.implementations import to_implementation
from reformer_hf.models.layers import mean_of_streams
from reformer_hf.nn.sparse_dense import MultiplicativeDense
from reformer_hf.nn.stream_pieces import cut_gathering
from reformer_hf.ops.derivatives import transform_runs
from reformer_hf.ops.dropout import draw_seed
from reformer_hf.ops.losses import chunked_cross_entropy


class ReformerHFLMHead(nn.Module):
    """Projection of the last hidden state to the vocabulary.

    Word embeddings are half as wide: an output tied to them reads the mean of both streams.

    A sparse projection has as many outputs as its modules share equally; those beyond the
    vocabulary are cut off. With `lm_head_sparse_share` below 1 a dense projection stands beside it,
    with the same bias. A training pass uses one of them, and the other gets gradients of 0, as in
    trax, where an optimizer steps all weights in each pass.
    """

    def __init__(self, config: ReformerHFConfig):
        super().__init__()
        self.tied = config.tie_word_embeddings
        self.sparse_share = config.lm_head_sparse_share
        width = config.hidden_size if self.tied else 2 * config.hidden_size
        self.decoder: Any = nn.Linear(width, config.vocab_size, bias=False)
        self.dense = None
        if modules := config.lm_head_sparsity:
            self.dense = self.decoder if self.sparse_share < 1 else None
            outputs = -(-config.vocab_size // modules) * modules
            self.decoder = MultiplicativeDense(width, outputs, modules, bias=False)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))

    def draw(self) -> Callable[[Tensor], Tensor]:
        """Choose the projection of a pass, from torch's default generator where there is a choice.

        Returns:
            This module's forward with the choice made, for all pieces of a sequence.
        """
        if self.dense is None or not self.training:
            return self
        drawn = draw_seed()
        return partial(self, sparse=drawn is None or drawn < self.sparse_share * 2**63)

    def forward(self, hidden_states: Tensor, sparse: bool | None = None) -> Tensor:
        """Logits of hidden states.

        Args:
            hidden_states: the last ones, (..., seq, 2 * hidden_size).
            sparse: of the training pass, which projection it uses; None outside training.
        """
        if self.tied:
            hidden_states = mean_of_streams(hidden_states)
        if sparse is None or self.dense is None:
            return self._cut(self.decoder(hidden_states)) + self.bias
        used, other = self.decoder, self.dense
        if not sparse:
            used, other = other, used
        # Of no token: nothing but a gradient of 0, which DDP waits for.
        nothing = other(hidden_states[..., :0, :]).sum()
        return self._cut(used(hidden_states)) + self.bias + nothing

    def _cut(self, logits: Tensor) -> Tensor:
        """The logits of the vocabulary alone."""
        words = self.bias.shape[0]
        return logits if logits.shape[-1] == words else logits[..., :words]


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

    def resize_token_embeddings(
        self,
        new_num_tokens: int | None = None,
        pad_to_multiple_of: int | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> nn.Embedding:
        """Resize embeddings, output projection and its bias; see `PreTrainedModel`.

        Raises:
            ValueError: if the output layer is sparse, and the size is another than now.
        """
        inputs = (new_num_tokens, pad_to_multiple_of, *args)
        if self.config.lm_head_sparsity:
            multiple, size = pad_to_multiple_of or 1, new_num_tokens or self.config.vocab_size
            if -(-size // multiple) * multiple == self.config.vocab_size:
                return self.get_input_embeddings()  # type: ignore[attr-defined]
            raise ValueError(
                f"lm_head_sparsity={self.config.lm_head_sparsity} with vocab_size="
                f"{self.config.vocab_size}: a sparse output layer cannot be resized, since its "
                "modules would stand for other tokens; build the model with the whole vocabulary"
            )
        embeddings = super().resize_token_embeddings(*inputs, **kwargs)  # type: ignore[misc]
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
        head = self.lm_head.draw()
        if targets is None:
            return None, head(slice_logits_to_keep(hidden_states, logits_to_keep))
        parallel = self.base_model.sequence_parallel  # type: ignore[attr-defined]
        if parallel is not None and num_items is None:
            num_items = parallel.mean_targets(targets)
        if self.config.chunk_size_lm_head and (self.training or not keep_all):  # type: ignore[attr-defined]
            project = partial(self._project, head)
            loss = self._chunked_loss(hidden_states, targets, num_items, project)
            if self.training:  # type: ignore[attr-defined]
                return loss, None
            return loss, self.lm_head(slice_logits_to_keep(hidden_states, logits_to_keep))
        logits = head(hidden_states)
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

    def _differentiates_once(self) -> bool:
        """Whether nothing but an ordinary backward pass can be asked of the loss."""
        eager = to_implementation(self.config._attn_implementation) == "eager"
        plain = eager or torch.compiler.is_compiling() or transform_runs()
        return self.config.reversible and not plain

    def _project(self, head: Callable[[Tensor], Tensor], *states: Tensor) -> Tensor:
        """Logits of the last hidden state, or of both streams."""
        return head(states[0] if len(states) == 1 else self._finish(*states))

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
        options: dict[str, Any] = {"num_items": num_items}
        if isinstance(states, tuple) and self._differentiates_once():
            options["cut"] = cut_gathering  # split would hold their gradients twice
        chunk_size = self.config.chunk_size_lm_head
        return chunked_cross_entropy(states, targets.to(device), project, chunk_size, **options)
