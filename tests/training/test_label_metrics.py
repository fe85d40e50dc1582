"""Metrics and class reports against scikit-learn, and entities by hand."""

import csv

import numpy as np
import pytest
from sklearn.metrics import (
    accuracy_score,
    confusion_matrix,
    f1_score,
    mean_squared_error,
    multilabel_confusion_matrix,
    precision_recall_fscore_support,
)
from transformers import EvalPrediction

from reformer_hf.training.data.labels import LabelSpace
from reformer_hf.training.label_metrics import (
    LabelMetrics,
    class_scores,
    entity_spans,
    report_classes,
)

RANDOM = np.random.default_rng(0)


def test_classes_of_rows_and_words():
    names = ("a", "b", "c", "never")
    true, found = RANDOM.integers(0, 3, (2, 5, 8))
    true[:, 6:] = -100
    for kind in ("single_label_classification", "token"):
        metrics = LabelMetrics(LabelSpace(kind, names))(EvalPrediction(found, true))
        flat = found[:, :6].ravel(), true[:, :6].ravel()
        assert metrics["accuracy"] == pytest.approx(accuracy_score(*flat))
        assert metrics["f1_macro"] == pytest.approx(f1_score(flat[1], flat[0], average="macro"))
        assert "entity_f1" not in metrics


def test_several_classes_at_a_time():
    scores, true = RANDOM.normal(size=(9, 3)), RANDOM.integers(0, 2, (9, 3)).astype(float)
    labels = LabelSpace("multi_label_classification", ("a", "b", "c"))
    metrics = LabelMetrics(labels)(EvalPrediction(scores, true))
    assert metrics["f1_micro"] == pytest.approx(f1_score(true, scores > 0, average="micro"))
    assert metrics["accuracy"] == pytest.approx(accuracy_score(true, scores > 0))


def test_numbers():
    found, true = RANDOM.normal(size=(9, 1)), RANDOM.normal(size=9)
    metrics = LabelMetrics(LabelSpace("regression", ()))(EvalPrediction(found, true))
    assert metrics["mse"] == pytest.approx(mean_squared_error(true, found[:, 0]))
    assert metrics["mae"] == pytest.approx(np.abs(found[:, 0] - true).mean())


def test_entities():
    names = ("O", "B-X", "I-X", "B-Y")
    true = np.array([[1, 2, 0, 3, -100], [0, 1, 2, 2, 0]])
    found = np.array([[1, 2, 0, 1, 3], [2, 1, 2, 0, 0]])
    metrics = LabelMetrics(LabelSpace("token", names))(EvalPrediction(found, true))
    # Right: the first X. Proposed besides: X for Y, a lone I-X, a shorter X. Wanted: three.
    assert metrics["entity_precision"] == pytest.approx(1 / 4)
    assert metrics["entity_recall"] == pytest.approx(1 / 3)
    assert metrics["entity_f1"] == pytest.approx(2 / 7)


def test_spans_end_where_the_kind_changes():
    assert entity_spans(["B-X", "B-X", "I-X", "I-Y"]) == {("X", 0, 1), ("X", 1, 3), ("Y", 3, 4)}
    assert entity_spans(["O"]) == entity_spans([]) == set()


def rows_of(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


def scikit_scores(true, found, **options):
    scores = precision_recall_fscore_support(true, found, zero_division=0, **options)
    return np.stack(scores).T.tolist()


def test_a_report_on_classes_is_that_of_scikit_learn(tmp_path, capsys):
    names = ("a", "b, c", "é", "never found", "never there")
    true, found = RANDOM.integers(0, 3, (2, 40))
    true[:5] = 3
    measure = LabelMetrics(LabelSpace("single_label_classification", names))
    measure(EvalPrediction(found, true))
    numbers = list(range(5))
    assert (measure.confusion == confusion_matrix(true, found, labels=numbers)).all()
    expected = scikit_scores(true, found, labels=numbers)
    scores = [[*each.values()] for each in class_scores(measure.confusion)]
    assert np.allclose(scores, expected)
    report_classes(tmp_path, names, measure.confusion)
    header, *rows = rows_of(tmp_path / "class_scores.csv")
    assert header == ["class", "precision", "recall", "f1", "support"]
    assert [row[0] for row in rows] == list(names) and float(rows[2][1]) == scores[2][0]
    header, *rows = rows_of(tmp_path / "confusion_matrix.csv")
    assert header[1:] == list(names) and [row[0] for row in rows] == list(names)
    assert int(rows[0][2]) == ((true == 0) & (found == 1)).sum()
    assert "never found" in capsys.readouterr().out
    report_classes(tmp_path, list(map(str, range(13))), np.eye(13, dtype=int))
    assert capsys.readouterr().out == ""  # too many to look at
    assert len(rows_of(tmp_path / "confusion_matrix.csv")) == 14


def test_a_report_on_several_classes_at_a_time(tmp_path):
    scores, true = RANDOM.normal(size=(9, 3)), RANDOM.integers(0, 2, (9, 3)).astype(float)
    measure = LabelMetrics(LabelSpace("multi_label_classification", ("a", "b", "c")))
    measure(EvalPrediction(scores, true))
    assert (measure.confusion == multilabel_confusion_matrix(true, scores > 0)).all()
    found = [[*each.values()] for each in class_scores(measure.confusion)]
    assert np.allclose(found, scikit_scores(true, scores > 0))
    report_classes(tmp_path, measure.labels.names, measure.confusion)
    assert not (tmp_path / "confusion_matrix.csv").exists()
