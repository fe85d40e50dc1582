"""What a language model knows of rows of tokens: loss, perplexity, bits per byte."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from reformer_hf.models.labels import first_token_labels
from reformer_hf.training.data.collator import IGNORE_INDEX
from reformer_hf.training.data.token_bytes import token_bytes_or_warn


@dataclass(frozen=True)
class Score:
    """What a model knows of some text.

    Attributes:
        loss: nats per predicted token.
        perplexity: the exponential of the loss.
        bits_per_byte: bits of all predicted tokens over the bytes of their text; None where these
            are not known. First tokens of rows and documents are not predicted.
        tokens: predicted tokens.
        bytes: of their text: what the tokens stand for, of which special and unknown ones have
            none; None for tokens that stand for no bytes, as in WordPiece.
    """

    loss: float
    perplexity: float
    bits_per_byte: float | None
    tokens: int
    bytes: int | None

    @classmethod
    def of(cls, nats: float, tokens: int, size: int | None) -> "Score":
        """Make a score of all nats, predicted tokens and bytes of their text."""
        loss = nats / tokens
        bits = nats / math.log(2) / size if size else None
        try:
            perplexity = math.exp(loss)
        except OverflowError:
            perplexity = math.inf
        return cls(loss, perplexity, bits, tokens, size)

    def metrics(self, prefix: str = "eval") -> dict[str, float | int]:
        """The numbers by name, as a Trainer logs them; without what there is not."""
        known = {name: value for name, value in asdict(self).items() if value is not None}
        return {f"{prefix}_{name}": value for name, value in known.items()}


def score_batches(
    model: PreTrainedModel,
    batches: Iterable[Mapping[str, Tensor]],
    tokenizer: PreTrainedTokenizerBase,
    accelerator: Accelerator,
    masked: bool = False,
) -> Score:
    """Score batches in eval mode, each token with the same weight.

    Args:
        model: the same on all processes.
        batches: this process's share, without rows that another one has too; every process has the
            same number of batches.
        tokenizer: tells which bytes the tokens stand for.
        accelerator: adds up what the processes found.
        masked: whether the model is a masked language model, whose labels are not shifted and
            whose bits tell nothing about the bytes of a text.

    Raises:
        ValueError: if no token is predicted.
    """
    known = None if masked else token_bytes_or_warn(tokenizer)
    was_training = model.training
    model.eval()
    nats, tokens, size = 0.0, 0, 0
    with torch.no_grad():
        for batch in batches:
            with accelerator.autocast():
                loss = model(**batch, num_items_in_batch=1).loss
            nats += float(loss)
            targets = batch["labels"] if masked else next_tokens(batch)
            tokens += int((targets != IGNORE_INDEX).sum())
            size += known.count(targets, batch.get("input_ids")) if known is not None else 0
    model.train(was_training)
    totals = torch.tensor([nats, tokens, size], dtype=torch.float64, device=accelerator.device)
    totals: Any = accelerator.reduce(totals, "sum")
    nats, tokens, size = totals.tolist()
    if not tokens:
        asked = "a masked token" if masked else "two tokens of one document"
        raise ValueError(f"no row of the evaluation has {asked}: give longer texts to evaluate on")
    return Score.of(nats, int(tokens), None if known is None else int(size))


def next_tokens(batch: Mapping[str, Tensor]) -> Tensor:
    """What each place of a causal model's rows is asked for, -100 for nothing, (batch, seq)."""
    if "shift_labels" in batch:
        return batch["shift_labels"]
    rows: Any = (batch.get(name) for name in ("attention_mask", "position_ids", "seq_idx"))
    labels = first_token_labels(batch["labels"], *rows, counted=False)
    return torch.nn.functional.pad(labels, (0, 1), value=IGNORE_INDEX)[:, 1:]
