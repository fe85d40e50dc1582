from dataclasses import dataclass

import pytest

from reformer_hf.training.arguments import (
    DataTrainingArguments,
    LoopArguments,
    MaskedDataArguments,
    ReformerTrainingArguments,
    argument,
)
from reformer_hf.training.parsing import parse_arguments


@pytest.mark.parametrize(
    "fields, message",
    [
        ({}, "dataset_name, train_file and validation_file are all missing"),
        ({"train_file": "a", "validation_split_percentage": 0}, "validation_split_percentage=0"),
        ({"train_file": "a", "block_size": 0}, "block_size=0: must be at least 1"),
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
    with pytest.raises(ValueError, match="block_size=0: must be at least 1"):
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
