import csv
import json
import math
import os
import shutil
import signal
from types import SimpleNamespace

import pytest
import torch
from accelerate.state import AcceleratorState, GradientState, PartialState
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.optimization import Adafactor

from reformer_hf.training import checkpoints
from reformer_hf.training.arguments import (
    DataTrainingArguments,
    LoopArguments,
    PretrainedModelArguments,
)
from reformer_hf.training.checkpoints import PROGRESS, find_checkpoint
from scripts import train_clm_no_trainer
from scripts.train_clm_no_trainer import choose_optimizer
from tests.models.tiny import tiny_lm
from tests.training.runs import (
    largest_difference,
    losses,
    tiny_overrides,
    weights,
    write_documents,
)


@pytest.fixture(autouse=True)
def fresh_accelerate(monkeypatch):
    """accelerate's states are shared by the whole process: leave none behind."""
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    for state in (AcceleratorState, PartialState, GradientState):
        state._reset_state()
    yield
    for state in (AcceleratorState, PartialState, GradientState):
        state._reset_state()


@pytest.fixture
def train(tmp_path):
    """Returns a function that trains a tiny model in a folder and returns its results."""
    file = write_documents(tmp_path / "data" / "train.jsonl")

    def train(name, model=None, data=None, **fields):
        AcceleratorState._reset_state(reset_partial_state=True)
        arguments = {
            "max_train_steps": 4,
            "per_device_train_batch_size": 2,
            "per_device_eval_batch_size": 2,
            "learning_rate": 1e-2,
            "logging_steps": 1,
        } | fields
        return train_clm_no_trainer.train_clm_no_trainer(
            PretrainedModelArguments(
                **{"cache_dir": str(tmp_path / "cache"), "config_overrides": tiny_overrides()}
                | (model or {})
            ),
            DataTrainingArguments(
                **{"train_file": str(file), "block_size": 64, "max_eval_samples": 5} | (data or {})
            ),
            LoopArguments(output_dir=str(tmp_path / name), **arguments),
        )

    return train


@pytest.fixture
def interrupt(monkeypatch):
    """Returns a function that makes a run fail in the step after some number of them."""
    original = train_clm_no_trainer.take_step

    def interrupt(steps):
        count = iter(range(steps))

        def take_step(*args):
            if next(count, None) is None:
                raise KeyboardInterrupt
            return original(*args)

        monkeypatch.setattr(train_clm_no_trainer, "take_step", take_step)

    yield interrupt


@pytest.fixture
def curves(monkeypatch):
    """The logs of the runs, in order."""
    found = []
    monkeypatch.setattr(
        train_clm_no_trainer,
        "write_curves",
        lambda history, *_, **__: found.append(losses(history)),
    )
    return found


def test_a_run_leaves_a_model_its_results_and_a_curve(train, tmp_path, capsys):
    results = train("run", checkpointing_steps="2")
    folder = tmp_path / "run"
    names = {path.name for path in folder.iterdir()}
    assert names >= {
        *("model.safetensors", "config.json", "tokenizer.json", "all_results.json"),
        *("loss_curve.csv", "loss_curve.png", "checkpoint-2", "checkpoint-4"),
    }
    assert json.loads((folder / "all_results.json").read_text()) == results
    assert results["perplexity"] == pytest.approx(math.exp(results["eval_loss"]))
    assert results["eval_bits_per_byte"] > 0
    assert results["train_tokens"] > 0 and results["train_peak_memory_bytes"] > 0
    assert 0 < results["train_step_seconds"] <= results["train_seconds"]
    record = json.loads((folder / "run_record.json").read_text())["training"]
    assert record["tokens_per_second"] == results["train_tokens_per_second"] > 0
    printed = capsys.readouterr()
    assert f"Trained on {results['train_tokens']:,} tokens in" in printed.out
    assert "training: 100%" in printed.err
    AutoModelForCausalLM.from_pretrained(folder)
    record = json.loads((folder / "run_record.json").read_text())
    assert record["comparison"]["score"] == results["eval_bits_per_byte"]
    assert record["comparison"]["scored"] == results["eval_bytes"]
    assert record["references"]["byte pairs"] == results["eval_byte_pairs_bits_per_byte"] < 8
    assert f"This model is {record['comparison']['verdict']}.\n" in printed.out


@pytest.mark.parametrize(
    "fields, data",
    [
        ({"gradient_accumulation_steps": 2, "checkpointing_steps": "4"}, {"packing": "none"}),
        ({"optim": "adafactor", "checkpointing_steps": "4"}, {"streaming": True}),
        ({"checkpointing_steps": "epoch", "per_device_train_batch_size": 4}, {}),
    ],
)
def test_an_interrupted_run_ends_bit_for_bit_like_another(
    train, tmp_path, interrupt, curves, monkeypatch, capsys, fields, data
):
    model = {"config_overrides": tiny_overrides(dropout=0.1)}
    # Losses of three steps in an entry of the log: a checkpoint cuts one in two.
    fields = {"max_train_steps": 18, "logging_steps": 3, "max_grad_norm": 1.0} | fields
    straight = train("straight", model, data, **fields)
    assert capsys.readouterr().out.count("Step 11 of 18: about ") == 1
    with monkeypatch.context(), pytest.raises(KeyboardInterrupt):
        interrupt(15)
        train("broken", model, data, **fields)
    monkeypatch.undo()
    monkeypatch.setattr(
        train_clm_no_trainer,
        "write_curves",
        lambda history, *_, **__: curves.append(losses(history)),
    )
    last = find_checkpoint("last", tmp_path / "broken", PROGRESS)
    step = json.loads((last / "progress.json").read_text())["step"]
    assert 0 < step <= 15
    broken = train("broken", model, data, resume_from_checkpoint="last", **fields)
    assert broken["train_tokens"] == straight["train_tokens"] > 0
    assert largest_difference(weights(tmp_path / "straight"), weights(tmp_path / "broken")) == 0
    assert curves[0] == curves[-1]


def test_another_seed_makes_another_run(train, curves):
    for name, seed in (("one", 0), ("other", 1)):
        train(name, seed=seed, max_train_steps=2)
    assert curves[1] != curves[0]


def test_the_optimizer_in_backward_learns_the_same_and_goes_on_bit_for_bit(train, tmp_path):
    model = {"config_overrides": tiny_overrides(dropout=0.1)}
    data, steps = {"baselines": False, "max_eval_samples": 1}, {"max_train_steps": 3}
    train("usual", model, data, **steps)
    fields = {"optimizer_in_backward": True, "checkpointing_steps": "2"} | steps
    train("ours", model, data, **fields)
    checkpoint = str(tmp_path / "ours" / "checkpoint-2")
    train("again", model, data, resume_from_checkpoint=checkpoint, **fields)
    ours = weights(tmp_path / "ours")
    assert largest_difference(ours, weights(tmp_path / "usual")) < 1e-5
    assert largest_difference(ours, weights(tmp_path / "again")) == 0
    record = json.loads((tmp_path / "ours" / "run_record.json").read_text())["hyperparameters"]
    assert record["optimizer_in_backward"] is True


def test_accumulation_weights_every_token_the_same(train, tmp_path, curves):
    model = {"config_overrides": tiny_overrides(redraw_rotations=False)}
    data = {"packing": "none", "block_size": 200}
    fields = {"num_train_epochs": 1, "max_train_steps": None}
    train("whole", model, data, per_device_train_batch_size=8, **fields)
    parts = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 4}
    train("parts", model, data, **parts, **fields)
    assert largest_difference(weights(tmp_path / "whole"), weights(tmp_path / "parts")) < 1e-4
    for whole, parts in zip(*curves, strict=True):
        assert whole == pytest.approx(parts, rel=1e-4)


def test_it_learns_what_the_trainer_learns(train, tmp_path):
    """The same rows, steps and optimizer as the Trainer's, from the same seed."""
    from reformer_hf.training.arguments import ReformerTrainingArguments
    from reformer_hf.training.tasks.language_model import train_clm

    # The Trainer draws a number from the default generator at the beginning of an epoch.
    model = {"config_overrides": tiny_overrides(redraw_rotations=False)}
    fields = {"learning_rate": 1e-2, "per_device_train_batch_size": 2, "weight_decay": 0.0}
    train("loop", model, max_train_steps=8, max_grad_norm=1.0, **fields)
    train_clm(
        PretrainedModelArguments(cache_dir=str(tmp_path / "cache"), **model),
        DataTrainingArguments(
            train_file=str(tmp_path / "data" / "train.jsonl"), block_size=64, max_eval_samples=5
        ),
        ReformerTrainingArguments(
            output_dir=str(tmp_path / "trainer"),
            do_train=True,
            max_steps=8,
            use_cpu=True,
            optim="adamw_torch",
            save_strategy="no",
            report_to="none",
            **fields,
        ),
    )
    assert largest_difference(weights(tmp_path / "loop"), weights(tmp_path / "trainer")) < 1e-5


MUON = {"muon_learning_rate": 2e-2, "muon_momentum": 0.9, "weight_decay": 0.1}


def test_the_loop_and_the_trainer_make_the_same_optimizer_with_muon(tmp_path):
    from reformer_hf.training.arguments import ReformerTrainingArguments
    from reformer_hf.training.trainer import SealedCheckpoints

    model, fields = tiny_lm(), {"learning_rate": 1e-3, "adam_beta2": 0.95}
    arguments = ReformerTrainingArguments(
        str(tmp_path), use_cpu=True, optim="adamw_torch", **fields, **MUON
    )
    theirs = SealedCheckpoints(model, arguments).create_optimizer()
    ours = choose_optimizer(model, LoopArguments(**fields, **MUON))
    groups = [optimizer.state_dict()["param_groups"] for optimizer in (ours, theirs)]
    assert groups[0] == groups[1]


def test_muon_goes_on_bit_for_bit_and_is_in_log_and_record(train, tmp_path):
    model = {"config_overrides": tiny_overrides(dropout=0.1)}
    fields = {"checkpointing_steps": "2", "gradient_accumulation_steps": 2, **MUON}
    train("straight", model, max_grad_norm=1.0, **fields)
    checkpoint = str(tmp_path / "straight" / "checkpoint-2")
    train("broken", model, resume_from_checkpoint=checkpoint, max_grad_norm=1.0, **fields)
    assert largest_difference(weights(tmp_path / "straight"), weights(tmp_path / "broken")) == 0
    record = json.loads((tmp_path / "broken" / "run_record.json").read_text())["hyperparameters"]
    assert record | MUON == record
    progress = json.loads((tmp_path / "broken" / "checkpoint-4" / PROGRESS).read_text())
    rates = [
        (entry["learning_rate"], entry["muon_learning_rate"])
        for entry in progress["log_history"]
        if "loss" in entry
    ]
    assert rates == [pytest.approx((1e-2 * part, 2e-2 * part)) for part in (0.75, 0.5, 0.25, 0)]


def test_checkpoints_are_limited_and_guarded(train, tmp_path):
    train("run", checkpointing_steps="1", save_total_limit=2)
    assert sorted(path.name for path in (tmp_path / "run").glob("checkpoint-*")) == [
        *("checkpoint-3", "checkpoint-4")
    ]
    with pytest.raises(ValueError, match="holds checkpoint-4 of another run: go on with"):
        train("run")
    file = tmp_path / "run" / "checkpoint-4" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(ValueError, match="checkpoint-3, which 'last' stands for"):
        train("run", resume_from_checkpoint=str(file.parent))
    assert find_checkpoint("last", tmp_path / "run", PROGRESS).name == "checkpoint-3"


def test_a_full_disk_keeps_the_checkpoint_before(train, tmp_path, monkeypatch):
    original, count = checkpoints.seal, iter(range(9))

    def full(path):
        if next(count):
            raise OSError(28, "No space left on device")
        original(path)

    monkeypatch.setattr(checkpoints, "seal", full)
    with pytest.raises(OSError, match="disk is full.*checkpoints before this one are whole"):
        train("run", checkpointing_steps="2", save_total_limit=1)
    assert find_checkpoint("last", tmp_path / "run", PROGRESS).name == "checkpoint-2"


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # read by PEFT
def test_adapters_are_trained_and_go_on_from_a_checkpoint(train, tmp_path):
    lora = {"config_overrides": tiny_overrides(dropout=0.1), "use_lora": True, "lora_r": 2}
    train("straight", lora, checkpointing_steps="2")
    trained = weights(tmp_path / "straight")
    assert all("lora" in name for name in trained)
    assert all(float(value.abs().max()) > 0 for name, value in trained.items() if "lora_B" in name)
    checkpoint = tmp_path / "straight" / "checkpoint-2"
    train("broken", lora, resume_from_checkpoint=str(checkpoint))
    assert largest_difference(trained, weights(tmp_path / "broken")) == 0


def test_trackers_get_the_curve(train, tmp_path):
    train("run", with_tracking=True, report_to="tensorboard")
    content = b"".join(
        file.read_bytes() for file in (tmp_path / "run").rglob("events.out.tfevents.*")
    )
    assert b"loss" in content and b"eval_bits_per_byte" in content


def test_bfloat16_trains_with_float32_weights(train, tmp_path):
    results = train("run", mixed_precision="bf16")
    assert math.isfinite(results["eval_loss"])
    assert all(value.dtype == torch.float32 for value in weights(tmp_path / "run").values())


def test_what_cannot_be_done_is_said(train):
    with pytest.raises(ValueError, match="a stream has no known end; give max_train_steps"):
        train("run", data={"streaming": True}, max_train_steps=None)
    with pytest.raises(FloatingPointError, match="diverged.*max_grad_norm"):
        train("run", learning_rate=1e30)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_the_step_and_the_run_goes_on_bit_for_bit(
    train, tmp_path, curves, monkeypatch, number
):
    model, fields = {"config_overrides": tiny_overrides(dropout=0.1)}, {"max_train_steps": 6}
    train("straight", model, **fields)
    original = train_clm_no_trainer.take_step

    def take_step(run, group):
        if count.pop(0) == 2:
            os.kill(os.getpid(), number)
        return original(run, group)

    count = list(range(6))
    with monkeypatch.context() as patch:
        patch.setattr(train_clm_no_trainer, "take_step", take_step)
        with pytest.raises(KeyboardInterrupt, match="checkpoint-3 is whole, and --resume"):
            train("broken", model, **fields)
    assert count == [3, 4, 5]
    train("broken", model, resume_from_checkpoint="last", **fields)
    assert largest_difference(weights(tmp_path / "straight"), weights(tmp_path / "broken")) == 0


def test_a_run_goes_on_with_its_own_data_and_model_only(train, tmp_path, capsys):
    train("run", checkpointing_steps="2", resume_from_checkpoint="last")
    assert "There is no checkpoint to resume from" in capsys.readouterr().out
    again = {"resume_from_checkpoint": "last", "max_train_steps": 6}
    with pytest.raises(ValueError, match="data.packing was 'documents', now 'none'"):
        train("run", data={"packing": "none"}, **again)
    train("run", data={"max_eval_samples": 2}, learning_rate=1e-3, **again)
    assert "Resuming from checkpoint-4" in capsys.readouterr().out


@pytest.mark.parametrize(("given", "used"), [(0.9, None), (0.5, 0.5)])
def test_adafactor_has_momentum_if_it_is_asked_for(given, used):
    arguments = LoopArguments(optim="adafactor", adam_beta1=given)
    optimizer = choose_optimizer(tiny_lm(), arguments)
    assert isinstance(optimizer, Adafactor)
    assert [group["beta1"] for group in optimizer.param_groups] == [used] * 2


def test_biases_and_norms_do_not_decay():
    optimizer = choose_optimizer(tiny_lm(), LoopArguments(weight_decay=0.1))
    for group in optimizer.param_groups:
        assert {parameter.ndim > 1 for parameter in group["params"]} == {group["weight_decay"] > 0}


def test_every_column_of_the_curve_is_filled(train, tmp_path):
    train("run", max_train_steps=40, logging_steps=5)
    rows = list(csv.DictReader((tmp_path / "run" / "loss_curve.csv").read_text().splitlines()))
    trained = [row for row in rows if row["train_bits_per_byte"]]
    scored = [row for row in rows if row["eval_bits_per_byte"]]
    assert len(trained) == 8 and len(scored) == 3 and len(rows) == 11
    seconds = [float(row["seconds"]) for row in rows]
    assert seconds == sorted(seconds) and seconds[0] > 0
    assert all(row["learning_rate"] for row in trained)


def test_epochs_of_other_steps_are_refused(train, tmp_path):
    fields = {"num_train_epochs": 2, "max_train_steps": None, "checkpointing_steps": "5"}
    train("run", **fields)
    shutil.rmtree(tmp_path / "run" / "checkpoint-35", ignore_errors=True)
    again = fields | {"resume_from_checkpoint": "last", "num_train_epochs": 3}
    with pytest.raises(ValueError, match=r"the rows of its 30 steps make 1\d steps now"):
        train("run", per_device_train_batch_size=4, **again)
    assert train("run", **again)["train_steps"] > 34


def test_a_new_learning_rate_is_that_of_the_steps_to_come(train, tmp_path):
    fields = {"lr_scheduler_type": "constant", "checkpointing_steps": "2"}
    train("run", **fields)
    train("run", resume_from_checkpoint="last", max_train_steps=6, learning_rate=1e-3, **fields)
    rows = csv.DictReader((tmp_path / "run" / "loss_curve.csv").read_text().splitlines())
    rates = [float(row["learning_rate"]) for row in rows if row["learning_rate"]]
    assert rates == [1e-2] * 4 + [1e-3] * 2


def test_a_signal_at_the_very_end_saves_the_model(train, tmp_path, monkeypatch, capsys):
    save = train_clm_no_trainer.save_checkpoint

    def save_and_signal(*args):
        save(*args)
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(train_clm_no_trainer, "save_checkpoint", save_and_signal)
    train("run", max_train_steps=4, checkpointing_steps="4")
    assert "come to its end: going on to save the model" in capsys.readouterr().out
    assert (tmp_path / "run" / "model.safetensors").exists()


def test_the_model_is_saved_before_it_is_scored(train, tmp_path, monkeypatch):
    def interrupt(run):
        raise KeyboardInterrupt

    monkeypatch.setattr(train_clm_no_trainer, "evaluate", interrupt)
    with pytest.raises(KeyboardInterrupt):
        train("run")
    assert AutoTokenizer.from_pretrained(tmp_path / "run").model_max_length == 64


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_the_loop_says_that_bfloat16_is_slow(precision, monkeypatch, tmp_path):
    asked = []
    made = SimpleNamespace(device=torch.device("cpu"), mixed_precision=precision)
    monkeypatch.setattr(train_clm_no_trainer, "Accelerator", lambda **_: made)
    monkeypatch.setattr(
        train_clm_no_trainer, "warn_of_slow_bfloat16", lambda *given: asked.append(given)
    )
    assert train_clm_no_trainer.make_accelerator(LoopArguments(output_dir=str(tmp_path))) is made
    assert asked == [("cpu", precision == "bf16")]
