"""How good predictions of classes and numbers are."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import EvalPrediction

from reformer_hf.training.labels import LabelSpace

IGNORE_INDEX = -100


def choose_predictions(logits: Tensor | tuple, labels: Tensor) -> Tensor:
    """Keep what metrics need of the logits: the best class where there is one per row or token.

    For `preprocess_logits_for_metrics`, so that evaluation does not hold the logits of all tokens.
    """
    scores = logits[0] if isinstance(logits, tuple) else logits
    chosen = not torch.is_floating_point(labels) and scores.shape[-1] > 1
    return scores.argmax(dim=-1) if chosen else scores


def metrics_of(labels: LabelSpace) -> Callable[[EvalPrediction], dict[str, float]]:
    """The function that measures predictions of these labels, for `compute_metrics`."""

    def compute(prediction: EvalPrediction) -> dict[str, float]:
        found: Any = prediction.predictions
        true = np.asarray(prediction.label_ids)
        found = np.asarray(found[0] if isinstance(found, tuple) else found)
        if labels.kind == "regression":
            difference = found.reshape(true.shape) - true
            return {
                "mse": float((difference**2).mean()),
                "mae": float(np.abs(difference).mean()),
            }
        if labels.kind == "multi_label_classification":
            return _of_several(found > 0, true > 0.5)
        counted = true != IGNORE_INDEX
        scores = _of_classes(found[counted], true[counted], len(labels.names))
        if labels.kind == "token" and any(name.startswith("B-") for name in labels.names):
            rows = [
                ([labels.names[n] for n in f[c]], [labels.names[n] for n in t[c]])
                for f, t, c in zip(found, true, counted, strict=True)
            ]
            scores |= _of_entities(rows)
        return scores

    return compute


def _of_classes(found: np.ndarray, true: np.ndarray, count: int) -> dict[str, float]:
    """Accuracy, and the mean F1 over the classes that occur."""
    confusion = np.bincount(true * count + found, minlength=count * count).reshape(count, count)
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
