"""Metrics against scikit-learn, and entities by hand."""

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, f1_score, mean_squared_error
from transformers import EvalPrediction

from reformer_hf.training.data.labels import LabelSpace
from reformer_hf.training.tasks.classification import (
    choose_predictions,
    entity_spans,
    metrics_of,
)

RANDOM = np.random.default_rng(0)


def test_classes_of_rows_and_words():
    names = ("a", "b", "c", "never")
    true, found = RANDOM.integers(0, 3, (2, 5, 8))
    true[:, 6:] = -100
    for kind in ("single_label_classification", "token"):
        metrics = metrics_of(LabelSpace(kind, names))(EvalPrediction(found, true))
        flat = found[:, :6].ravel(), true[:, :6].ravel()
        assert metrics["accuracy"] == pytest.approx(accuracy_score(*flat))
        assert metrics["f1_macro"] == pytest.approx(f1_score(flat[1], flat[0], average="macro"))
        assert "entity_f1" not in metrics


def test_several_classes_at_a_time():
    scores, true = RANDOM.normal(size=(9, 3)), RANDOM.integers(0, 2, (9, 3)).astype(float)
    labels = LabelSpace("multi_label_classification", ("a", "b", "c"))
    metrics = metrics_of(labels)(EvalPrediction(scores, true))
    assert metrics["f1_micro"] == pytest.approx(f1_score(true, scores > 0, average="micro"))
    assert metrics["accuracy"] == pytest.approx(accuracy_score(true, scores > 0))


def test_numbers():
    found, true = RANDOM.normal(size=(9, 1)), RANDOM.normal(size=9)
    metrics = metrics_of(LabelSpace("regression", ()))(EvalPrediction(found, true))
    assert metrics["mse"] == pytest.approx(mean_squared_error(true, found[:, 0]))
    assert metrics["mae"] == pytest.approx(np.abs(found[:, 0] - true).mean())


def test_entities():
    names = ("O", "B-X", "I-X", "B-Y")
    true = np.array([[1, 2, 0, 3, -100], [0, 1, 2, 2, 0]])
    found = np.array([[1, 2, 0, 1, 3], [2, 1, 2, 0, 0]])
    metrics = metrics_of(LabelSpace("token", names))(EvalPrediction(found, true))
    # Right: the first X. Proposed besides: X for Y, a lone I-X, a shorter X. Wanted: three.
    assert metrics["entity_precision"] == pytest.approx(1 / 4)
    assert metrics["entity_recall"] == pytest.approx(1 / 3)
    assert metrics["entity_f1"] == pytest.approx(2 / 7)


def test_spans_end_where_the_kind_changes():
    assert entity_spans(["B-X", "B-X", "I-X", "I-Y"]) == {("X", 0, 1), ("X", 1, 3), ("Y", 3, 4)}
    assert entity_spans(["O"]) == entity_spans([]) == set()


def test_only_what_metrics_need_is_kept():
    logits = torch.randn(2, 5, 4)
    best = choose_predictions((logits, None), torch.zeros(2, 5, dtype=torch.long))
    assert torch.equal(best, logits.argmax(dim=-1))
    for scores, labels in ((torch.randn(2, 3), torch.zeros(2, 3)), (torch.randn(2, 1),) * 2):
        assert choose_predictions(scores, labels) is scores
