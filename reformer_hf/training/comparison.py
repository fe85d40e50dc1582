"""A language model's held-out score among what counts and compressors make of the same text."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from datasets import IterableDataset
from transformers import PreTrainedTokenizerBase

from reformer_hf.training.baselines import Baselines
from reformer_hf.training.counts import NGrams
from reformer_hf.training.data.symbols import (
    Symbols,
    byte_symbols,
    pieces,
    spread,
    token_symbols,
)
from reformer_hf.training.data.token_bytes import TokenBytes

MOST_SYMBOLS = 32 << 20
"""Symbols of the training text that are counted; of a longer one an even sample."""

MOST_NGRAMS = 4 << 20
"""Different n-grams at which the sample ends, which bounds the memory to about a GiB."""

BYTE_ORDERS = ("single bytes", "byte pairs", "3-gram", "4-gram", "5-gram")
TOKEN_ORDERS = ("single tokens", "token pairs")

_MEANINGS = {
    "uniform": ("a uniform guess", "it has learned nothing"),
    "single bytes": ("the shares of single bytes", "it has learned nothing of their order"),
    "byte pairs": ("a table of byte pairs", "it has barely begun to learn"),
    "3-gram": ("counts of three bytes", "it knows little more than which byte follows which"),
    "4-gram": ("counts of four bytes", "it has not learned short strings yet"),
    "5-gram": ("counts of five bytes", "it shows nothing beyond short strings"),
    "single tokens": ("the shares of single tokens", "it has learned nothing of their order"),
    "token pairs": ("a table of token pairs", "it has barely begun to learn"),
    "gzip -9": ("gzip -9", "it makes less of repetitions than a compressor"),
    "bz2 -9": ("bz2 -9", "it makes less of repetitions than a compressor"),
}
"""By name, in rising order: what it is, and what it means to be worse."""

_LINES = ("single bytes", "byte pairs", "5-gram", "gzip -9", "bz2 -9", *TOKEN_ORDERS)
"""Those that a plot shows."""


@dataclass(frozen=True)
class Comparison:
    """A model's score and those of its baselines on the same text.

    Attributes:
        score: bits per unit of the model.
        unit: what the bits are of.
        references: bits per unit of each baseline by name.
        scored: units of the held-out text.
        counted: units of the training text that were counted, of which `rows` of how many
            (`of_rows`, None for a stream); empty if there was none.
    """

    score: float
    unit: Literal["byte", "token", "masked token"]
    references: Mapping[str, float]
    scored: int
    counted: Mapping[str, int | None] = field(default_factory=dict)

    @property
    def verdict(self) -> str:
        """What the first baseline that the model does not beat says of it."""
        if not self.references:
            return ""
        for name, (what, meaning) in _MEANINGS.items():
            value = self.references.get(name)
            if value is not None and not self.score < value:
                return f"worse than {what} ({value:.3f}): {meaning}"
        return "better than all of these"

    @property
    def lines(self) -> dict[str, float]:
        """The references that a plot has room for."""
        return {name: value for name, value in self.references.items() if name in _LINES}

    def metrics(self, prefix: str = "eval_") -> dict[str, float]:
        """The references by the names of metrics, such as `eval_byte_pairs_bits_per_byte`."""
        unit = self.unit.replace(" ", "_")
        return {
            f"{prefix}{name.replace('-', '').replace(' ', '_')}_bits_per_{unit}": value
            for name, value in self.references.items()
        }

    def record(self) -> dict[str, Any]:
        """What `run_record.json` holds of it."""
        return {
            "references": dict(self.references),
            "comparison": {
                "score": self.score,
                "unit": self.unit,
                "scored": self.scored,
                "counted": dict(self.counted),
                "verdict": self.verdict,
            },
        }

    def __str__(self) -> str:
        rows = {"this model": self.score, **self.references}
        table = "".join(
            f"  {name:13} {value:.3f}\n" for name, value in sorted(rows.items(), key=_descending)
        )
        return (
            f"Held-out bits per {self.unit} ({self.scored:,} of them){self._counted()}:\n{table}"
            f"This model is {self.verdict}."
        )

    def _counted(self) -> str:
        """Say what the counts are of."""
        if not self.counted:
            return ""
        unit = self.unit.removeprefix("masked ")
        text = f"; counts are of {self.counted['units']:,} {unit}s of the training text"
        rows, of_rows = self.counted["rows"], self.counted["of_rows"]
        if of_rows is None:
            return f"{text}, the first {rows:,} rows of the stream"
        return text if rows == of_rows else f"{text}, {rows:,} of {of_rows:,} rows, evenly spread"


def compare(
    metrics: Mapping[str, float],
    train: Any,
    held_out: Any,
    tokenizer: PreTrainedTokenizerBase,
    alphabet: int,
) -> Comparison:
    """Compare a causal model with n-grams of bytes, gzip and bz2; without bytes, of tokens.

    The bits of tokens without bytes, such as an end of sequence, are charged to the model only.

    Args:
        metrics: of the evaluation, as a Trainer names them.
        train: rows to count, of the training text; None if there are none.
        held_out: the rows of the evaluation.
        tokenizer: tells which bytes the tokens stand for.
        alphabet: size of the model's vocabulary.
    """
    known = TokenBytes.of(tokenizer) if metrics.get("eval_bits_per_byte") else None
    names = BYTE_ORDERS if known else TOKEN_ORDERS
    ngrams = NGrams(256 if known else alphabet, len(names) - 1)

    def read(rows: Sequence[Mapping[str, Any]]) -> Symbols:
        return byte_symbols(rows, known) if known else token_symbols(rows)

    counted = count(ngrams, train, read)
    bits, scored, compressors = np.zeros(len(names)), 0, Baselines()
    for rows in pieces(held_out):
        symbols = read(rows)
        scored += int(symbols.scored.sum())
        if counted:
            bits += ngrams.bits(symbols)
        if known:
            compressors.update(symbols.codes[symbols.scored].astype(np.uint8).tobytes())
    references = {"uniform": math.log2(ngrams.alphabet)}
    if counted:
        references |= dict(zip(names, (bits / scored).tolist(), strict=True))
    if known:
        found = compressors.bits_per_byte()
        references |= {name: found[name] for name in ("gzip -9", "bz2 -9")}
    score = metrics["eval_bits_per_byte"] if known else metrics["eval_loss"] / math.log(2)
    return Comparison(score, "byte" if known else "token", references, scored, counted)


def compare_masked(
    metrics: Mapping[str, float], train: Any, targets: np.ndarray, special: Sequence[int]
) -> Comparison:
    """Compare a masked model with the shares of single tokens in the training text.

    Args:
        metrics: of the evaluation, as a Trainer names them.
        train: rows to count, of the training text; None if there are none.
        targets: how often each token is asked for in the evaluation, (vocabulary,).
        special: ids that are never masked.
    """
    shares = NGrams(len(targets), 0)
    counted = count(shares, train, lambda rows: token_symbols(rows, left_out=special))
    scored, references = int(targets.sum()), {"uniform": math.log2(len(targets))}
    if counted:
        bits = -(targets * np.log2(shares.probabilities(()))).sum()
        references[TOKEN_ORDERS[0]] = float(bits) / scored
    score = metrics["eval_loss"] / math.log(2)
    return Comparison(score, "masked token", references, scored, counted)


def count(
    ngrams: NGrams, train: Any, read: Callable[[Sequence[Mapping[str, Any]]], Symbols]
) -> dict[str, int | None]:
    """Count the n-grams of rows, or of evenly spread ones where there are too many.

    Returns:
        What `counted` of :class:`Comparison` holds.
    """
    if train is None:
        return {}
    units = seen = 0
    for rows in pieces(spread(train)):
        symbols = read(rows)
        ngrams.update(symbols)
        units, seen = units + len(symbols.codes), seen + len(rows)
        if units >= MOST_SYMBOLS or len(ngrams) >= MOST_NGRAMS:
            break
    return {
        "units": units,
        "rows": seen,
        "of_rows": None if isinstance(train, IterableDataset) else len(train),
    }


def _descending(item: tuple[str, float]) -> float:
    return -item[1]
