"""Batches of rows of different lengths, for causal and for masked language models."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import DataCollatorForLanguageModeling

IGNORE_INDEX = -100


@dataclass
class ReformerDataCollator(DataCollatorForLanguageModeling):
    """Pads rows on the right, to the longest of the batch: the model needs no other length.

    Padding is known by its place, not by its id, so a pad token inside a text is an ordinary token.
    It has attention mask 0 and no label; what the model says of the real tokens stays the same. In
    causal models the first token of a packed document has no label either, since nothing predicts
    it, so that a count of the labels is a count of the predicted tokens.

    The other arguments are those of `DataCollatorForLanguageModeling`.

    Args:
        tokenizer: gives the pad id, and the mask token of a masked language model.
        mlm: whether to hide tokens and ask for them, or to ask for the next token.
        pad_to_multiple_of: rounds the length of a batch up.
    """

    mlm: bool = False

    def torch_call(self, examples: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:  # type: ignore[override]
        """Make a batch.

        Args:
            examples: rows with `input_ids`, and if they are there `seq_idx`, `labels` and
                `special_tokens_mask`.

        Returns:
            Tensors of shape `(batch, seq)`.
        """
        if self.seed is not None and self.generator is None:
            self.create_rng()
        ids = [_tensor(row["input_ids"]) for row in examples]
        pad: Any = self.tokenizer.pad_token_id or 0
        mask = self._pad([torch.ones_like(row) for row in ids], 0)
        batch = {"input_ids": self._pad(ids, pad), "attention_mask": mask}
        if "seq_idx" in examples[0]:
            # Padding counts on the last document; the mask says that it is none.
            numbers = [_tensor(row["seq_idx"]) for row in examples]
            batch["seq_idx"] = self._pad(numbers, 0)
        labels = [_tensor(row.get("labels", row["input_ids"])) for row in examples]
        batch["labels"] = self._pad(labels, IGNORE_INDEX)
        if self.mlm:
            self._hide_tokens(examples, batch)
        if not self.mlm and "seq_idx" in batch:
            begins = batch["seq_idx"].diff(dim=-1) != 0
            batch["labels"][:, 1:].masked_fill_(begins, IGNORE_INDEX)
        return batch

    def _pad(self, rows: list[Tensor], value: int) -> Tensor:
        """Stack rows to the length of the longest, rounded up."""
        stacked = pad_sequence(rows, batch_first=True, padding_value=value)
        missing = -stacked.shape[1] % (self.pad_to_multiple_of or 1)
        return torch.nn.functional.pad(stacked, (0, missing), value=value)

    def _hide_tokens(self, examples: Sequence[Mapping], batch: dict[str, Tensor]) -> None:
        """Hide tokens and ask for them, but not special ones, padding and rows with labels."""
        if "special_tokens_mask" in examples[0]:
            special = self._pad([_tensor(row["special_tokens_mask"]) for row in examples], 1) == 1
        else:
            # An unknown token that stands for padding too is a token of the text.
            unknown = self.tokenizer.unk_token_id
            ids = [index for index in self.tokenizer.all_special_ids if index != unknown]
            special = torch.isin(batch["input_ids"], torch.tensor(ids, dtype=torch.int64))
        labelled = torch.tensor([["labels" in row] for row in examples])
        hidden, labels = self.torch_mask_tokens(  # type: ignore[misc]
            batch["input_ids"].clone(), special | labelled | (batch["attention_mask"] == 0)
        )
        batch["input_ids"] = hidden
        batch["labels"] = torch.where(labelled, batch["labels"], labels)


def _tensor(values: Any) -> Tensor:
    return torch.as_tensor(values, dtype=torch.int64)
