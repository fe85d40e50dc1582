"""Every task head: its classes, and a batch for it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    AutoModelForMaskedLM,
    AutoModelForMultipleChoice,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
)

import reformer_hf
from tests.models.tiny import random_ids, tiny_config

CHOICES = 3


@dataclass(frozen=True)
class Head:
    """A task head.

    Attributes:
        model: its class.
        auto: the Auto class that loads it.
        labels: makes labels of ids (batch, [choices,] seq), as keyword arguments.
        fields: of the configuration.
        choices: rows of a question.
    """

    model: type
    auto: Any
    labels: Callable[[Tensor], dict[str, Tensor]]
    fields: dict[str, Any]
    choices: int = 1

    def build(self, seed: int = 0, **fields: Any) -> Any:
        """A tiny model in eval mode, biases of the head included in its random weights."""
        torch.manual_seed(seed)
        model = self.model(tiny_config(**{**self.fields, **fields})).eval()
        for name, parameter in model.named_parameters():
            if not name.startswith("reformer.") and name.endswith("bias"):
                nn.init.normal_(parameter)
        return model

    def ids(self, rows: int, seq: int, seed: int = 0) -> Tensor:
        """Token ids of (rows, seq), or (rows, choices, seq)."""
        shape = (rows, seq) if self.choices == 1 else (rows, self.choices, seq)
        return random_ids(*shape, seed=seed)

    def batch(self, rows: int, seq: int, seed: int = 0) -> dict[str, Tensor]:
        """Ids and labels."""
        ids = self.ids(rows, seq, seed)
        return {"input_ids": ids, **self.labels(ids)}


def scores(output: Any) -> Tensor:
    """All logits of an output, (batch, ...)."""
    if "start_logits" in output:
        return torch.stack([output.start_logits, output.end_logits], dim=-1)
    return output.logits


def mask_some(ids: Tensor) -> dict[str, Tensor]:
    """Every third token is to be predicted."""
    places = torch.arange(ids.shape[1]) % 3 == 0
    return {"labels": torch.where(places, ids, -100)}


HEADS = {
    "masked language model": Head(
        reformer_hf.ReformerHFForMaskedLM, AutoModelForMaskedLM, mask_some, {}
    ),
    "masked language model, loss in chunks": Head(
        reformer_hf.ReformerHFForMaskedLM,
        AutoModelForMaskedLM,
        mask_some,
        {"chunk_size_lm_head": 4},
    ),
    "token classification": Head(
        reformer_hf.ReformerHFForTokenClassification,
        AutoModelForTokenClassification,
        lambda ids: {"labels": ids % 5},
        {"num_labels": 5},
    ),
    "question answering": Head(
        reformer_hf.ReformerHFForQuestionAnswering,
        AutoModelForQuestionAnswering,
        lambda ids: {"start_positions": ids[:, 0] % 3, "end_positions": ids[:, 1] % 3 + 2},
        {},
    ),
    "single label": Head(
        reformer_hf.ReformerHFForSequenceClassification,
        AutoModelForSequenceClassification,
        lambda ids: {"labels": ids[:, 0] % 4},
        {"num_labels": 4},
    ),
    "several labels": Head(
        reformer_hf.ReformerHFForSequenceClassification,
        AutoModelForSequenceClassification,
        lambda ids: {"labels": (ids[:, :3] % 2).float()},
        {"num_labels": 3, "problem_type": "multi_label_classification"},
    ),
    "regression": Head(
        reformer_hf.ReformerHFForSequenceClassification,
        AutoModelForSequenceClassification,
        lambda ids: {"labels": ids[:, 0] / 40},
        {"num_labels": 1, "problem_type": "regression"},
    ),
    "multiple choice": Head(
        reformer_hf.ReformerHFForMultipleChoice,
        AutoModelForMultipleChoice,
        lambda ids: {"labels": ids[:, 0, 0] % CHOICES},
        {},
        choices=CHOICES,
    ),
}
CAUSAL_TOO = [name for name in HEADS if not name.startswith("masked")]
"""Heads that a causal model may have."""
