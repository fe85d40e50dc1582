"""Documents that are read and tokenised piece by piece, and give the tokens of the whole.

Or nearly so: pieces are cut before a space between two words, where vocabularies cut themselves;
only where there is none a line, or a word, is cut.
"""

import copy
import json
from collections.abc import Iterator, Sequence
from typing import Any, TextIO

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase

BEGINS_DOCUMENT = "begins_document"
"""Column that says whether a piece of text is the first of its document."""

ENDS_DOCUMENT = "ends_document"
"""Column that says whether it is the last."""

_PIECE = 1 << 14  # characters; tokenizers take a hundred bytes for each


def read_document(file: TextIO, keep_linebreaks: bool = True) -> Iterator[dict[str, Any]]:
    """Read a text file in pieces that are not empty.

    Args:
        file: opened with `newline=""`, so that its line ends stay.
        keep_linebreaks: whether they are text.

    Yields:
        `text`, and whether it begins and whether it ends the document.
    """
    begins, waiting = True, ""
    dropped = {} if keep_linebreaks else {ord("\r"): None, ord("\n"): None}
    for piece in _cut(file):
        text = piece.translate(dropped)
        if text and waiting:
            yield {"text": waiting, BEGINS_DOCUMENT: begins, ENDS_DOCUMENT: False}
            begins = False
        waiting = text or waiting
    if waiting:
        yield {"text": waiting, BEGINS_DOCUMENT: begins, ENDS_DOCUMENT: True}


def _cut(file: TextIO) -> Iterator[str]:
    rest = ""
    while len(read := file.read(_PIECE)) == _PIECE:
        text = rest + read
        place = _place_to_cut(text)
        yield text[:place]
        rest = text[place:]
    yield rest + read


def _place_to_cut(text: str) -> int:
    """The last space between two words, or else the end of the last line, or of the text."""
    place = text.rfind(" ", 1, len(text) - 1)
    while place > 0 and (text[place - 1].isspace() or text[place + 1].isspace()):
        place = text.rfind(" ", 1, place)
    return place if place > 0 else text.rfind("\n") + 1 or len(text)


class DocumentTokenizer:
    """Tokenises pieces of documents such that a document gets its special tokens once.

    What a tokenizer adds to the beginning of a text, such as a space or a beginning of sequence,
    stands at the beginning of the document; what it adds to the end stands at the end.

    Args:
        tokenizer: any.

    Attributes:
        begin: ids of the special tokens in front of a document.
        end: ids of those behind it, with the end-of-sequence token if there is one.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase):
        self._starting, self._continuing = tokenizer, _without_prefix(tokenizer)
        self.begin, self.end = _special_ids(tokenizer)
        eos = tokenizer.eos_token_id
        if eos is not None and eos not in self.end:
            self.end = [*self.end, eos]

    def of(self, begins: bool) -> PreTrainedTokenizerBase:
        """The tokenizer of pieces that begin a document, or of those that do not."""
        return self._starting if begins else self._continuing

    def __call__(
        self, texts: Sequence[str], begins: Sequence[bool], ends: Sequence[bool]
    ) -> list[list[int]]:
        """Tokenise pieces; an empty document has no token at all.

        Args:
            texts: the pieces.
            begins: whether each is the first of its document.
            ends: whether each is the last.
        """
        found: list[list[int]] = [[] for _ in texts]
        for flag in (True, False):
            chosen = [index for index, begin in enumerate(begins) if bool(begin) == flag]
            if chosen:
                # Without a warning that a document is longer than the model's input: it is cut.
                options: dict[str, Any] = {"add_special_tokens": False, "verbose": False}
                all_ids = self.of(flag)([texts[index] for index in chosen], **options)["input_ids"]
                for index, ids in zip(chosen, all_ids, strict=True):
                    found[index] = list(ids)
        for ids, text, begin, end in zip(found, texts, begins, ends, strict=True):
            if text and end and ids[-len(self.end) :] != self.end:
                ids += self.end
            if text and begin and ids[: len(self.begin)] != self.begin:
                ids[:0] = self.begin
        return found


def _special_ids(tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[int]]:
    """What the tokenizer puts in front of a text, and what behind it."""
    whole = list(tokenizer("a")["input_ids"])
    text = list(tokenizer("a", add_special_tokens=False)["input_ids"])
    for start in range(len(whole) - len(text) + 1):
        if text and whole[start : start + len(text)] == text:
            return whole[:start], whole[start + len(text) :]
    return [], []


def _without_prefix(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """A tokenizer that puts no space in front of a text; the same one if it never does."""
    backend: Any = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return tokenizer
    settings = json.loads(backend.to_str())
    parts = {name: _never_prepend(settings[name]) for name in ("normalizer", "pre_tokenizer")}
    if all(settings[name] == part for name, part in parts.items()):
        return tokenizer
    continuing: Any = copy.deepcopy(tokenizer)
    continuing._tokenizer = Tokenizer.from_str(json.dumps(settings | parts))
    continuing._tokenizer.encode_special_tokens = backend.encode_special_tokens
    return continuing


def _never_prepend(part: Any) -> Any:
    """The settings of a part of a backend, without what adds to the beginning of a text."""
    if part is None or part["type"] == "Prepend":
        return None
    changes: dict[str, Any] = {"prepend_scheme": "never", "add_prefix_space": False}
    part = part | {name: value for name, value in changes.items() if name in part}
    for name in ("normalizers", "pretokenizers"):
        if name in part:
            part[name] = [step for step in map(_never_prepend, part[name]) if step is not None]
    return part
