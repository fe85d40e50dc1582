"""How many steps fit into the minutes of a run."""

import json
import math

import pytest
import torch
from transformers import TrainerState

from reformer_hf.training import ReformerTrainingArguments, fitting_steps, optimizers, trainer
from reformer_hf.training.fitting_steps import steps_in, steps_of_checkpoint
from reformer_hf.training.row_schedule import RowSchedule
from tests.models.tiny import tiny_lm


def test_steps_of_all_lengths_together_fill_the_time():
    schedule = RowSchedule([512, 1024, 8192], [2048], 1300)
    seconds = {512: 0.2, 1024: 0.25, 8192: 0.9}
    steps = steps_in(400.0, list(seconds.values()), schedule)
    planned = RowSchedule([512, 1024, 8192], [2048], steps)
    assert sum(n * seconds[length] for n, _, length in planned.phases) == pytest.approx(400, abs=1)
    assert steps_in(1e-9, list(seconds.values()), schedule) == 1


@pytest.mark.parametrize(
    ("eval_steps", "steps"), [(0.5, 80), (0.4, 70), (0.25, 60), (10, 45), (45, 73), (1000, 89)]
)
def test_evaluations_take_their_time_from_the_steps(eval_steps, steps, capsys):
    schedule = RowSchedule([8], [8], 1)
    assert steps_in(100.0, [1.0], schedule, 10.0, eval_steps) == max(steps, 50)
    every = eval_steps if eval_steps >= 1 else math.ceil(eval_steps * steps)
    assert steps + 10 * math.ceil(steps / every) <= 100
    assert ("max_eval_samples" in capsys.readouterr().out) == (steps < 50)


def test_a_checkpoint_knows_the_steps_of_its_run(tmp_path):
    assert steps_of_checkpoint(None) is None
    assert steps_of_checkpoint(str(tmp_path)) is None
    schedule = RowSchedule([8, 16], [16], 7)
    (tmp_path / "rows.json").write_text(json.dumps(schedule.record()))
    assert steps_of_checkpoint(str(tmp_path)) == 7


def test_a_planned_run_is_over_at_its_last_step_not_after_some_passes(tmp_path, monkeypatch):
    record = RowSchedule([8, 16], [16], 7).record()
    (tmp_path / "rows.json").write_text(json.dumps(record))
    TrainerState(global_step=3, epoch=50.0).save_to_json(str(tmp_path / "trainer_state.json"))
    looked_at = []
    monkeypatch.setattr(trainer, "find_checkpoint", lambda *_, **__: tmp_path)
    monkeypatch.setattr(trainer, "check_complete", looked_at.append)
    fields = {"do_train": True, "use_cpu": True, "report_to": "none"}
    arguments = ReformerTrainingArguments(str(tmp_path / "run"), max_minutes=1.0, **fields)
    assert trainer.checkpoint_to_resume(arguments) == str(tmp_path)
    assert arguments.max_steps == 7 and looked_at == [tmp_path]


def test_epochs_decide_the_steps_of_a_run_that_goes_on_too(tmp_path, monkeypatch):
    """Else more of them would be left out without a word."""
    record = RowSchedule([8, 16], [16], 7).record()
    (tmp_path / "rows.json").write_text(json.dumps(record))
    TrainerState(global_step=7, epoch=0.98).save_to_json(str(tmp_path / "trainer_state.json"))
    monkeypatch.setattr(trainer, "find_checkpoint", lambda *_, **__: tmp_path)
    fields = {"do_train": True, "use_cpu": True, "report_to": "none", "num_train_epochs": 1}
    arguments = ReformerTrainingArguments(str(tmp_path / "run"), **fields)
    assert trainer.checkpoint_to_resume(arguments) == str(tmp_path)  # which lacks an optimizer
    assert arguments.max_steps == -1


def test_what_is_timed_is_what_the_run_does(tmp_path, monkeypatch):
    made = []

    def make_optimizer(*arguments, **settings):
        made.append(settings)
        return optimizers.make_optimizer(*arguments, **settings)

    monkeypatch.setattr(fitting_steps, "make_optimizer", make_optimizer)
    monkeypatch.setattr(fitting_steps, "_median_seconds", lambda work: work() or 1.0)
    fields = {"use_cpu": True, "report_to": "none", "per_device_eval_batch_size": 2}
    fields |= {"max_minutes": 1 / fitting_steps.PLANNED_SHARE, "muon_learning_rate": 0.01}
    schedule, model = RowSchedule([8, 16], [16], 1), tiny_lm()

    def plan(**changed):
        arguments = ReformerTrainingArguments(str(tmp_path), **fields, **changed)
        return fitting_steps.fitting_steps(model, arguments, schedule, evaluated=20)

    assert plan(optim="adamw_torch_fused") == 60 and plan(optim="adamw_torch") == 60
    assert [each["fused"] for each in made] == [True, True, False, False]
    # Ten batches of two rows take a second each, twice or, with the one at the start, three times.
    assert plan(eval_strategy="steps", eval_steps=0.5) == 40
    assert plan(eval_strategy="steps", eval_steps=0.5, eval_on_start=True) == 30
    assert made[0]["muon_learning_rate"] == 0.01


def test_timing_leaves_model_and_generator_alone(monkeypatch):
    model = torch.nn.Linear(2, 2)
    monkeypatch.setattr(fitting_steps, "_step_seconds", lambda *_: float(torch.rand(())) + 1)

    class Arguments:
        max_minutes, world_size, eval_steps = 1.0, 1, 500
        eval_strategy, eval_on_start = "no", False

    torch.manual_seed(0)
    expected = torch.rand(())
    torch.manual_seed(0)
    assert 1 <= fitting_steps.fitting_steps(model, Arguments, RowSchedule([8, 16], [16], 1)) < 60
    assert torch.rand(()) == expected
    Arguments.world_size = 2
    with pytest.raises(ValueError, match="max_minutes=1.0 and row_lengths with 2 processes"):
        fitting_steps.fitting_steps(model, Arguments, RowSchedule([8, 16], [16], 1))
