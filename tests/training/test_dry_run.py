"""A few steps of a Trainer, by a clock that moves a second each time it is read."""

from itertools import count, pairwise
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from transformers import TrainerCallback, TrainingArguments

from reformer_hf import ReformerHFByteTokenizer
from reformer_hf.training import dry_run as module
from reformer_hf.training.arguments import LoopArguments, ReformerTrainingArguments
from reformer_hf.training.callbacks import Clock
from reformer_hf.training.data.collator import ReformerDataCollator
from reformer_hf.training.dry_run import dry_run, planned_steps
from reformer_hf.training.row_schedule import RowSchedule
from reformer_hf.training.trainer import CausalLMTrainer
from tests.models.tiny import tiny_lm
from tests.training.test_trainer import LENGTHS, trainer_of


class Counts(TrainerCallback):
    def __init__(self):
        self.steps = self.evaluations = self.saves = 0

    def on_step_end(self, *args, **kwargs):
        self.steps += 1

    def on_evaluate(self, *args, **kwargs):
        self.evaluations += 1


def dry(folder, monkeypatch, capsys, **fields):
    """Returns what a dry run found, what it printed, and what it did."""
    trainer = trainer_of(folder, learning_rate=1e-3, **fields)
    counts, clock = Counts(), count()
    trainer.add_callback(counts)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)
    return dry_run(trainer, clock=lambda: next(clock)), capsys.readouterr().out, counts


def test_four_steps_a_batch_and_a_checkpoint_tell_of_the_whole(tmp_path, monkeypatch, capsys):
    found, printed, counts = dry(
        tmp_path / "run",
        monkeypatch,
        capsys,
        max_steps=24,
        per_device_train_batch_size=2,
        per_device_eval_batch_size=4,
        do_eval=True,
        eval_strategy="steps",
        eval_steps=0.25,
        save_steps=10,
    )
    assert (counts.steps, counts.evaluations) == (4, 1)
    assert (found["steps"], found["evaluations"], found["checkpoints"]) == (24, 4 + 1, 3)
    # An epoch has 6 steps: 11 rows and a blank one.
    assert found["tokens"] == 4 * sum(LENGTHS)
    steps = found["tokens"] / found["tokens_per_second"]
    assert found["seconds"] == pytest.approx(steps + 5 * 3 + 3 * 1)  # 3 batches, a second each
    assert found["step_seconds"] == 1
    assert "evaluations (5) 15 seconds, checkpoints (3) 3 seconds" in printed
    assert "left out: preparing the data, samples, predictions and uploads" in printed
    assert found["memory_bytes"]["optimizer"] > found["memory_bytes"]["gradients"] > 0


def test_a_short_run_of_epochs(tmp_path, monkeypatch, capsys):
    found, _, counts = dry(
        tmp_path / "run",
        monkeypatch,
        capsys,
        num_train_epochs=2,
        per_device_train_batch_size=11,
        eval_strategy="epoch",
        save_strategy="epoch",
    )
    assert (counts.steps, counts.evaluations) == (2, 1)
    assert (found["steps"], found["evaluations"], found["checkpoints"]) == (2, 2 + 1, 2)
    assert found["tokens"] == 2 * sum(LENGTHS)


def test_a_disk_that_takes_no_checkpoint_is_said(tmp_path, monkeypatch, capsys):
    def full(*args):
        raise OSError("the disk is full")

    monkeypatch.setattr(module.Trainer, "_save_checkpoint", full)
    found, printed, _ = dry(tmp_path / "run", monkeypatch, capsys, max_steps=2, save_steps=1)
    assert found["checkpoints"] == 2 and "left out: preparing the data, checkpoints" in printed


@pytest.mark.parametrize(
    "fields",
    [
        {"eval_strategy": "steps", "eval_steps": 4, "eval_delay": 5, "save_steps": 3},
        {"eval_strategy": "epoch", "save_strategy": "epoch"},
        {"save_strategy": "no"},
    ],
)
def test_the_plan_is_what_the_trainer_does(tmp_path, fields):
    done = []

    class Note(TrainerCallback):
        def on_evaluate(self, args, state, control, **kwargs):
            done.append(("evaluates", state.global_step))

        def on_save(self, args, state, control, **kwargs):
            done.append(("saves", state.global_step))

    trainer = trainer_of(tmp_path, max_steps=8, per_device_train_batch_size=4, **fields)
    trainer.add_callback(Note())
    trainer.train()
    plan = list(planned_steps(trainer, 0))
    planned = [(name, step) for step, each in enumerate(plan, 1) for name in done_names(each)]
    assert planned == done and len(plan) == 8


def test_rows_that_grow_are_tried_at_all_their_lengths(tmp_path, monkeypatch, capsys):
    seen = []

    class Note(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            seen.append(state.num_input_tokens_seen)

    schedule = RowSchedule([4, 8, 32], [8], 600)
    rows = Dataset.from_dict({"input_ids": [[5] * 32] * 20})
    trainer = CausalLMTrainer(
        model=tiny_lm(vocab_size=258),
        args=TrainingArguments(
            **{"output_dir": str(tmp_path), "report_to": "none", "use_cpu": True},
            **{"max_steps": 600, "save_strategy": "no", "include_num_input_tokens_seen": "all"},
        ),
        train_dataset=rows,
        processing_class=ReformerHFByteTokenizer(),
        data_collator=ReformerDataCollator(ReformerHFByteTokenizer()),
        row_schedule=schedule,
    )
    trainer.add_callback(Note())
    found = dry_run(trainer)
    sizes = [after - before for before, after in pairwise([0, *seen])]
    assert {8, 32} == set(sizes) and len(sizes) == schedule.sample().max_steps
    assert (found["steps"], found["tokens"]) == (600, schedule.tokens(600))


def done_names(step):
    return [name for name in ("evaluates", "saves") if getattr(step, name)]


def test_the_clock_does_not_end_it(tmp_path, monkeypatch):
    trainer = trainer_of(tmp_path, max_steps=8, per_device_train_batch_size=2, learning_rate=1e-3)
    trainer.add_callback(Clock(1e-9))
    counts = Counts()
    trainer.add_callback(counts)
    dry_run(trainer)
    assert counts.steps == 4


@pytest.mark.parametrize(
    ("kind", "fields"),
    [(ReformerTrainingArguments, {"do_train": True, "report_to": "all"}), (LoopArguments, {})],
)
def test_a_dry_run_has_a_folder_of_its_own_that_goes(tmp_path, kind, fields):
    asked = str(tmp_path / "run")
    arguments = kind(
        output_dir=asked, dry_run=True, push_to_hub=True, resume_from_checkpoint="last", **fields
    )
    folder = arguments.output_dir
    assert folder != asked and Path(folder).is_dir()
    assert not arguments.push_to_hub and arguments.resume_from_checkpoint is None
    assert arguments.report_to in ([], "all")
    del arguments
    assert not Path(folder).exists()


def test_a_dry_run_of_no_training_is_refused(tmp_path):
    with pytest.raises(ValueError, match="dry_run=True without do_train"):
        ReformerTrainingArguments(output_dir=str(tmp_path), dry_run=True, do_eval=True)
