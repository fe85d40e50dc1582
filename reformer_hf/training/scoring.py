"""Loss, perplexity and bits per byte of a language model on any number of processes."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from reformer_hf.models.tokenization_reformer_hf import FIRST_BYTE_ID, ReformerHFByteTokenizer
from reformer_hf.training.collator import IGNORE_INDEX


@dataclass(frozen=True)
class Score:
    """What a model knows of some text.

    Attributes:
        loss: nats per predicted token.
        perplexity: the exponential of the loss.
        bits_per_byte: bits of all predicted tokens over the bytes of their text, in UTF-8; None
            where there is no text. First tokens of rows and documents are not predicted.
        tokens: predicted tokens.
        bytes: of their text.
    """

    loss: float
    perplexity: float
    bits_per_byte: float | None
    tokens: int
    bytes: int

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
        tokenizer: tells how many bytes the tokens stand for.
        accelerator: adds up what the processes found.
        masked: whether the model is a masked language model, whose labels are not shifted and
            whose bits tell nothing about the bytes of a text.
    """
    was_training = model.training
    model.eval()
    nats, tokens, size = 0.0, 0, 0
    with torch.no_grad():
        for batch in batches:
            with accelerator.autocast():
                loss = model(**batch, num_items_in_batch=1).loss
            nats += float(loss)
            targets = batch["labels"] if masked else batch["labels"][:, 1:]
            tokens += int((targets != IGNORE_INDEX).sum())
            if masked:
                continue
            size += sum(map(lambda row: _text_size(row, tokenizer), batch["labels"].tolist()))
    model.train(was_training)
    totals = torch.tensor([nats, tokens, size], dtype=torch.float64, device=accelerator.device)
    totals: Any = accelerator.reduce(totals, "sum")
    nats, tokens, size = totals.tolist()
    loss = nats / max(tokens, 1)
    try:
        perplexity = math.exp(loss)
    except OverflowError:
        perplexity = math.inf
    bits = nats / math.log(2) / size if size else None
    return Score(loss, perplexity, bits, int(tokens), int(size))


def _text_size(labels: list[int], tokenizer: PreTrainedTokenizerBase) -> int:
    """Count the bytes of the tokens that a row predicts, document by document."""
    if isinstance(tokenizer, ReformerHFByteTokenizer):
        # Decoded, a byte that is no UTF-8 would be a replacement character, which has three.
        return sum(FIRST_BYTE_ID <= label < FIRST_BYTE_ID + 256 for label in labels[1:])
    size, document = 0, []
    for label in [*labels[1:], IGNORE_INDEX]:
        if label != IGNORE_INDEX:
            document.append(label)
        elif document:
            text = tokenizer.decode(document, skip_special_tokens=True)
            size += len(text.encode("utf-8", "surrogatepass"))  # type: ignore[union-attr]
            document = []
    return size
