"""What a language model knows of a text: loss, perplexity, bits per byte; and what compressors do.

:func:`score_batches` scores rows on any number of processes, :func:`score_documents` documents of
any length in windows that overlap.
"""

import bz2
import gzip
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor
from tqdm.auto import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from reformer_hf.models.modeling_reformer_hf import ReformerHFForCausalLM
from reformer_hf.models.tokenization_reformer_hf import FIRST_BYTE_ID, ReformerHFByteTokenizer
from reformer_hf.training.data.collator import IGNORE_INDEX


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

    @classmethod
    def of(cls, nats: float, tokens: int, size: int) -> "Score":
        """Make a score of all nats, predicted tokens and bytes of their text."""
        loss = nats / max(tokens, 1)
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
    return Score.of(nats, int(tokens), int(size))


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


def compressor_scores(content: bytes) -> tuple[float, float, float]:
    """Bits per byte of gzip -9 and bz2 -9, headers included, and of a uniform distribution."""
    compressed = (gzip.compress(content, 9, mtime=0), bz2.compress(content, 9), content)
    gzip_9, bz2_9, uniform = (8 * len(code) / len(content) for code in compressed)
    return gzip_9, bz2_9, uniform


class Piece(NamedTuple):
    """A part of a document.

    Attributes:
        ids: its tokens.
        bytes: UTF-8 bytes of its text; those of a document's first token, which nothing predicts,
            are left out.
        unknown: unknown tokens among the ids, whose text is lost.
        ends_document: whether it is the last part.
    """

    ids: np.ndarray
    bytes: int
    unknown: int
    ends_document: bool


class Window(NamedTuple):
    """What the model reads at a time.

    Attributes:
        ids: tokens, at most the context.
        scored: how many of the last ones count; those before are context.
    """

    ids: np.ndarray
    scored: int


@dataclass(frozen=True)
class Perplexity:
    """How well a model predicts documents, and how that was measured.

    Each token of a document is scored once, but for the first, which nothing predicts.
    `bits_per_byte` charges all bits to the bytes of the scored tokens; unknown tokens make it too
    small, since their text is not predicted.
    """

    bits_per_byte: float
    bits_per_token: float
    perplexity: float
    tokens_scored: int
    bytes_scored: int
    unknown_tokens: int
    documents: int
    windows: int
    context_length: int
    stride: int


def tokenize_pieces(
    texts: Iterable[tuple[str, bool]], tokenizer: PreTrainedTokenizerBase
) -> Iterator[Piece]:
    """Tokenise documents piece by piece, without special tokens.

    Args:
        texts: pieces of documents, and whether each is the last of its document.
        tokenizer: a fast one.
    """
    begins = True
    for text, ends in texts:
        # Without a warning that it is longer than the model's input: windows are not.
        encoded = tokenizer(
            text, add_special_tokens=False, return_offsets_mapping=True, verbose=False
        )
        ids = np.asarray(encoded["input_ids"], np.int64)
        size = len(text.encode())
        unpredicted = 0
        if begins and len(ids):
            # The bytes of one character may be several tokens: then each is one byte.
            one_each = len(ids) == size
            unpredicted = 1 if one_each else len(text[: encoded["offset_mapping"][0][1]].encode())
        unknown = tokenizer.unk_token_id
        count = 0 if unknown is None else int((ids == unknown).sum())
        yield Piece(ids, size - unpredicted, count, ends)
        begins = ends or (begins and not len(ids))


def overlapping_windows(pieces: Iterable[Piece], context: int, stride: int) -> Iterator[Window]:
    """Cut documents into windows such that each token but the first of a document is scored once.

    A token has the tokens of its document before it as context, at least `context - stride` of
    them, or all where there are fewer.

    Args:
        pieces: of the documents, in order.
        context: tokens in a window.
        stride: tokens from the start of a window to that of the next.
    """
    tokens, seen = np.empty(0, np.int64), 1
    for piece in pieces:
        tokens = np.concatenate([tokens, piece.ids])
        while len(tokens) >= context:
            yield Window(tokens[:context], context - seen)
            tokens, seen = tokens[stride:], context - stride
        if piece.ends_document:
            if len(tokens) > seen:
                yield Window(tokens, len(tokens) - seen)
            tokens, seen = np.empty(0, np.int64), 1
    if len(tokens) > seen:  # of a document whose end is missing
        yield Window(tokens, len(tokens) - seen)


def score_documents(
    model: PreTrainedModel,
    pieces: Iterable[Piece],
    context: int,
    stride: int,
    batch_size: int = 1,
) -> Perplexity:
    """Measure how well a causal model predicts documents, in eval mode.

    Args:
        model: a causal language model.
        pieces: of the documents.
        context: tokens in a window, from 2 to the model's longest input.
        stride: from 1 to `context - 1`: the smaller, the more context each token has, and the
            longer it takes.
        batch_size: windows at a time.

    Raises:
        ValueError: if context or stride do not fit, or no token can be scored.
    """
    check_windows(context, stride, getattr(model.config, "position_limit", None))
    was_training = model.training
    model.eval()
    nats, tally = 0.0, Counter()
    windows = overlapping_windows(_counted(pieces, tally), context, stride)
    with tqdm(desc="scoring", unit=" tokens") as progress:
        while batch := list(islice(windows, batch_size)):
            scored = sum(window.scored for window in batch)
            nats += scored * float(_mean_loss(model, batch))
            tally.update(tokens=scored, windows=len(batch))
            progress.update(scored)
    model.train(was_training)
    if not tally["tokens"]:
        raise ValueError("no document has two tokens: there is nothing to score")
    score = Score.of(nats, tally["tokens"], tally["bytes"])
    return Perplexity(
        bits_per_byte=score.bits_per_byte or math.nan,
        bits_per_token=nats / math.log(2) / score.tokens,
        perplexity=min(score.perplexity, math.exp(700.0)),
        tokens_scored=score.tokens,
        bytes_scored=score.bytes,
        unknown_tokens=tally["unknown"],
        documents=tally["documents"],
        windows=tally["windows"],
        context_length=context,
        stride=stride,
    )


def check_windows(context: int, stride: int, limit: int | None) -> None:
    """Check the sizes of windows.

    Args:
        context: tokens in a window.
        stride: tokens between the starts of two windows.
        limit: the model's longest input, None if there is no limit.

    Raises:
        ValueError: naming the value and the fix.
    """
    if context < 2 or (limit is not None and context > limit):
        raise ValueError(
            f"context_length={context}: choose at least 2"
            + ("" if limit is None else f" and at most {limit}, the model's longest input")
        )
    if not 1 <= stride < context:
        raise ValueError(
            f"stride={stride} with context_length={context}: choose from 1 to {context - 1}, or "
            "the first token of a window would have no score"
        )


def _counted(pieces: Iterable[Piece], tally: Counter) -> Iterator[Piece]:
    begins = True
    for piece in pieces:
        tally.update(bytes=piece.bytes, unknown=piece.unknown, documents=begins)
        yield piece
        begins = piece.ends_document


@torch.no_grad()
def _mean_loss(model: PreTrainedModel, batch: list[Window]) -> Tensor:
    """The mean loss of the scored tokens of windows, in nats."""
    width = max(len(window.ids) for window in batch)
    ids = torch.zeros(len(batch), width, dtype=torch.long)
    mask, labels = torch.zeros_like(ids), torch.full_like(ids, IGNORE_INDEX)
    for row, window in enumerate(batch):
        length = len(window.ids)
        ids[row, :length] = torch.from_numpy(window.ids)
        mask[row, :length] = 1
        labels[row, length - window.scored : length] = ids[row, length - window.scored : length]
    inputs: dict[str, Any] = {"input_ids": ids, "attention_mask": mask, "labels": labels}
    inputs = {name: tensor.to(model.device) for name, tensor in inputs.items()}
    if isinstance(model, ReformerHFForCausalLM):
        inputs["logits_to_keep"] = 1  # its loss is of all places, whatever is returned
    return model(**inputs).loss
