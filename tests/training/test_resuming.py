"""A run goes on exactly, or not at all."""

import json
import re
import shutil
import signal

import pytest
import torch
from transformers import TrainerState, TrainingArguments

from reformer_hf.training.arguments import (
    DataTrainingArguments,
    PretrainedModelArguments,
    ReformerTrainingArguments,
)
from reformer_hf.training.checkpoints import SEAL, seal
from reformer_hf.training.processes import Interrupted
from reformer_hf.training.tasks.language_model import train_clm
from reformer_hf.training.trainer import checkpoint_to_resume
from tests.training.runs import largest_difference, tiny_overrides, weights, write_documents

STATE = ("optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json", "model.safetensors")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_documents(tmp_path_factory.mktemp("data") / "train.jsonl")


def train(data, folder, **fields):
    fields = {
        "do_train": True,
        "max_steps": 4,
        "save_steps": 2,
        "per_device_train_batch_size": 2,
        "logging_steps": 1,
        "learning_rate": 1e-2,
        "disable_tqdm": True,
        "use_cpu": True,
        "report_to": "none",
    } | fields
    return train_clm(
        PretrainedModelArguments(
            config_overrides=tiny_overrides(), cache_dir=str(data.parent / "cache")
        ),
        DataTrainingArguments(train_file=str(data), block_size=64),
        ReformerTrainingArguments(output_dir=str(folder), **fields),
    )


@pytest.fixture(scope="module")
def finished(data):
    train(data, data.parent / "run")
    return data.parent / "run"


@pytest.fixture
def run(finished, tmp_path):
    """The folder of a run of four steps."""
    return shutil.copytree(finished, tmp_path / "run")


def resume(folder, asked, **fields):
    fields = {"do_train": True, "report_to": "none", "use_cpu": True, "max_steps": 9} | fields
    arguments = TrainingArguments(str(folder), resume_from_checkpoint=str(asked), **fields)
    return checkpoint_to_resume(arguments)


@pytest.mark.parametrize("asked", ["last", "checkpoint-4"])
def test_weights_alone_are_nothing_to_go_on_from(data, tmp_path, asked):
    folder = tmp_path / "run"
    train(data, folder, save_only_model=True)
    checkpoint = folder / "checkpoint-4"
    path = "last" if asked == "last" else str(checkpoint)
    with pytest.raises(
        ValueError,
        match=r"checkpoint-4: optimizer.pt, scheduler.pt, rng_state.pth is missing "
        rf"\(--save_only_model leaves .* --model_name_or_path {re.escape(str(checkpoint))} and",
    ):
        train(data, folder, resume_from_checkpoint=path, max_steps=6)
    assert "checkpoint-4 has the weights alone" in str(Interrupted(folder, signal.SIGINT))
    # A run that is over needs no more than its weights.
    train(data, folder, resume_from_checkpoint=path)
    assert largest_difference(weights(folder), weights(checkpoint)) == 0


@pytest.mark.parametrize("name", STATE)
@pytest.mark.parametrize("sealed", [True, False, "again"])
def test_a_file_that_is_gone_is_named(run, name, sealed):
    checkpoint = run / "checkpoint-4"
    (checkpoint / name).unlink()
    if sealed == "again":
        seal(checkpoint)
    elif not sealed:
        (checkpoint / SEAL).unlink()
    with pytest.raises(ValueError, match=rf"{re.escape(name)} is missing"):
        resume(run, checkpoint)


@pytest.mark.parametrize("name", STATE)
@pytest.mark.parametrize("sealed", [True, False])
def test_a_file_that_is_cut_is_named(run, name, sealed):
    file = run / "checkpoint-4" / name
    file.write_bytes(file.read_bytes()[:-9])
    if not sealed:
        (run / "checkpoint-4" / SEAL).unlink()
    with pytest.raises(ValueError, match=rf"{re.escape(name)} (has changed|is broken|cannot be)"):
        resume(run, run / "checkpoint-4")


@pytest.mark.parametrize("sealed", [True, False])
def test_a_file_that_resuming_does_not_read_may_be_cut(run, sealed):
    (run / "checkpoint-4" / "training_args.bin").write_bytes(b"x")
    if not sealed:
        (run / "checkpoint-4" / SEAL).unlink()
    assert resume(run, run / "checkpoint-4") == str(run / "checkpoint-4")


def test_what_is_set_aside_says_why(run, capsys):
    (run / "checkpoint-4" / "optimizer.pt").unlink()
    assert resume(run, "last") == str(run / "checkpoint-2")
    assert "or changed since (optimizer.pt is missing)" in capsys.readouterr().out


def test_a_step_keeps_its_rows(data, run):
    again = {"resume_from_checkpoint": "last", "max_steps": 6}
    with pytest.raises(ValueError, match="a step had 2 rows there and has 4 now.* as before"):
        train(data, run, per_device_train_batch_size=4, **again)
    with pytest.raises(ValueError, match="a step had 2 rows there and has 4 now"):
        train(data, run, gradient_accumulation_steps=2, **again)
    train(data, run, per_device_train_batch_size=1, gradient_accumulation_steps=2, **again)
    rows = json.loads((run / "checkpoint-6" / "rows.json").read_text())
    assert rows == {"rows_per_step": 2}


def rates(folder, name="learning_rate"):
    state = TrainerState.load_from_json(str(folder / "trainer_state.json"))
    return [entry[name] for entry in state.log_history if name in entry]


def test_a_new_learning_rate_is_that_of_the_steps_to_come(data, run):
    fields = {"lr_scheduler_type": "constant", "weight_decay": 0.5}
    train(data, run, resume_from_checkpoint="last", max_steps=6, learning_rate=1e-3, **fields)
    assert rates(run)[4:] == [1e-3, 1e-3]
    saved = torch.load(run / "checkpoint-6" / "optimizer.pt", weights_only=True)
    assert {group["weight_decay"] for group in saved["param_groups"]} == {0.5, 0.0}


def test_with_the_old_one_it_goes_on_bit_for_bit(data, tmp_path):
    fields = {"lr_scheduler_type": "cosine", "warmup_steps": 3, "max_steps": 6}
    straight, parts = tmp_path / "straight", tmp_path / "parts"
    train(data, straight, **fields)
    shutil.copytree(straight / "checkpoint-2", parts / "checkpoint-2")
    train(data, parts, resume_from_checkpoint="last", **fields)
    assert largest_difference(weights(straight), weights(parts)) == 0
    assert rates(straight) == rates(parts)


MUON = {"muon_learning_rate": 3e-2, "muon_momentum": 0.9, "weight_decay": 0.1}


def test_with_muon_it_goes_on_bit_for_bit(data, tmp_path):
    fields = {"lr_scheduler_type": "cosine", "warmup_steps": 3, "gradient_accumulation_steps": 2}
    straight, parts, without = tmp_path / "straight", tmp_path / "parts", tmp_path / "without"
    train(data, straight, **fields, **MUON)
    shutil.copytree(straight / "checkpoint-2", parts / "checkpoint-2")
    train(data, parts, resume_from_checkpoint="last", **fields, **MUON)
    assert largest_difference(weights(straight), weights(parts)) == 0
    muon = rates(parts, "muon_learning_rate")
    assert muon == rates(straight, "muon_learning_rate") and len(muon) == 4
    assert muon == pytest.approx([3 * rate for rate in rates(parts)])
    record = json.loads((parts / "run_record.json").read_text())["hyperparameters"]
    assert record | MUON == record
    shutil.copytree(straight / "checkpoint-2", without / "checkpoint-2")
    with pytest.raises(
        ValueError, match="^resume_from_checkpoint: its optimizer .* optim and muon"
    ):
        train(data, without, resume_from_checkpoint="last", **fields)


def test_new_settings_of_muon_are_those_of_the_steps_to_come(data, tmp_path):
    folder, constant = tmp_path / "run", {"lr_scheduler_type": "constant"}
    train(data, folder, max_steps=2, **constant, **MUON)
    new = {"muon_learning_rate": 1e-3, "muon_momentum": 0.5}
    train(data, folder, resume_from_checkpoint="last", **constant, **MUON | new)
    assert rates(folder, "muon_learning_rate") == [3e-2] * 2 + [1e-3] * 2
    saved = torch.load(folder / "checkpoint-4" / "optimizer.pt", weights_only=True)
    assert [group.get("momentum") for group in saved["param_groups"]] == [None, None, 0.5]


def test_an_unknown_name_of_a_schedule_is_one_line(data, tmp_path):
    fields = {"lr_scheduler_type": "cosine_with_min_lr", "lr_scheduler_kwargs": {"min_rate": 1e-5}}
    with pytest.raises(ValueError, match="lr_scheduler_kwargs={'min_rate': 1e-05}: does not fit"):
        train(data, tmp_path / "run", **fields)
