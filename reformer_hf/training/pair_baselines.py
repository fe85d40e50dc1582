"""What translating without a model reaches: one target for all, and copies of the sources."""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from datasets import Dataset

from reformer_hf.training.label_baselines import draw_rows
from reformer_hf.training.references import NOTHING, Reference

SAMPLE_ROWS = 1 << 20
"""Targets whose tokens are counted."""


def pair_references(
    score: Callable[[list[str], list[str]], dict[str, float]],
    train: Dataset,
    sources: Sequence[str],
    targets: list[str],
) -> list[Reference]:
    """Score the most frequent target and copies of the sources as if they were translations.

    Args:
        score: metrics of translations and references.
        train: pairs with a column `target`.
        sources: of the validation pairs.
        targets: of the validation pairs.
    """
    chosen, size = draw_rows(train, ["target"])
    counted: Any = Counter(train.select(chosen)["target"])
    ((common, _),) = counted.most_common(1)
    sample = {"train_samples": len(chosen), "train_bytes": size}
    constant = score([_on_one_line(common)] * len(targets), targets)
    copied = score([_on_one_line(text) for text in sources], targets)
    return [
        Reference("most frequent target", constant | sample, NOTHING),
        Reference("copies of the sources", copied, "copying does as well"),
    ]


def _on_one_line(text: str) -> str:
    return " ".join(text.split())


def token_reference(train: Dataset, held_out: Dataset, vocab_size: int) -> Reference:
    """Measure the loss of guessing tokens of targets by their counts in training, each plus one.

    Args:
        train: rows with `labels`.
        held_out: the same, to be measured.
        vocab_size: how many tokens there are.
    """
    rows = range(0, len(train), -(-len(train) // SAMPLE_ROWS))
    counts = 1 + _count(train.select(rows), vocab_size)
    seen = _count(held_out, vocab_size)
    loss = -(seen * np.log(counts / counts.sum())).sum() / seen.sum()
    return Reference("tokens", {"loss": float(loss), "train_samples": len(rows)})


def _count(rows: Dataset, vocab_size: int) -> np.ndarray:
    counts = np.zeros(vocab_size, np.int64)
    batch: Any
    for batch in rows.select_columns(["labels"]).iter(1000):
        counts += np.bincount(np.concatenate(batch["labels"]), minlength=vocab_size)
    return counts
