"""One run of the comparison of classifiers."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from tqdm import tqdm
from transformers import BertConfig, BertModel, get_scheduler, set_seed

from reformer_hf import ReformerHFConfig, ReformerHFForSequenceClassification
from scripts.benchmarks.common.memory import PeakMemory
from scripts.benchmarks.common.peers import axial_shape
from scripts.studies.classification.data import LANGUAGES, Messages, Rows, draw_rows, load_messages

REFORMER, FULL, BERT = "Reformer", "full attention", "BERT"
FIRST_BYTE = 2  # ids 0 and 1 are kept for padding and the end


@dataclass(frozen=True)
class ClassificationRun:
    """What is trained.

    Attributes:
        variant: `Reformer`, local and LSH layers in turn; `full attention`, the same model with
            full layers; or `BERT`, transformers' with one residual stream, read by its mean.
        seed: of weights and rows.
        length: bytes of a row.
        held_out_rows: of each language.
        max_steps: optimizer steps.
        batch_size: rows of a step.
        learning_rate: highest.
        num_hidden_layers: layers.
        hidden_size: width of a stream.
        num_attention_heads: heads.
        num_hashes: rounds.
    """

    variant: str
    seed: int
    length: int
    held_out_rows: int
    max_steps: int
    batch_size: int
    learning_rate: float
    num_hidden_layers: int
    hidden_size: int
    num_attention_heads: int
    num_hashes: int


class BertClassifier(nn.Module):
    """BERT without its first-token pooling: a linear layer reads the mean of all tokens."""

    def __init__(self, config: BertConfig):
        super().__init__()
        self.bert = BertModel(config, add_pooling_layer=False)
        self.classifier = nn.Linear(config.hidden_size, len(config.id2label or {}))

    def forward(self, input_ids: Tensor) -> Tensor:
        """Logits (batch, labels)."""
        return self.classifier(self.bert(input_ids).last_hidden_state.mean(dim=1))


class ReformerClassifier(nn.Module):
    """Logits of `ReformerHFForSequenceClassification`."""

    def __init__(self, config: ReformerHFConfig):
        super().__init__()
        self.model = ReformerHFForSequenceClassification(config)

    def forward(self, input_ids: Tensor) -> Tensor:
        """Logits (batch, labels)."""
        return self.model(input_ids).logits


def build_model(run: ClassificationRun) -> nn.Module:
    """The model of a variant, with the weights of the default generator."""
    common: dict[str, Any] = {
        "vocab_size": 256 + FIRST_BYTE,
        "hidden_size": run.hidden_size,
        "num_attention_heads": run.num_attention_heads,
        "num_labels": len(LANGUAGES),
        "hidden_dropout_prob": 0.0,
    }
    if run.variant == BERT:
        return BertClassifier(
            BertConfig(
                num_hidden_layers=run.num_hidden_layers,
                intermediate_size=4 * run.hidden_size,
                max_position_embeddings=run.length,
                attention_probs_dropout_prob=0.0,
                **common,
            )
        )
    kinds = ["full"] if run.variant == FULL else ["local", "lsh"]
    quarter = run.hidden_size // 4
    return ReformerClassifier(
        ReformerHFConfig(
            attn_layers=[kinds[i % len(kinds)] for i in range(run.num_hidden_layers)],
            attention_head_size=run.hidden_size // run.num_attention_heads,
            feed_forward_size=4 * run.hidden_size,
            is_decoder=False,
            num_hashes=run.num_hashes,
            axial_norm_std=0.02,
            axial_pos_shape=list(axial_shape(run.length)),
            axial_pos_embds_dim=[quarter, run.hidden_size - quarter],
            lsh_attention_probs_dropout_prob=0.0,
            local_attention_probs_dropout_prob=0.0,
            activation_budget=0,
            **common,
        )
    )


def train(run: ClassificationRun, messages: Messages) -> dict[str, Any]:
    """Train, and classify the held-out rows."""
    set_seed(run.seed)
    model = build_model(run).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=run.learning_rate)
    warmup = max(1, run.max_steps // 10)
    scheduler = get_scheduler("cosine", optimizer, warmup, run.max_steps)
    random = np.random.default_rng(run.seed)
    losses, memory = [], PeakMemory()
    with memory.phase("training"):
        for _ in tqdm(range(run.max_steps), f"{run.variant}, seed {run.seed}", leave=False):
            rows = draw_rows(messages.train, run.batch_size, run.length, random)
            ids, labels = _tensors(rows)
            loss = cross_entropy(model(ids), labels)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
            losses.append(loss.item())
    return {
        "curve": losses,
        "accuracy": accuracy(model, messages.held_out, run.batch_size),
        "parameters": sum(p.numel() for p in model.parameters()),
        **memory.entries("training"),
    }


@torch.no_grad()
def accuracy(model: nn.Module, rows: Rows, batch_size: int) -> float:
    """Share of the rows whose language the model names."""
    model.eval()
    right = 0
    for first in range(0, len(rows.labels), batch_size):
        part = slice(first, first + batch_size)
        ids, labels = _tensors(Rows(rows.bytes[part], rows.labels[part]))
        right += int((model(ids).argmax(dim=-1) == labels).sum())
    return right / len(rows.labels)


def _tensors(rows: Rows) -> tuple[Tensor, Tensor]:
    ids = torch.from_numpy(rows.bytes.astype(np.int64)) + FIRST_BYTE
    return ids, torch.from_numpy(rows.labels)


def answer(request: dict) -> dict:
    """Do the run of a request; see `child.py`."""
    run = ClassificationRun(**request["run"])
    return train(run, load_messages(run.length, run.held_out_rows, Path(request["cache_dir"])))
