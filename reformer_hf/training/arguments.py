"""The arguments of a training run, as dataclasses for `transformers.HfArgumentParser`.

Names are those of transformers' `TrainingArguments` and example scripts wherever the meaning is
the same. What decides the trained weights is in those of the data (`CorpusArguments`,
`ImageArguments`), the model (`LayerArguments`, `ModelArguments`) and `OptimizationArguments`;
`RunArguments` may change when a run is continued.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields

CHANNELS = {"RGB": 3, "L": 1}
"""Bytes of a pixel, by the mode of an image."""


def _argument(default, help: str):
    return field(default=default, metadata={"help": help})


@dataclass
class CorpusArguments:
    corpus: str | None = _argument(
        None,
        "A text file, a folder of text files, or the name of a dataset on the Hub. "
        "Default: the source of this Python's standard library.",
    )
    dataset_config_name: str | None = _argument(None, "Configuration of the Hub dataset.")
    text_column_name: str = _argument("text", "Column of the Hub dataset that holds the text.")
    validation_split_percentage: int = _argument(5, "Share of the corpus that is held out.")

    def __post_init__(self):
        if not 0 < self.validation_split_percentage < 100:
            raise ValueError(
                f"validation_split_percentage={self.validation_split_percentage}: "
                "choose a whole number from 1 to 99"
            )


@dataclass
class ImageArguments:
    dataset_name: str | None = _argument(None, "A dataset of images on the Hub.")
    dataset_config_name: str | None = _argument(None, "Configuration of the Hub dataset.")
    image_column_name: str = _argument("image", "Column of the dataset that holds the images.")
    train_dir: str | None = _argument(None, "A folder of images, instead of a dataset.")
    validation_dir: str | None = _argument(None, "A folder of held-out images.")
    train_val_split: float = _argument(
        0.05, "Share of the images that is held out, if there is no validation split or folder."
    )
    image_size: int = _argument(64, "Images are cut to a square and scaled to this many pixels.")
    image_mode: str = _argument("RGB", "RGB: three bytes a pixel; L: one, shades of grey.")
    max_train_samples: int | None = _argument(None, "Stop reading at so many training images.")

    def __post_init__(self):
        _require_positive(self)
        if (self.dataset_name is None) == (self.train_dir is None):
            raise ValueError(
                f"dataset_name={self.dataset_name!r} and train_dir={self.train_dir!r}: "
                "give one of them, to say which images to train on"
            )
        if self.validation_dir is not None and self.train_dir is None:
            raise ValueError(
                f"validation_dir={self.validation_dir!r} without train_dir: a dataset brings its "
                "own validation split, or train_val_split makes one"
            )
        if self.image_mode not in CHANNELS:
            raise ValueError(f"image_mode={self.image_mode!r}: choose one of {list(CHANNELS)}")
        if self.train_val_split >= 1:
            raise ValueError(f"train_val_split={self.train_val_split}: choose a share below 1")


@dataclass
class LayerArguments:
    hidden_size: int = _argument(128, "Width of each of the two reversible streams.")
    num_hidden_layers: int = _argument(4, "Layers; local and LSH attention alternate.")
    num_attention_heads: int = _argument(2, "Heads; they divide hidden_size.")
    feed_forward_size: int = _argument(512, "Width inside the feed-forward layers.")
    attn_chunk_length: int = _argument(64, "Bytes in a chunk of attention.")
    num_hashes: int = _argument(2, "Rounds of hashing in an LSH layer.")

    def __post_init__(self):
        _require_positive(self)
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size={self.hidden_size} is not a multiple of "
                f"num_attention_heads={self.num_attention_heads}: change one of them"
            )


@dataclass
class ModelArguments(LayerArguments):
    block_size: int = _argument(8192, "Context: bytes in a training window, and the longest input.")


@dataclass
class OptimizationArguments:
    max_steps: int = _argument(250, "Optimiser steps.")
    per_device_train_batch_size: int = _argument(1, "Windows in a step.")
    learning_rate: float = _argument(1e-3, "Highest learning rate of AdamW.")
    warmup_steps: int = _argument(20, "Steps in which the learning rate rises.")
    weight_decay: float = _argument(0.01, "Weight decay of AdamW.")
    seed: int = _argument(0, "Seed of the weights, the order of the windows and the hashing.")

    def __post_init__(self):
        _require_positive(self, "max_steps", "per_device_train_batch_size", "learning_rate")


@dataclass
class RunArguments:
    output_dir: str = _argument("outputs/quickstart", "Folder for all that the run writes.")
    max_minutes: float = _argument(
        5.5, "Stop training after so many minutes, resumed ones included, even before max_steps."
    )
    logging_steps: int = _argument(5, "Log the training loss every so many steps.")
    eval_steps: int = _argument(25, "Evaluate on a few held-out windows every so many steps.")
    save_steps: int = _argument(25, "Save a checkpoint every so many steps.")
    max_eval_samples: int = _argument(32, "Held-out windows in the evaluation at the end.")

    def __post_init__(self):
        _require_positive(self)
        if self.save_steps % self.logging_steps:
            raise ValueError(
                f"save_steps={self.save_steps} is not a multiple of "
                f"logging_steps={self.logging_steps}: a resumed run would log a wrong mean loss"
            )


@dataclass
class TextRunArguments(RunArguments):
    max_new_tokens: int = _argument(120, "Bytes of the sample at the end.")


@dataclass
class ImageRunArguments(RunArguments):
    output_dir: str = _argument("outputs/images", "Folder for all that the run writes.")
    max_minutes: float = _argument(
        60.0, "Stop training after so many minutes, resumed ones included, even before max_steps."
    )
    max_eval_samples: int = _argument(64, "Held-out images in the evaluation at the end.")
    num_samples: int = _argument(4, "Images that are sampled, and completed, at the end.")
    temperature: float = _argument(1.0, "Of the samples; 1 samples what the model has learnt.")


def _require_positive(arguments, *names: str) -> None:
    """Check that the named fields, or all that are numbers, are above 0."""
    for name in names or [each.name for each in fields(arguments)]:
        value = getattr(arguments, name)
        if isinstance(value, int | float) and value <= 0:
            raise ValueError(f"{name}={value}: must be above 0")
