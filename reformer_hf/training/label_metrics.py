"""What predicted labels are worth: metrics for the Trainer, and a report on each class."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from transformers import EvalPrediction

from reformer_hf.training.data.collator import IGNORE_INDEX
from reformer_hf.training.data.labels import LabelSpace
from reformer_hf.training.tables import aligned

CLASS_SCORES = "class_scores.csv"
CONFUSION = "confusion_matrix.csv"
SHOWN = 12
"""Classes of which the report is printed; of more it is only written."""


class LabelMetrics:
    """Measures predictions of labels, for `compute_metrics`.

    Args:
        labels: what they are.

    Attributes:
        confusion: rows or tokens of the last predictions by true and by found class, (classes,
            classes); with several classes at a time (classes, 2, 2), by whether the class is true
            and found; None of numbers.
    """

    def __init__(self, labels: LabelSpace):
        self.labels = labels
        self.confusion: np.ndarray | None = None

    @property
    def deciding(self) -> str:
        """The metric that tells which of two classifiers is better."""
        if self.labels.kind == "regression":
            return "mse"
        if self.labels.kind == "multi_label_classification":
            return "f1_micro"
        return "entity_f1" if self._has_entities else "accuracy"

    @property
    def _has_entities(self) -> bool:
        names = self.labels.names
        return self.labels.kind == "token" and any(name.startswith("B-") for name in names)

    def __call__(self, prediction: EvalPrediction) -> dict[str, float]:
        """Measure: the classes that were found, or their scores where there may be several."""
        found: Any = prediction.predictions
        true = np.asarray(prediction.label_ids)
        found = np.asarray(found[0] if isinstance(found, tuple) else found)
        names = self.labels.names
        if self.labels.kind == "regression":
            difference = found.reshape(true.shape) - true
            return {"mse": float((difference**2).mean()), "mae": float(np.abs(difference).mean())}
        if self.labels.kind == "multi_label_classification":
            found, true = found > 0, true > 0.5
            self.confusion = np.stack(
                [count_confusion(f, t, 2) for f, t in zip(found.T, true.T, strict=True)]
            )
            return _of_several(found, true)
        counted = true != IGNORE_INDEX
        self.confusion = count_confusion(found[counted], true[counted], len(names))
        scores = _of_classes(self.confusion)
        if self._has_entities:
            rows = [
                ([names[n] for n in f[c]], [names[n] for n in t[c]])
                for f, t, c in zip(found, true, counted, strict=True)
            ]
            scores |= _of_entities(rows)
        return scores


def count_confusion(found: np.ndarray, true: np.ndarray, count: int) -> np.ndarray:
    """Count pairs of a true and a found class, (classes, classes)."""
    places = true.astype(np.int64) * count + found
    return np.bincount(places, minlength=count * count).reshape(count, count)


def _of_classes(confusion: np.ndarray) -> dict[str, float]:
    """Accuracy, and the mean F1 over the classes that occur."""
    right, seen = confusion.diagonal(), confusion.sum(axis=0) + confusion.sum(axis=1)
    occurring = seen > 0
    return {
        "accuracy": float(right.sum() / max(1, confusion.sum())),
        "f1_macro": float((2 * right[occurring] / seen[occurring]).mean()),
    }


def _of_several(found: np.ndarray, true: np.ndarray) -> dict[str, float]:
    """F1 over all decisions, and the share of rows in which all are right."""
    both, all_ = (found & true).sum(), found.sum() + true.sum()
    return {
        "f1_micro": float(2 * both / max(1, all_)),
        "accuracy": float((found == true).all(axis=-1).mean()),
    }


def _of_entities(rows: Sequence[tuple[list[str], list[str]]]) -> dict[str, float]:
    """Precision, recall and F1 of whole entities, in place and kind."""
    right = proposed = wanted = 0
    for found, true in rows:
        found_spans, true_spans = entity_spans(found), entity_spans(true)
        right += len(found_spans & true_spans)
        proposed, wanted = proposed + len(found_spans), wanted + len(true_spans)
    return {
        "entity_precision": right / max(1, proposed),
        "entity_recall": right / max(1, wanted),
        "entity_f1": 2 * right / max(1, proposed + wanted),
    }


def entity_spans(tags: Sequence[str]) -> set[tuple[str, int, int]]:
    """Kind, first place and place behind the last one of each entity in IOB2 tags.

    An I- tag that continues no entity of its kind begins one, as in the CoNLL evaluation.

    >>> sorted(entity_spans(["B-X", "I-X", "O", "I-Y", "B-Y"]))
    [('X', 0, 2), ('Y', 3, 4), ('Y', 4, 5)]
    """
    spans, kind, begin = set(), None, 0
    for place, tag in enumerate([*tags, "O"]):
        prefix, _, name = tag.partition("-")
        continues = prefix == "I" and name == kind
        if kind is not None and not continues:
            spans.add((kind, begin, place))
        if not continues:
            kind, begin = (name, place) if prefix in ("B", "I") else (None, place)
    return spans


def class_scores(confusion: np.ndarray) -> list[dict[str, float]]:
    """Precision, recall, F1 and support of each class; 0 where nothing was found or true.

    Args:
        confusion: of :class:`LabelMetrics`.
    """
    if confusion.ndim == 3:
        right, found, true = confusion[:, 1, 1], confusion[:, :, 1].sum(1), confusion[:, 1].sum(1)
    else:
        right, found, true = confusion.diagonal(), confusion.sum(axis=0), confusion.sum(axis=1)
    return [
        {
            "precision": float(r / max(1, f)),
            "recall": float(r / max(1, t)),
            "f1": float(2 * r / max(1, f + t)),
            "support": int(t),
        }
        for r, f, t in zip(right, found, true, strict=True)
    ]


def report_classes(folder: Path, names: Sequence[str], confusion: np.ndarray) -> None:
    """Write the scores of each class and the confusion matrix as CSV; print them if they are few.

    Args:
        folder: for `class_scores.csv` and, where a row has one class, `confusion_matrix.csv`.
        names: of the classes.
        confusion: of :class:`LabelMetrics`.
    """
    scores = class_scores(confusion)
    table = [["class", *scores[0]]]
    table += [[name, *each.values()] for name, each in zip(names, scores, strict=True)]
    _write(folder / CLASS_SCORES, table)
    few = len(names) <= SHOWN
    if few:
        print("\n" + aligned(table))
    if confusion.ndim == 2:
        matrix = [["true/found", *names]]
        matrix += [[name, *row] for name, row in zip(names, confusion.tolist(), strict=True)]
        _write(folder / CONFUSION, matrix)
        if few:
            print("\n" + aligned(matrix))


def _write(path: Path, rows: Sequence[Sequence[Any]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
