"""What simple methods reach on labelled rows: the most frequent label, and counts."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from datasets import Dataset
from transformers import EvalPrediction

from reformer_hf.training.data.collator import IGNORE_INDEX
from reformer_hf.training.data.labelled import ClassificationDataArguments, choose_columns
from reformer_hf.training.data.labelled_tokens import join_texts, spread_labels
from reformer_hf.training.data.labels import LabelSpace
from reformer_hf.training.label_metrics import LabelMetrics
from reformer_hf.training.naive_bayes import BytePairBayes
from reformer_hf.training.references import NOTHING, Reference

SAMPLE_BYTES = 32 << 20
"""Of the training data that are counted."""

_READ = 1000  # rows at a time
_SCORED = 64


def label_references(
    labels: LabelSpace,
    arguments: ClassificationDataArguments,
    rows: Mapping[str, Dataset],
    tokens: Mapping[str, Dataset],
) -> list[Reference]:
    """Score simple methods on the validation rows, as a classifier is scored.

    Numbers are guessed to be their mean. Texts are guessed to have the most frequent class, or each
    label that most of them have, or what naive Bayes says of their byte pairs. Words are guessed to
    have the most frequent label, of all or of the same word.

    Args:
        labels: what the labels mean.
        arguments: which columns there are.
        rows: `train` and `validation`, texts or words with labels.
        tokens: the same rows tokenised, by `tokenize_rows`.
    """
    if labels.kind == "token":
        return _word_references(labels, arguments, rows, tokens)
    given, true = (
        np.asarray(tokens[split].with_format("numpy")["labels"][:])
        for split in ("train", "validation")
    )

    def score(name: str, guess: Any, *lesson: str, **size: float) -> Reference:
        found = np.broadcast_to(guess, true.shape)
        scores = LabelMetrics(labels)(EvalPrediction(found, true))
        return Reference(name, {**scores, **size}, *lesson)

    if labels.kind == "regression":
        return [score("mean", given.mean(), NOTHING)]
    chosen, size = draw_rows(rows["train"], _texts_of(arguments, rows["train"]))
    several = labels.kind == "multi_label_classification"
    belongs = given[chosen] > 0.5 if several else given[chosen, None] == range(len(labels.names))
    train = [text for batch in _read_texts(arguments, rows["train"], chosen) for text in batch]
    bayes = BytePairBayes(train, belongs, several)
    held_out = _read_texts(arguments, rows["validation"])
    scores = np.concatenate([bayes.scores(batch) for batch in held_out])
    sample = {"train_samples": len(chosen), "train_bytes": size}
    naive_bayes = scores if several else scores.argmax(axis=1)
    if several:
        constant = score("majority of each label", given.mean(axis=0) - 0.5, NOTHING)
    else:
        constant = score("majority class", np.bincount(given).argmax(), NOTHING)
    return [constant, score("naive Bayes on byte pairs", naive_bayes, **sample)]


def draw_rows(
    rows: Dataset, columns: Sequence[str], limit: int = SAMPLE_BYTES
) -> tuple[np.ndarray, int]:
    """Choose rows from all over until their text is long enough, or all; the same each time.

    Args:
        rows: to choose from.
        columns: of text, or of lists of words.
        limit: bytes of text.

    Returns:
        Their numbers, in order, and the bytes of their text.
    """
    order, texts = np.random.default_rng(0).permutation(len(rows)), rows.select_columns([*columns])
    size = count = 0
    for first in range(0, len(order), _READ):
        batch: Any = texts[order[first : first + _READ].tolist()]
        for values in zip(*batch.values(), strict=True):
            if size >= limit:
                return np.sort(order[:count]), size
            size, count = size + sum(map(_size, values)), count + 1
    return np.sort(order), size


def _size(value: str | list[str]) -> int:
    return len(value.encode()) if isinstance(value, str) else sum(map(_size, value))


def _texts_of(arguments: ClassificationDataArguments, rows: Dataset) -> list[str]:
    return choose_columns(arguments, rows.column_names)[0]


def _read_texts(
    arguments: ClassificationDataArguments, rows: Dataset, chosen: np.ndarray | None = None
) -> Iterator[list[bytes]]:
    columns = _texts_of(arguments, rows)
    texts = rows.select_columns(columns)
    numbers = np.arange(len(rows)) if chosen is None else chosen
    for first in range(0, len(numbers), _SCORED):
        batch: Any = texts[numbers[first : first + _SCORED].tolist()]
        joined = join_texts(batch, columns, arguments.text_column_delimiter)
        yield [text.encode()[:SAMPLE_BYTES] for text in joined]


def _word_references(
    labels: LabelSpace,
    arguments: ClassificationDataArguments,
    rows: Mapping[str, Dataset],
    tokens: Mapping[str, Dataset],
) -> list[Reference]:
    (column,), label = choose_columns(arguments, rows["train"].column_names)
    chosen, size = draw_rows(rows["train"], [column])
    counts: Counter[tuple[str, int]] = Counter()
    row: Any
    for row in rows["train"].select(chosen):
        counts.update(zip(row[column], labels.encode(row[label]), strict=True))
    overall: Counter[int] = Counter()
    best: dict[str, tuple[int, int]] = {}  # of equally frequent ones the first
    for (word, number), count in counts.items():
        overall[number] += count
        best[word] = max(best.get(word, (0, 0)), (count, -number))
    most = max(overall, key=lambda number: (overall[number], -number), default=0)

    def score(name: str, guess: Callable[[str], int], *lesson: str, **size: float) -> Reference:
        found, true = [], []
        held_out: Any = zip(rows["validation"], tokens["validation"], strict=True)
        for row, known in held_out:
            owners, numbers = (
                (known["words"], known["word_count"]),
                [guess(word) for word in row[column]],
            )
            spread = spread_labels(*owners, numbers, arguments.label_all_tokens, labels.names)
            pairs = [(f, t) for f, t in zip(spread, known["labels"], strict=True) if t >= 0]
            found.append([f for f, _ in pairs])
            true.append([t for _, t in pairs])
        scores = LabelMetrics(labels)(EvalPrediction(_padded(found), _padded(true)))
        return Reference(name, {**scores, **size}, *lesson)

    sample = {"train_samples": len(chosen), "train_bytes": size}
    return [
        score("most frequent label", lambda word: most, NOTHING, **sample),
        score(
            "most frequent label of each word",
            lambda word: -best[word][1] if word in best else most,
            **sample,
        ),
    ]


def _padded(rows: Sequence[Sequence[int]]) -> np.ndarray:
    padded = np.full((len(rows), max(map(len, rows))), IGNORE_INDEX, np.int32)
    for place, row in enumerate(rows):
        padded[place, : len(row)] = row
    return padded
