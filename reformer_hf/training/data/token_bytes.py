"""The bytes of text that each token stands for: with them bits per token become bits per byte."""

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase
from transformers.utils import logging

from reformer_hf.models.files.sentencepiece_model import SPACE
from reformer_hf.models.tokenization_reformer_hf import BYTE_VOCABULARY, FIRST_BYTE_ID
from reformer_hf.training.data.collator import IGNORE_INDEX

logger = logging.get_logger(__name__)

_BYTES = {s: i - FIRST_BYTE_ID for s, i in BYTE_VOCABULARY.items() if i >= FIRST_BYTE_ID}
_ONE_BYTE = re.compile("<0x([0-9A-F]{2})>")
_ADDED = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")
_PROBE = "Ab e\u0301 \ufb01\tx  y\r\n\n Z "  # of what normalisers change


@dataclass(frozen=True)
class TokenBytes:
    """What the tokens of a vocabulary stand for.

    It is known by what the tokenizer does and not by its class, which is another one after loading:
    its tokens are written in the alphabet of byte-level vocabularies, or with SentencePiece's sign
    for a space.

    Attributes:
        contents: bytes by token id. Tokens that are added to a text, such as the end of sequence,
            have none; so has the unknown token, whose text is lost.
        begin: id of the beginning of sequence, if there is one.
        adds_space: whether a text gets a space in front, which is no byte of it.
        keeps_text: whether no normaliser changes the text.
    """

    contents: list[bytes]
    begin: int | None
    adds_space: bool
    keeps_text: bool

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase) -> "TokenBytes | None":
        """Read a tokenizer; None if its tokens do not stand for bytes, as in WordPiece."""
        backend: Any = getattr(tokenizer, "backend_tokenizer", None)
        if backend is None:
            return None
        decoders, begin = set(_types(backend.decoder)), tokenizer.bos_token_id
        if not decoders & {"ByteLevel", "Metaspace", "Replace"}:
            return None
        contents = [b""] * (1 + max(backend.get_vocab().values(), default=-1))
        for token, index in backend.get_vocab(with_added_tokens=False).items():
            contents[index] = _content(token, decoders)
        for index, token in backend.get_added_tokens_decoder().items():
            contents[index] = token.content.encode()
        for index in (getattr(tokenizer, f"{name}_token_id") for name in _ADDED):
            if index is not None and index < len(contents):
                contents[index] = b""
        return cls(
            contents,
            begin if isinstance(begin, int) else None,
            adds_space=_keep(backend, "A", decoders) == b" A",
            keeps_text=_keep(backend, _PROBE, decoders).removeprefix(b" ") == _PROBE.encode(),
        )

    @cached_property
    def sizes(self) -> Tensor:
        """Number of bytes by token id."""
        return torch.tensor([len(content) for content in self.contents])

    @cached_property
    def joined(self) -> np.ndarray:
        """The bytes of all tokens of the vocabulary side by side, (bytes,)."""
        return np.frombuffer(b"".join(self.contents), np.uint8)

    def text(self, ids: Iterable[int]) -> bytes:
        """The bytes of tokens side by side."""
        return b"".join(self.contents[index] for index in ids)

    def count(self, targets: Tensor, inputs: Tensor | None = None) -> int:
        """Count the bytes of text of tokens that are predicted.

        Args:
            targets: token ids of any shape, -100 for none.
            inputs: the token before each, to leave out the space behind a beginning of sequence.
        """
        targets = targets.cpu()
        sizes = self.sizes[targets.clamp(0, len(self.contents) - 1)]
        if self.adds_space and self.begin is not None and inputs is not None:
            sizes = sizes - ((inputs.cpu() == self.begin) & (sizes > 0)).long()
        return int(sizes[targets != IGNORE_INDEX].sum())


def token_bytes_or_warn(tokenizer: PreTrainedTokenizerBase) -> TokenBytes | None:
    """Read a tokenizer, and say what bits per byte are then worth."""
    known, advice = TokenBytes.of(tokenizer), "scripts/evaluate_perplexity.py counts the text's own"
    name = type(tokenizer).__name__
    if known is None:
        logger.warning_once(
            f"{name}: its tokens do not stand for bytes, so there are no bits per byte; {advice}"
        )
    elif not known.keeps_text:
        logger.warning_once(
            f"{name}: its normaliser changes texts, so bits per byte are for the bytes of the text "
            f"as it keeps it; {advice}"
        )
    return known


def tokens_are_bytes(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Say whether each token is a byte of the text, but for special ones."""
    known = TokenBytes.of(tokenizer)
    return known is not None and set(known.sizes.tolist()) <= {0, 1}


def _content(token: str, decoders: set[str]) -> bytes:
    if "ByteLevel" in decoders:
        return (
            bytes(map(_BYTES.__getitem__, token)) if set(token) <= set(_BYTES) else token.encode()
        )
    byte = _ONE_BYTE.fullmatch(token) if "ByteFallback" in decoders else None
    return bytes([int(byte[1], 16)]) if byte else token.replace(SPACE, " ").encode()


def _types(part: Any) -> Iterator[str]:
    """Names of the kinds in a part of a backend, those inside it too."""
    waiting = [] if part is None else [json.loads(part.__getstate__())]
    while waiting:
        settings = waiting.pop()
        yield settings["type"]
        waiting += settings.get("decoders", [])


def _keep(backend: Any, text: str, decoders: set[str]) -> bytes:
    """The bytes of a text that are left when it is cut into words."""
    if backend.normalizer is not None:
        text = backend.normalizer.normalize_str(text)
    words = [text]
    if backend.pre_tokenizer is not None:
        words = [word for word, _ in backend.pre_tokenizer.pre_tokenize_str(text)]
    return b"".join(_content(word, decoders) for word in words)
