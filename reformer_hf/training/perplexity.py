"""Bits per token and per byte of documents of any length, in windows that overlap."""

import math
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from reformer_hf.models.modeling_reformer_hf import ReformerHFForCausalLM

IGNORE_INDEX = -100


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
        for batch in _batches(windows, batch_size):
            scored = sum(window.scored for window in batch)
            nats += scored * float(_mean_loss(model, batch))
            tally.update(tokens=scored, windows=len(batch))
            progress.update(scored)
    model.train(was_training)
    if not tally["tokens"]:
        raise ValueError("no document has two tokens: there is nothing to score")
    bits = nats / math.log(2)
    return Perplexity(
        bits_per_byte=bits / tally["bytes"],
        bits_per_token=bits / tally["tokens"],
        perplexity=math.exp(min(nats / tally["tokens"], 700.0)),
        tokens_scored=tally["tokens"],
        bytes_scored=tally["bytes"],
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


def _batches(windows: Iterator[Window], size: int) -> Iterator[list[Window]]:
    batch = []
    for window in windows:
        batch.append(window)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


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
