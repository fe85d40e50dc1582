import json

import pytest
from transformers import Trainer, TrainingArguments

from reformer_hf.training.arguments import DataTrainingArguments
from reformer_hf.training.record import RUN_RECORD, RunRecord, describe_data
from reformer_hf.training.trainer import train_or_load
from tests.models.tiny import tiny_lm

ROWS = [{"input_ids": [5, 6, 7, 8] * 4, "labels": [5, 6, 7, 8] * 4} for _ in range(8)]


def build(folder, **options):
    options = {"save_strategy": "no", "max_steps": 3, "logging_steps": 1} | options
    arguments = TrainingArguments(
        folder, report_to="none", use_cpu=True, disable_tqdm=True, **options
    )
    callback = RunRecord("bytes", "ada/bytes")
    model = tiny_lm()
    model.lm_head.bias.requires_grad_(False)
    return Trainer(model, arguments, train_dataset=ROWS, eval_dataset=ROWS, callbacks=[callback])


def read(folder):
    return json.loads((folder / RUN_RECORD).read_text())


def test_a_run_is_recorded(tmp_path):
    trainer = build(tmp_path, learning_rate=0.125, hub_token="secret")
    trainer.train()
    record = read(tmp_path)
    assert record["evaluation"] == {}
    assert record["data"]["dataset"] == "ada/bytes"
    assert record["model"]["architecture"] == "ReformerHFForCausalLM"
    assert record["model"]["parameters"] == trainer.model.num_parameters()
    assert record["model"]["trained_parameters"] == record["model"]["parameters"] - 40
    assert record["training"]["steps"] == 3 and record["training"]["epochs"] == 3.0
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert record["training"]["last_loss"] == losses[-1] and record["training"]["seconds"] > 0
    assert record["hyperparameters"]["learning_rate"] == 0.125
    assert record["hyperparameters"]["optim"].startswith("adamw")
    assert "torch" in record["machine"]["versions"]
    assert "secret" not in (tmp_path / RUN_RECORD).read_text()
    results = trainer.evaluate()
    assert read(tmp_path)["evaluation"] == {"loss": pytest.approx(results["eval_loss"])}


def test_a_resumed_run_says_from_where_it_was_timed(tmp_path):
    build(tmp_path, save_strategy="steps", save_steps=2).train()
    build(tmp_path).train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert read(tmp_path)["training"]["timed_from_step"] == 2


def test_an_evaluation_counts_only_for_the_weights_that_it_was_of(tmp_path):
    trainer = build(tmp_path)
    trainer.evaluate()
    assert not (tmp_path / RUN_RECORD).exists()  # no run
    trainer.train()
    assert read(tmp_path)["evaluation"] == {}
    trainer = build(tmp_path, eval_strategy="steps", eval_steps=2)
    evaluate = trainer.evaluate
    trainer.evaluate = lambda *args, **kwargs: (
        evaluate(*args, **kwargs) if trainer.state.global_step == 2 else {}
    )
    trainer.train()
    assert read(tmp_path)["evaluation"] == {}  # that was of step 2
    build(tmp_path, eval_strategy="steps", eval_steps=3).train()
    assert read(tmp_path)["evaluation"].keys() == {"loss"}


def test_several_evaluation_sets(tmp_path):
    trainer = build(tmp_path)
    trainer.train()
    trainer.evaluate({"one": ROWS[:2], "two": ROWS[2:]})
    assert read(tmp_path)["evaluation"].keys() == {"one_loss", "two_loss"}


def test_folders_are_named_without_their_path(tmp_path):
    trainer = build(tmp_path)
    trainer.model.config._name_or_path = str(tmp_path)
    trainer.train()
    assert read(tmp_path)["model"]["started_from"] == tmp_path.name
    trainer.model.config._name_or_path = "ada/first"
    trainer.evaluate()
    assert read(tmp_path)["model"]["started_from"] == "ada/first"


@pytest.mark.parametrize(
    "fields, expected",
    [
        (
            {"train_file": "some/folder/a.txt"},
            ("the file a.txt", None, "rows that are held out"),
        ),
        (
            {"dataset_name": "ada/bytes", "dataset_config_name": "raw"},
            ("the dataset ada/bytes (raw)", "ada/bytes", "rows that are held out"),
        ),
        (
            {"train_file": "a.txt", "validation_file": "some/b.txt"},
            ("the file a.txt", None, "the file b.txt"),
        ),
    ],
)
def test_data_are_named_without_their_folders(fields, expected):
    assert tuple(describe_data(DataTrainingArguments(**fields)).values()) == expected


def test_a_local_dataset_is_none_of_the_hub(tmp_path):
    described = describe_data(DataTrainingArguments(dataset_name=str(tmp_path)))
    assert described["dataset"] is None and described["data"] == f"the dataset {tmp_path.name}"


def test_a_run_that_is_resumed_at_its_end_is_recorded(tmp_path):
    build(tmp_path, save_strategy="steps", save_steps=3).train()
    (tmp_path / RUN_RECORD).unlink()
    trainer = build(tmp_path)
    train_or_load(trainer, str(tmp_path / "checkpoint-3"))
    trainer.evaluate()
    assert read(tmp_path)["training"]["steps"] == read(tmp_path)["training"]["timed_from_step"] == 3
    assert read(tmp_path)["evaluation"].keys() == {"loss"}
