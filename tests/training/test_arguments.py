import dataclasses

import pytest
from transformers import HfArgumentParser, TrainingArguments

from reformer_hf.training.arguments import (
    CorpusArguments,
    ImageArguments,
    ImageRunArguments,
    LayerArguments,
    ModelArguments,
    OptimizationArguments,
    RunArguments,
    TextRunArguments,
)

KINDS = [CorpusArguments, ModelArguments, OptimizationArguments, TextRunArguments]
IMAGE_KINDS = [ImageArguments, LayerArguments, OptimizationArguments, ImageRunArguments]


def test_defaults_are_a_context_of_8192_bytes_that_fits_eight_minutes():
    _, model, _, run = HfArgumentParser(KINDS).parse_args_into_dataclasses([])
    assert model.block_size == 8192
    assert run.max_minutes < 8


@pytest.mark.parametrize("kinds", [KINDS, IMAGE_KINDS])
def test_no_name_means_two_things(kinds):
    names = [field.name for kind in kinds for field in dataclasses.fields(kind)]
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
        (ImageArguments, {}, "dataset_name=None and train_dir=None: give one"),
        (ImageArguments, {"dataset_name": "a", "train_dir": "b"}, "dataset_name='a' and train_dir"),
        (ImageArguments, {"dataset_name": "a", "validation_dir": "b"}, "validation_dir='b'"),
        (ImageArguments, {"train_dir": "a", "image_mode": "CMYK"}, "image_mode='CMYK'.*RGB"),
        (ImageArguments, {"train_dir": "a", "image_size": 0}, "image_size=0"),
        (ImageArguments, {"train_dir": "a", "train_val_split": 1.0}, "train_val_split=1.0"),
        (ImageRunArguments, {"temperature": 0.0}, "temperature=0.0"),
        (RunArguments, {"save_steps": 12, "logging_steps": 5}, "save_steps=12"),
    ],
)
def test_impossible_values_are_named(kind, values, message):
    with pytest.raises(ValueError, match=message):
        kind(**values)
