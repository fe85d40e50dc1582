"""One run of the training benchmark: steps, times and bytes."""

import pytest
import torch

from scripts.benchmarks.training import run as one_run
from scripts.benchmarks.training.peers import Trainee
from scripts.benchmarks.training.run import measure
from tests.scripts.benchmarks.tiny import SHAPE
from tests.scripts.benchmarks.training.tiny_runs import tiny_training_run


def test_a_training_run():
    result = measure(*tiny_training_run(), SHAPE)
    assert result["steps"] == 2
    assert 0 < result["seconds_forward"] < result["seconds_per_step"]
    assert result["tokens_per_second"] == pytest.approx(128 / result["seconds_per_step"], rel=0.01)
    assert result["seconds_fastest_step"] <= result["seconds_slowest_step"]
    assert result["parameter_bytes"] % 4 == 0 < result["parameter_bytes"]
    assert {"imported", "built", "forward", "backward", "whole"} == set(result["memory"])


@pytest.mark.parametrize("variant", ["gpt2", "floor"])
def test_a_forward_run_has_no_backward(variant):
    result = measure(*tiny_training_run(variant=variant, mode="forward"), SHAPE)
    assert result["seconds_forward"] == result["seconds_per_step"] > 0
    assert result["memory"]["backward"] is None


@pytest.mark.parametrize(("mode", "is_training"), [("forward", False), ("training", True)])
def test_what_a_mode_does(monkeypatch, mode, is_training):
    """Forward runs in eval mode without gradients; training has fresh gradients at each step."""
    model = torch.nn.Linear(1, 1)
    seen = []

    def loss(ids):
        result = model(ids[:1, :1].float()).sum()
        seen.append((model.training, result.requires_grad, model.weight.grad is None))
        return result

    monkeypatch.setattr(one_run, "build_trainee", lambda *_: Trainee(model, loss))
    measure(*tiny_training_run(mode=mode, steps=2, warmup=1), SHAPE)
    assert seen == [(is_training, is_training, True)] * 3


def test_slow_steps_end_early():
    run = tiny_training_run(variant="floor", steps=50, warmup=50, max_seconds_per_run=0.0)
    assert measure(*run, SHAPE)["steps"] == 1


def test_a_loss_that_is_not_finite_is_an_error(monkeypatch):
    trainee = Trainee(torch.nn.Linear(1, 1), lambda ids: torch.tensor(torch.nan))
    monkeypatch.setattr(one_run, "build_trainee", lambda *_: trainee)
    with pytest.raises(RuntimeError, match="the loss is nan"):
        measure(*tiny_training_run(), SHAPE)
