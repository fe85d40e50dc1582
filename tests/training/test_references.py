"""How a result stands beside simple methods."""

import json
from types import SimpleNamespace

import pytest

from reformer_hf.training.references import NOTHING, Reference, keep_references, verdict

METHODS = [
    Reference("majority class", {"accuracy": 0.5, "loss": 0.7}, NOTHING),
    Reference("naive Bayes", {"accuracy": 0.75}),
]


@pytest.mark.parametrize(
    ("metric", "ours", "expected"),
    [
        (
            "accuracy",
            0.5,
            "accuracy 0.5000 is not better than 0.5000, majority class: nothing was learned yet",
        ),
        (
            "accuracy",
            0.6,
            "accuracy 0.6000 is not better than 0.7500, naive Bayes: counting does as well",
        ),
        ("accuracy", 0.8, "accuracy 0.8000 is better than majority class and naive Bayes"),
        (
            "loss",
            0.7,
            "loss 0.7000 is not better than 0.7000, majority class: nothing was learned yet",
        ),
        ("loss", 0.6, "loss 0.6000 is better than majority class"),
        (
            "loss",
            float("nan"),
            "loss nan is not better than 0.7000, majority class: nothing was learned yet",
        ),
    ],
)
def test_the_verdict_names_the_simplest_method_that_is_not_beaten(metric, ours, expected):
    assert verdict(metric, ours, METHODS) == expected


def test_references_are_shown_and_recorded(tmp_path, capsys):
    saved = {}
    trainer = SimpleNamespace(
        args=SimpleNamespace(output_dir=str(tmp_path)), save_metrics=saved.__setitem__
    )
    (tmp_path / "run_record.json").write_text('{"model": 1, "references": 2}')
    metrics = {"eval_accuracy": 0.6, "eval_loss": 0.5, "eval_runtime": 1.0, "epoch": 2.0}
    kept = keep_references(trainer, metrics, METHODS, "accuracy")
    assert kept["references"]["naive Bayes"] == {"accuracy": 0.75}
    said = "accuracy 0.6000 is not better than 0.7500, naive Bayes: counting does as well"
    assert kept["comparison"] == {"metric": "accuracy", "verdict": said}
    assert saved == {"eval": metrics | kept}
    assert json.loads((tmp_path / "run_record.json").read_text()) == {"model": 1} | kept
    assert capsys.readouterr().out.splitlines() == [
        "",
        "                accuracy    loss",
        "this model        0.6000  0.5000",
        "majority class    0.5000  0.7000",
        "naive Bayes       0.7500",
        "",
        said,
        "",
    ]
    assert keep_references(trainer, metrics, [], "accuracy") == {}
