import re
from dataclasses import dataclass

import pytest

from reformer_hf.training import argument_checks
from reformer_hf.training.argument_checks import check_predictions
from reformer_hf.training.arguments import (
    DataTrainingArguments,
    LoopArguments,
    MaskedDataArguments,
    PretrainedModelArguments,
    ReformerTrainingArguments,
    argument,
)
from reformer_hf.training.parsing import parse_arguments


@pytest.mark.parametrize(
    "fields, message",
    [
        ({}, "dataset_name, train_file, validation_file are all missing"),
        ({"train_file": "a", "validation_split_percentage": 0}, "validation_split_percentage=0"),
        ({"train_file": "a", "block_size": 0}, "block_size=0: must be above 0"),
        ({"train_file": "a", "packing": "document"}, "packing='document': choose from documents,"),
        ({"train_file": "a", "data_format": "byte"}, "data_format='byte': choose from text, bytes"),
        ({"train_file": "a", "max_train_samples": -1}, "max_train_samples=-1"),
        ({"dataset_name": "a", "data_format": "bytes"}, "data_format='bytes' reads files"),
        ({"train_file": "a", "streaming": True, "data_format": "bytes"}, "leave dataset_name"),
    ],
)
def test_what_does_not_fit_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        DataTrainingArguments(**fields)


@pytest.mark.parametrize(
    "name, value",
    [
        ("checkpointing_steps", "often"),
        ("checkpointing_steps", "0"),
        ("max_train_steps", 0),
        ("learning_rate", -1.0),
        ("save_total_limit", 0),
    ],
)
def test_what_does_not_fit_a_loop_is_refused(name, value):
    with pytest.raises(ValueError, match=f"{name}={value}"):
        LoopArguments(**{name: value})


@pytest.mark.parametrize("given, steps", [(None, None), ("epoch", None), ("5", 5)])
def test_checkpoints_come_by_steps_or_by_epochs(given, steps):
    assert LoopArguments(checkpointing_steps=given).steps_between_checkpoints == steps


def test_a_file_cannot_choose_what_is_not_there():
    with pytest.raises(ValueError, match="optim='adamww': choose from adamw, adafactor"):
        LoopArguments(optim="adamww")
    with pytest.raises(ValueError, match="max_grad_norm=-1.0: must be above 0, or 0 for none"):
        LoopArguments(max_grad_norm=-1.0)


def test_max_seq_length_is_another_name_of_block_size():
    assert MaskedDataArguments(train_file="a", max_seq_length=64).block_size == 64
    assert MaskedDataArguments(train_file="a", block_size=64).block_size == 64
    assert MaskedDataArguments(train_file="a", block_size=64, max_seq_length=64).block_size == 64
    with pytest.raises(ValueError, match="max_seq_length=64 and block_size=32 are the same"):
        MaskedDataArguments(train_file="a", block_size=32, max_seq_length=64)
    with pytest.raises(ValueError, match="block_size=0: must be above 0"):
        MaskedDataArguments(train_file="a", max_seq_length=0)


@pytest.mark.parametrize("probability", [0.0, 1.0, -0.1])
def test_a_share_of_the_tokens_is_masked(probability):
    with pytest.raises(ValueError, match=f"mlm_probability={probability}: choose a share"):
        MaskedDataArguments(train_file="a", mlm_probability=probability)


def test_time_is_limited_or_not():
    assert ReformerTrainingArguments(max_minutes=None, use_cpu=True).max_minutes is None
    with pytest.raises(ValueError, match="max_minutes=0: must be above 0"):
        ReformerTrainingArguments(max_minutes=0, use_cpu=True)


@dataclass
class Shares:
    names: list[str] = argument(["a", "b"], "Such as '10%' of them.")


def test_help_may_have_a_per_cent_sign_and_lists_are_not_shared(capsys):
    Shares().names.append("c")
    assert parse_arguments([Shares], []) == (Shares(["a", "b"]),)
    with pytest.raises(SystemExit, match="0"):
        parse_arguments([Shares], ["--help"])
    assert "Such as '10%' of them." in capsys.readouterr().out


DATA = {"train_file": "a"}
OFF = [
    (PretrainedModelArguments, {}, "lora_r", 4, "without use_lora"),
    (PretrainedModelArguments, {}, "lora_alpha", 4, "without use_lora"),
    (PretrainedModelArguments, {}, "lora_dropout", 0.5, "without use_lora"),
    (PretrainedModelArguments, {}, "lora_target_modules", ["query"], "without use_lora"),
    (PretrainedModelArguments, {}, "model_revision", "v2", "without model_name_or_path"),
    (DataTrainingArguments, DATA, "shuffle_buffer_size", 9, "without streaming"),
    (DataTrainingArguments, DATA, "dataset_config_name", "de", "without dataset_name"),
    (DataTrainingArguments, {"dataset_name": "b"}, "train_file", "a", "with dataset_name"),
    (DataTrainingArguments, {"dataset_name": "b"}, "validation_file", "a", "with dataset_name"),
    (
        *(DataTrainingArguments, DATA | {"validation_file": "b"}),
        *("validation_split_percentage", 9, "with validation_file"),
    ),
    *(
        (DataTrainingArguments, DATA | {"data_format": "bytes"}, name, value, "with data_format")
        for name, value in {
            "preprocessing_num_workers": 2,
            "overwrite_cache": True,
            "keep_linebreaks": False,
            "text_column_name": "text",
        }.items()
    ),
    (
        *(DataTrainingArguments, DATA | {"streaming": True}),
        *("preprocessing_num_workers", 2, "with streaming"),
    ),
    (LoopArguments, {}, "report_to", "tensorboard", "without with_tracking"),
    (LoopArguments, {}, "muon_momentum", 0.9, "without muon_learning_rate"),
    (ReformerTrainingArguments, {"use_cpu": True}, "muon_momentum", 0.9, "without muon_learn"),
    (LoopArguments, {"optim": "adafactor"}, "adam_beta2", 0.9, "with optim='adafactor'"),
    (
        *(LoopArguments, {"lr_scheduler_type": "constant"}, "num_warmup_steps", 5),
        "with lr_scheduler_type='constant'",
    ),
]


@pytest.mark.parametrize("kind, fields, name, value, why", OFF, ids=lambda each: str(each)[-30:])
def test_what_would_have_no_effect_is_refused(kind, fields, name, value, why):
    kind(**fields)  # alone it is accepted
    with pytest.raises(ValueError, match=rf"{name}={re.escape(repr(value))} has no effect {why}"):
        kind(**fields, **{name: value})


@pytest.mark.parametrize(
    "fields, name, value, why",
    [
        ({}, "eval_steps", 5, "without eval_strategy='steps'"),
        ({"save_strategy": "no"}, "save_steps", 5, "without save_strategy='steps'"),
        ({"save_strategy": "epoch"}, "save_steps", 5, "without save_strategy='steps'"),
        ({}, "eval_delay", 5, "without eval_strategy"),
        ({}, "metric_for_best_model", "loss", "without eval_strategy"),
        ({}, "hub_model_id", "me/run", "without push_to_hub"),
        ({"lr_scheduler_type": "constant"}, "warmup_steps", 5, "with lr_scheduler_type='constant'"),
        ({"optim": "adafactor"}, "adam_beta1", 0.8, "with optim='adafactor'"),
    ],
)
def test_what_the_trainer_would_leave_out_is_said(monkeypatch, fields, name, value, why):
    said = []
    monkeypatch.setattr(argument_checks.logger, "warning", said.append)
    ReformerTrainingArguments(use_cpu=True, **fields)
    assert said == []
    ReformerTrainingArguments(use_cpu=True, **fields, **{name: value})
    assert said == [f"{name}={value!r} has no effect {why}"]


@pytest.mark.parametrize("has_instructions", [True, False])
def test_slow_bfloat16_is_said(monkeypatch, has_instructions):
    said = []
    monkeypatch.setattr(argument_checks.logger, "warning", said.append)
    monkeypatch.setattr(argument_checks, "multiplies_bfloat16", lambda: has_instructions)
    monkeypatch.setattr(argument_checks.platform, "machine", lambda: "x86_64")
    ReformerTrainingArguments(use_cpu=True)
    argument_checks.warn_of_slow_bfloat16("cuda", True)
    assert said == []
    ReformerTrainingArguments(use_cpu=True, bf16=True)
    assert ["no bfloat16 instructions" in each for each in said] == [True] * (not has_instructions)


def test_where_it_has_an_effect_it_is_taken():
    PretrainedModelArguments(use_lora=True, lora_r=4, lora_target_modules=["query"])
    PretrainedModelArguments(lora_r=8)  # the default
    DataTrainingArguments(train_file="a", streaming=True, shuffle_buffer_size=9)
    steps = {"eval_strategy": "steps", "eval_steps": 5, "metric_for_best_model": "loss"}
    ReformerTrainingArguments(use_cpu=True, do_train=True, resume_from_checkpoint="last", **steps)


@pytest.mark.parametrize(
    "name, value",
    [
        *[("max_steps", 0), ("max_steps", -2), ("num_train_epochs", 0), ("learning_rate", 0.0)],
        *[("learning_rate", float("nan")), ("per_device_train_batch_size", 0), ("seed", -1)],
        *[("save_total_limit", 0), ("gradient_accumulation_steps", 0), ("max_minutes", -1)],
        *[("logging_steps", 0), ("save_steps", 0), ("max_grad_norm", -1.0), ("seed", 2**32)],
        *[("weight_decay", -1.0), ("label_smoothing_factor", 2), ("label_smoothing_factor", -0.1)],
    ],
)
def test_what_is_out_of_range_is_refused_by_name(name, value):
    with pytest.raises(ValueError, match=f"^{name}={value}: "):
        ReformerTrainingArguments(use_cpu=True, **{name: value})
    if name in LoopArguments.__dataclass_fields__:
        with pytest.raises(ValueError, match=f"^{name}={value}: "):
            LoopArguments(**{name: value})


@pytest.mark.parametrize("kind", [LoopArguments, ReformerTrainingArguments])
def test_muon_goes_with_adamw_and_a_momentum_below_1(kind):
    cpu = {"use_cpu": True} if kind is ReformerTrainingArguments else {}
    for momentum in (1.0, -0.1):
        with pytest.raises(ValueError, match=f"^muon_momentum={momentum}: choose a share"):
            kind(muon_learning_rate=0.02, muon_momentum=momentum, **cpu)
    with pytest.raises(ValueError, match="^muon_learning_rate=0.02 with optim='adafactor'"):
        kind(muon_learning_rate=0.02, optim="adafactor", **cpu)
    with pytest.raises(ValueError, match="^muon_learning_rate=-1.0: must be above 0, or 0"):
        kind(muon_learning_rate=-1.0, **cpu)
    off = {"muon_learning_rate": 0.0, "muon_momentum": 0.9}  # on the command line, against a file
    assert kind(optim="adafactor", **off, **cpu).muon_momentum == 0.9


def test_the_home_folder_is_known_where_no_shell_was(monkeypatch):
    monkeypatch.setenv("HOME", "/somewhere")
    assert LoopArguments(output_dir="~/run").output_dir == "/somewhere/run"
    assert DataTrainingArguments(train_file="~/a b.txt").train_file == "/somewhere/a b.txt"
    assert PretrainedModelArguments(model_name_or_path="~").model_name_or_path == "/somewhere"
    training = ReformerTrainingArguments("~/ü", use_cpu=True)
    assert training.output_dir == "/somewhere/ü"


@pytest.mark.parametrize(
    ("fields", "higher"),
    [
        ({"metric_for_best_model": "bits_per_byte"}, False),
        ({"metric_for_best_model": "eval_perplexity"}, False),
        ({"metric_for_best_model": "mse"}, False),
        ({"metric_for_best_model": "eval_accuracy"}, True),
        ({"load_best_model_at_end": True}, False),
        ({"metric_for_best_model": "mse", "greater_is_better": True}, True),
    ],
)
def test_the_best_model_is_the_one_that_fits_its_metric(fields, higher, tmp_path):
    arguments = ReformerTrainingArguments(
        output_dir=str(tmp_path), eval_strategy="epoch", save_strategy="epoch", **fields
    )
    assert arguments.greater_is_better is higher


@pytest.mark.parametrize(
    "fields",
    [{"prediction_loss_only": True}, {"batch_eval_metrics": True}, {"label_names": ["tags"]}],
)
def test_what_keeps_predictions_from_metrics_is_refused(fields, tmp_path):
    (name,) = fields
    with pytest.raises(ValueError, match=f"{name}=.*leave it out"):
        check_predictions(ReformerTrainingArguments(output_dir=str(tmp_path), **fields))
    check_predictions(ReformerTrainingArguments(output_dir=str(tmp_path), label_names=["labels"]))
