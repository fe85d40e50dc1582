"""Where a run of the Trainer goes on from."""

import pytest
import torch
from transformers import TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME

from reformer_hf.training.checkpoints import SEAL, seal
from reformer_hf.training.trainer import SealedCheckpoints, checkpoint_to_resume
from tests.models.tiny import tiny_lm


@pytest.fixture
def run(tmp_path):
    """A run with a whole checkpoint and, after it, one that was cut off."""
    for step in (2, 4):
        (tmp_path / f"checkpoint-{step}").mkdir()
        (tmp_path / f"checkpoint-{step}" / TRAINER_STATE_NAME).write_text("{}")
        for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth", "pytorch_model.bin"):
            torch.save({}, tmp_path / f"checkpoint-{step}" / name)
    seal(tmp_path / "checkpoint-2")
    return tmp_path


def resume(folder, checkpoint, **fields):
    fields = {"do_train": True, "report_to": "none", "use_cpu": True} | fields
    return checkpoint_to_resume(
        TrainingArguments(output_dir=str(folder), resume_from_checkpoint=checkpoint, **fields)
    )


@pytest.mark.parametrize("asked", ["last", "True", "true"])
def test_the_last_whole_one_is_gone_on_from_and_broken_ones_are_deleted(run, asked):
    assert resume(run, asked) == str(run / "checkpoint-2")
    assert not (run / "checkpoint-4").exists()


def test_an_empty_folder_starts_from_nothing(tmp_path):
    assert resume(tmp_path, "last") is None and resume(tmp_path, None) is None


def test_another_run_is_not_overwritten(run):
    with pytest.raises(ValueError, match="holds checkpoint-2 of another run: go on with"):
        resume(run, None)
    assert resume(run, None, do_train=False) is None and resume(run, "last", do_train=False) is None
    assert (run / "checkpoint-4").exists()


def test_a_checkpoint_that_was_changed_is_not_lost(run):
    (run / "checkpoint-2" / "config.json").write_text("{}")  # a file more is no change
    assert resume(run, "last") == str(run / "checkpoint-2")
    (run / "checkpoint-2" / TRAINER_STATE_NAME).write_text("{} and more")
    assert resume(run, "last") is None
    assert {path.name for path in run.iterdir()} == {"_broken-checkpoint-2", "_broken-checkpoint-4"}


def test_a_named_checkpoint_must_be_whole(run):
    assert resume(run, str(run / "checkpoint-2")) == str(run / "checkpoint-2")
    (run / "checkpoint-2" / TRAINER_STATE_NAME).write_text("{} and more")
    with pytest.raises(ValueError, match="there is no whole checkpoint"):
        resume(run, str(run / "checkpoint-2"))
    with pytest.raises(ValueError, match="resume_from_checkpoint=nowhere: there is no whole"):
        resume(run, "nowhere")


def test_what_another_trainer_left_is_not_lost(run):
    (run / "checkpoint-2" / SEAL).unlink()
    assert resume(run, str(run / "checkpoint-2")) == str(run / "checkpoint-2")
    aside = run / "_broken-checkpoint-4"
    assert (aside / TRAINER_STATE_NAME).exists() and not (run / "checkpoint-4").exists()
    assert resume(run, str(aside)) == str(aside)
    assert resume(run, "last") is None
    assert {path.name for path in run.iterdir()} == {aside.name, "_broken-checkpoint-2"}


@pytest.mark.parametrize("unsealed", [2, 4])
def test_what_has_no_seal_beside_a_whole_checkpoint_is_not_lost(run, unsealed):
    seal(run / "checkpoint-4")
    (run / f"checkpoint-{unsealed}" / SEAL).unlink()
    assert resume(run, "last") == str(run / f"checkpoint-{6 - unsealed}")
    assert (run / f"_broken-checkpoint-{unsealed}" / TRAINER_STATE_NAME).exists()


def test_what_was_cut_before_its_state_was_written_is_deleted(run):
    (run / "checkpoint-2" / SEAL).unlink()
    for step in (2, 4):
        (run / f"checkpoint-{step}" / TRAINER_STATE_NAME).unlink()
    assert resume(run, "last") is None and list(run.iterdir()) == []


def test_the_trainers_own_card_names_no_base_model_where_there_is_none(tmp_path):
    arguments = TrainingArguments(str(tmp_path), report_to="none", use_cpu=True)
    trainer = SealedCheckpoints(tiny_lm(), arguments)
    trainer.create_model_card()
    card = (tmp_path / "README.md").read_text()
    assert "[](" not in card and "trained from scratch" in card
