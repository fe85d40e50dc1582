"""Runs whose rows grow: the Trainer and the loop train alike, and go on bit for bit."""

import csv
import json
import shutil

import pytest
from accelerate.state import AcceleratorState, GradientState, PartialState
from datasets import Dataset
from transformers import TrainerState, TrainingArguments

from reformer_hf import ReformerHFByteTokenizer
from reformer_hf.training import GrowingRowsTrainer, PieceBatches, RowPieces, RowSchedule
from reformer_hf.training.arguments import (
    DataTrainingArguments,
    LoopArguments,
    MaskedDataArguments,
    PretrainedModelArguments,
    ReformerTrainingArguments,
)
from reformer_hf.training.data.collator import ReformerDataCollator
from reformer_hf.training.tasks.language_model import train_clm, train_mlm
from reformer_hf.training.trainer import CausalLMTrainer, training_totals
from scripts import train_clm_no_trainer
from tests.models.tiny import tiny_lm
from tests.training.runs import (
    largest_difference,
    losses,
    tiny_overrides,
    weights,
    write_documents,
)

ROWS = {"row_lengths": [16, 32, 64], "tokens_per_step": [64]}  # 4, 2 and 1 rows a step
STEPS = 9  # 3 of each


@pytest.fixture(autouse=True)
def fresh_accelerate(monkeypatch):
    """accelerate's states are shared by the whole process: leave none behind."""
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    for state in (AcceleratorState, PartialState, GradientState):
        state._reset_state()
    yield
    for state in (AcceleratorState, PartialState, GradientState):
        state._reset_state()


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_documents(tmp_path_factory.mktemp("data") / "train.jsonl")


def model_arguments(data, **fields):
    overrides = tiny_overrides(**fields)
    return PretrainedModelArguments(
        cache_dir=str(data.parent / "cache"), config_overrides=overrides
    )


def with_trainer(data, folder, rows=None, model=None, masked=False, **fields):
    fields = {
        "do_train": True,
        "max_steps": STEPS,
        "learning_rate": 1e-2,
        "weight_decay": 0.0,
        "optim": "adamw_torch",
        "logging_steps": 1,
        "save_steps": 100,
        "disable_tqdm": True,
        "use_cpu": True,
        "report_to": "none",
    } | fields
    kind = MaskedDataArguments if masked else DataTrainingArguments
    (train_mlm if masked else train_clm)(
        model_arguments(data, **(model or {"dropout": 0.1})),
        kind(**{"train_file": str(data), "block_size": 64, "max_eval_samples": 5} | (rows or ROWS)),
        ReformerTrainingArguments(output_dir=str(folder), **fields),
    )
    state = TrainerState.load_from_json(str(folder / "trainer_state.json"))
    return state.log_history


def with_loop(data, folder, rows=None, model=None, **fields):
    AcceleratorState._reset_state(reset_partial_state=True)
    fields = {
        "max_train_steps": STEPS,
        "learning_rate": 1e-2,
        "logging_steps": 1,
        "max_grad_norm": 1.0,
    } | fields
    train_clm_no_trainer.train_clm_no_trainer(
        model_arguments(data, **(model or {"dropout": 0.1})),
        DataTrainingArguments(
            **{"train_file": str(data), "block_size": 64, "max_eval_samples": 5} | (rows or ROWS)
        ),
        LoopArguments(output_dir=str(folder), **fields),
    )
    return []


def test_the_log_and_the_record_say_what_the_steps_had(data, tmp_path, capsys):
    log = with_trainer(data, tmp_path / "run")
    assert "3 steps of 4 rows of 16 tokens, 3 steps of 2 rows of 32 tokens" in (
        capsys.readouterr().out
    )
    steps = [entry for entry in log if "loss" in entry]
    assert [entry["row_length"] for entry in steps] == [16] * 3 + [32] * 3 + [64] * 3
    assert steps[-1]["epoch"] == pytest.approx(9 * 64 / 2040, rel=0.1)  # passes over the data
    record = json.loads((tmp_path / "run" / "run_record.json").read_text())
    assert record["hyperparameters"]["row_lengths"] == "[16, 32, 64]"
    assert record["hyperparameters"]["rows_per_step"] == "[4, 2, 1]"
    assert "per_device_train_batch_size" not in record["hyperparameters"]
    assert record["training"]["epochs"] == pytest.approx(steps[-1]["epoch"], abs=1e-4)
    results = json.loads((tmp_path / "run" / "train_results.json").read_text())
    rows = results["train_samples_per_second"] * results["train_runtime"]
    assert rows == pytest.approx(3 * (4 + 2 + 1), rel=0.01)


def test_the_loop_learns_what_the_trainer_learns(data, tmp_path):
    # The Trainer draws a number from the default generator at the beginning.
    model = {"redraw_rotations": False}
    log = with_trainer(data, tmp_path / "trainer", model=model)
    with_loop(data, tmp_path / "loop", model=model, checkpointing_steps="9")
    assert largest_difference(weights(tmp_path / "loop"), weights(tmp_path / "trainer")) < 1e-5
    progress = json.loads((tmp_path / "loop" / "checkpoint-9" / "progress.json").read_text())
    for one, other in zip(losses(log), losses(progress["log_history"]), strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-4)
    lengths = [entry["row_length"] for entry in progress["log_history"] if "loss" in entry]
    assert lengths == [16] * 3 + [32] * 3 + [64] * 3 and progress["rows"] == 21
    record = json.loads((tmp_path / "loop" / "run_record.json").read_text())
    assert record["hyperparameters"]["rows_per_step"] == "[4, 2, 1]"


def test_rows_of_one_length_train_as_before(data, tmp_path):
    model = {"redraw_rotations": False}
    batch = {"per_device_train_batch_size": 3}
    with_trainer(data, tmp_path / "rows", {"row_lengths": [64]}, model, **batch)
    with_trainer(data, tmp_path / "before", {"packing": "documents"}, model, **batch)
    assert largest_difference(weights(tmp_path / "rows"), weights(tmp_path / "before")) == 0


@pytest.mark.parametrize("train", [with_trainer, with_loop])
def test_a_run_goes_on_bit_for_bit(train, data, tmp_path):
    # An entry of the loop's log may have steps before and after an interruption.
    loop = {"checkpointing_steps": "1", "logging_steps": 2}
    fields = loop if train is with_loop else {"save_steps": 1}
    fields = fields | {"save_total_limit": 9, "gradient_accumulation_steps": 2}
    log = train(data, tmp_path / "straight", **fields)
    for step in (2, 3):  # within a length, and between two
        name, parts = f"checkpoint-{step}", tmp_path / f"from-{step}"
        shutil.copytree(tmp_path / "straight" / name, parts / name)
        again = train(data, parts, resume_from_checkpoint="last", **fields)
        assert largest_difference(weights(tmp_path / "straight"), weights(parts)) == 0
        assert losses(log) == losses(again)
        assert bits_in(parts) == bits_in(tmp_path / "straight") and len(bits_in(parts)) >= 5


def bits_in(folder):
    lines = (folder / "loss_curve.csv").read_text().splitlines()
    return [row["train_bits_per_byte"] for row in csv.DictReader(lines)]


@pytest.mark.parametrize("train", [with_trainer, with_loop])
def test_a_checkpoint_of_another_schedule_is_refused(train, data, tmp_path):
    loop = train is with_loop
    steps = "max_train_steps" if loop else "max_steps"
    train(data, tmp_path / "run", **({"checkpointing_steps": "4"} if loop else {"save_steps": 4}))
    # In another folder, or the settings of the data are compared first.
    checkpoint = tmp_path / "other" / "checkpoint-4"
    shutil.copytree(tmp_path / "run" / "checkpoint-4", checkpoint)
    for rows, fields in (
        (ROWS, {steps: 12}),
        (ROWS | {"tokens_per_step": [128]}, {}),
        (ROWS | {"row_lengths": [32, 64]}, {}),
        ({"packing": "documents"}, {"per_device_train_batch_size": 1}),
    ):
        with pytest.raises(ValueError, match="checkpoint-4: the rows of its steps were decided by"):
            train(data, checkpoint.parent, rows, resume_from_checkpoint=str(checkpoint), **fields)
        (checkpoint.parent / "_run_settings.json").unlink()
    with pytest.raises(ValueError, match=r"data.tokens_per_step was \[64\], now \[128\]"):
        rows = ROWS | {"tokens_per_step": [128]}
        train(data, tmp_path / "run", rows, resume_from_checkpoint="last")
    if not loop:  # nor one of a plain Trainer, which does not say
        for name in ("rows.json", "seal.json"):
            (checkpoint / name).unlink()
        with pytest.raises(ValueError, match="were decided by None and are by"):
            train(data, checkpoint.parent, resume_from_checkpoint=str(checkpoint))


@pytest.mark.parametrize("format", ["bytes", "masked"])
def test_bytes_and_masked_models_have_growing_rows(format, data, tmp_path):
    rows = ROWS | ({"data_format": "bytes"} if format == "bytes" else {})
    log = with_trainer(data, tmp_path / "run", rows, masked=format == "masked", do_eval=True)
    assert [entry["row_length"] for entry in log if "loss" in entry][::4] == [16, 32, 64]
    results = json.loads((tmp_path / "run" / "all_results.json").read_text())
    assert 0 < results["eval_loss"] < 8


def own_trainer(folder, trainer_class, schedule, **fields):
    fields = {"max_steps": STEPS, "report_to": "none", "use_cpu": True, "save_strategy": "no"} | (
        fields
    )
    ids = [[2 + (7 * row + place) % 250 for place in range(64)] for row in range(20)]
    ids.append(ids[0][:10])
    return trainer_class(
        model=tiny_lm(vocab_size=258),
        args=TrainingArguments(str(folder), disable_tqdm=True, **fields),
        train_dataset=Dataset.from_dict({"input_ids": ids}),
        processing_class=ReformerHFByteTokenizer(),
        data_collator=ReformerDataCollator(ReformerHFByteTokenizer()),
        row_schedule=schedule,
    )


@pytest.mark.parametrize("trainer_class", [GrowingRowsTrainer, CausalLMTrainer])
def test_a_trainer_of_ones_own_has_growing_rows(trainer_class, tmp_path):
    schedule = RowSchedule([16, 32, 64], [64], STEPS)
    trainer = own_trainer(tmp_path, trainer_class, schedule, seed=3)
    seen = [tuple(batch["input_ids"].shape) for batch in trainer.get_train_dataloader()]
    assert seen == [(4, 16)] * 3 + [(2, 32)] * 3 + [(1, 64)] * 2 + [(1, 10)]  # the short row
    trainer.train()
    assert trainer.state.global_step == STEPS
    order = PieceBatches(RowPieces(trainer.train_dataset.rows, 64), schedule, 3)
    tokens = sum(piece.stop - piece.start for batch in order for piece in batch)
    assert tokens == schedule.tokens(STEPS) - 54
    if trainer_class is CausalLMTrainer:  # which counts the tokens
        assert training_totals(trainer)["tokens"] == tokens


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"max_steps": 5}, "max_steps=5: the row_schedule has 9; give the same"),
        ({"eval_strategy": "epoch", "eval_steps": 1}, "eval_strategy='epoch' with row_lengths"),
        ({"save_strategy": "epoch"}, "save_strategy='epoch' with row_lengths"),
        ({"train_sampling_strategy": "sequential"}, "has no effect with row_lengths"),
        ({"ignore_data_skip": True}, "ignore_data_skip=True has no effect with row_lengths"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(fields, message, tmp_path):
    schedule = RowSchedule([16, 32, 64], [64], STEPS)
    with pytest.raises(ValueError, match=message):
        own_trainer(tmp_path, CausalLMTrainer, schedule, **fields)


def test_a_run_needs_rows_of_the_last_length(data, tmp_path):
    with pytest.raises(ValueError, match="the last one must be block_size=64"):
        with_loop(data, tmp_path / "run", {"row_lengths": [16, 32]})
    with pytest.raises(ValueError, match="rows of 64 tokens .* where the last length is 128"):
        own_trainer(tmp_path, CausalLMTrainer, RowSchedule([64, 128], [64], STEPS))
