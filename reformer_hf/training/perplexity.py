"""How well a causal model predicts documents of any length, in windows that overlap."""

import math
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from reformer_hf.models.modeling_reformer_hf import ReformerHFForCausalLM
from reformer_hf.models.tokenization_reformer_hf import FIRST_BYTE_ID
from reformer_hf.training.data.collator import IGNORE_INDEX
from reformer_hf.training.data.documents import DocumentTokenizer
from reformer_hf.training.data.token_bytes import TokenBytes
from reformer_hf.training.evaluation import Score


class Piece(NamedTuple):
    """A part of a document.

    Attributes:
        ids: its tokens.
        bytes: UTF-8 bytes of its text; those of a document's first token, which nothing predicts,
            are left out, unless that is a special one.
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
    `bits_per_byte` charges all bits to the bytes of the scored text, None if it has none; unknown
    tokens make it too small, since their text is not predicted. `perplexity` is None where it is
    too large for a number.
    """

    bits_per_byte: float | None
    bits_per_token: float
    perplexity: float | None
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
    """Tokenise documents piece by piece.

    What the tokenizer puts in front of a text, such as a beginning of sequence, stands in front of
    each document and is not scored. What it puts behind a text is left out.

    Args:
        texts: pieces of documents, and whether each is the last of its document.
        tokenizer: a fast one.

    Raises:
        ValueError: if it is not.
    """
    if not tokenizer.is_fast:
        raise ValueError(
            f"{type(tokenizer).__name__} does not say which characters a token has: use a fast "
            "tokenizer, which has a tokenizer.json"
        )
    documents, known = DocumentTokenizer(tokenizer), TokenBytes.of(tokenizer)
    begins = True
    for text, ends in texts:
        # Without a warning that it is longer than the model's input: windows are not.
        encoded = documents.of(begins)(
            text, add_special_tokens=False, return_offsets_mapping=True, verbose=False
        )
        ids = np.asarray(encoded["input_ids"], np.int64)
        unpredicted = 0
        unknown = (
            0 if tokenizer.unk_token_id is None else int((ids == tokenizer.unk_token_id).sum())
        )
        has_tokens = len(ids) > 0
        if begins and has_tokens and documents.begin:
            ids = np.concatenate([documents.begin, ids])
        elif begins and has_tokens:
            unpredicted = _first_size(text, ids, encoded["offset_mapping"], known)
        yield Piece(ids, len(text.encode()) - unpredicted, unknown, ends)
        begins = ends or (begins and not has_tokens)


def pieces_of_bytes(contents: Iterable[tuple[bytes, bool]]) -> Iterator[Piece]:
    """Read bytes, which need not be text, as the tokens of `ReformerHFByteTokenizer`.

    Args:
        contents: pieces of documents, and whether each is the last of its document.
    """
    begins = True
    for content, ends in contents:
        ids = np.frombuffer(content, np.uint8).astype(np.int64) + FIRST_BYTE_ID
        yield Piece(ids, len(content) - begins, 0, ends)
        begins = ends


def _first_size(
    text: str, ids: np.ndarray, offsets: list[tuple[int, int]], known: TokenBytes | None
) -> int:
    """The bytes of a text's first token, which may be a part of a character."""
    end = offsets[0][1]
    if known is not None and len(ids) > 1 and offsets[1][0] < end:
        return int(known.sizes[ids[0]])
    return len(text[:end].encode())


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
        bits_per_byte=score.bits_per_byte,
        bits_per_token=nats / math.log(2) / score.tokens,
        perplexity=score.perplexity if math.isfinite(score.perplexity) else None,
        tokens_scored=score.tokens,
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
