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
from transformers.modeling_outputs import SequenceClassifierOutput

from reformer_hf import ReformerHFConfig, ReformerHFForSequenceClassification
from reformer_hf.training.arguments import argument
from reformer_hf.training.build import parse_overrides
from reformer_hf.training.optimizers import make_optimizer
from reformer_hf.training.recipe import BYTE_FIELDS, CLASSIFIER_OPTIMIZER, MODEL_FIELDS
from scripts.benchmarks.common.memory import PeakMemory
from scripts.studies.classification.data import LANGUAGES, Messages, Rows, draw_rows, load_messages

REFORMER, FULL, BERT = "Reformer", "full attention", "BERT"
"""Local and LSH layers in turn; full layers in the same model; transformers', read by its mean."""
FIRST_BYTE = 2  # ids 0 and 1 are kept for padding and the end


@dataclass(frozen=True)
class Settings:
    """What decides the result of a run, beside its variant and seed."""

    length: int = argument(1024, "Bytes of a row.")
    held_out_rows: int = argument(5, "Rows of each language to test on.")
    max_steps: int = argument(200, "Optimizer steps of a run.")
    per_device_train_batch_size: int = argument(8, "Rows in a step.")
    learning_rate: float = argument(5e-3, "Highest learning rate of this package's models.")
    bert_learning_rate: float = argument(1e-3, "The same of BERT, whose norms stand behind.")
    num_hidden_layers: int = argument(2, "Layers.")
    hidden_size: int = argument(128, "Width of a stream.")
    num_attention_heads: int = argument(2, "Heads.")
    num_hashes: int = argument(2, "Rounds of hashing.")


class BertClassifier(nn.Module):
    """BERT without its first-token pooling: a linear layer reads the mean of all tokens."""

    def __init__(self, config: BertConfig):
        super().__init__()
        self.bert = BertModel(config, add_pooling_layer=False)
        self.classifier = nn.Linear(config.hidden_size, len(config.id2label or {}))

    def forward(self, input_ids: Tensor) -> SequenceClassifierOutput:
        """Logits (batch, labels)."""
        hidden = self.bert(input_ids).last_hidden_state
        return SequenceClassifierOutput(logits=self.classifier(hidden.mean(dim=1)))


def build_model(variant: str, settings: Settings) -> nn.Module:
    """The model of a variant, with the weights of the default generator."""
    common: dict[str, Any] = {
        "vocab_size": 256 + FIRST_BYTE,
        "hidden_size": settings.hidden_size,
        "num_attention_heads": settings.num_attention_heads,
        "num_labels": len(LANGUAGES),
        "hidden_dropout_prob": 0.0,
    }
    if variant == BERT:
        return BertClassifier(
            BertConfig(
                num_hidden_layers=settings.num_hidden_layers,
                intermediate_size=4 * settings.hidden_size,
                max_position_embeddings=settings.length,
                attention_probs_dropout_prob=0.0,
                **common,
            )
        )
    kinds = ["full"] if variant == FULL else ["local", "lsh"]
    recipe = parse_overrides(",".join(f"{k}={v}" for k, v in (MODEL_FIELDS | BYTE_FIELDS).items()))
    return ReformerHFForSequenceClassification(
        ReformerHFConfig(
            attn_layers=[kinds[i % len(kinds)] for i in range(settings.num_hidden_layers)],
            feed_forward_size=4 * settings.hidden_size,
            is_decoder=False,
            num_hashes=settings.num_hashes,
            max_position_embeddings=settings.length,
            activation_budget=0,
            **recipe,
            **common,
        )
    )


def train(variant: str, seed: int, settings: Settings, messages: Messages) -> dict[str, Any]:
    """Train, and classify the held-out rows."""
    set_seed(seed)
    model = build_model(variant, settings).train()
    betas = (0.9, float(CLASSIFIER_OPTIMIZER["adam_beta2"]))
    rate = settings.bert_learning_rate if variant == BERT else settings.learning_rate
    optimizer = make_optimizer(model, rate, betas=betas)
    warmup = min(int(CLASSIFIER_OPTIMIZER["warmup_steps"]), settings.max_steps // 2)
    scheduler = get_scheduler("cosine", optimizer, warmup, settings.max_steps)
    random = np.random.default_rng(seed)
    losses, memory, batch_size = [], PeakMemory(), settings.per_device_train_batch_size
    with memory.phase("training"):
        for _ in tqdm(range(settings.max_steps), f"{variant}, seed {seed}", leave=False):
            rows = draw_rows(messages.train, batch_size, settings.length, random)
            ids, labels = _tensors(rows)
            loss = cross_entropy(model(ids).logits, labels)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
            losses.append(loss.item())
    return {
        "curve": losses,
        "accuracy": accuracy(model, messages.held_out, batch_size),
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
        right += int((model(ids).logits.argmax(dim=-1) == labels).sum())
    return right / len(rows.labels)


def _tensors(rows: Rows) -> tuple[Tensor, Tensor]:
    ids = torch.from_numpy(rows.bytes.astype(np.int64)) + FIRST_BYTE
    return ids, torch.from_numpy(rows.labels)


def answer(request: dict) -> dict:
    """Do the run of a request; see `run_process`."""
    settings = Settings(**request["settings"])
    messages = load_messages(settings.length, settings.held_out_rows, Path(request["cache_dir"]))
    return train(request["variant"], request["seed"], settings, messages)
