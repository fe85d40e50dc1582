import dataclasses

import pytest
from transformers import HfArgumentParser, TrainingArguments

from reformer_hf.training.arguments import (
    CorpusArguments,
    ModelArguments,
    OptimizationArguments,
    RunArguments,
)

KINDS = [CorpusArguments, ModelArguments, OptimizationArguments, RunArguments]


def test_defaults_are_a_context_of_8192_bytes_that_fits_eight_minutes():
    _, model, _, run = HfArgumentParser(KINDS).parse_args_into_dataclasses([])
    assert model.block_size == 8192
    assert run.max_minutes < 8


def test_no_name_means_two_things():
    names = [field.name for kind in KINDS for field in dataclasses.fields(kind)]
    assert len(names) == len(set(names))


def test_optimisation_has_the_names_of_transformers():
    ours = {field.name for field in dataclasses.fields(OptimizationArguments)}
    assert ours <= {field.name for field in dataclasses.fields(TrainingArguments)}


@pytest.mark.parametrize(
    "kind, values, message",
    [
        (CorpusArguments, {"validation_split_percentage": 100}, "validation_split_percentage=100"),
        (CorpusArguments, {"validation_split_percentage": 0}, "validation_split_percentage=0"),
        (ModelArguments, {"block_size": 0}, "block_size=0"),
        (ModelArguments, {"hidden_size": 10, "num_attention_heads": 4}, "hidden_size=10"),
        (OptimizationArguments, {"learning_rate": 0.0}, "learning_rate=0.0"),
        (OptimizationArguments, {"max_steps": -1}, "max_steps=-1"),
        (RunArguments, {"max_minutes": -2.0}, "max_minutes=-2.0"),
        (RunArguments, {"save_steps": 12, "logging_steps": 5}, "save_steps=12"),
    ],
)
def test_impossible_values_are_named(kind, values, message):
    with pytest.raises(ValueError, match=message):
        kind(**values)
