"""Reading weight files: the two names of the head's bias, and files that cannot be read."""

from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor, nn
from transformers.core_model_loading import ConversionOps, WeightConverter
from transformers.modeling_utils import load_state_dict

HEAD_BIAS = "lm_head.bias"
HEAD_BIAS_IN_DECODER = "lm_head.decoder.bias"
"""The second name of the head's bias, in files of transformers 2 to 4."""

CONSTANT_BUFFERS = [r"\.(self_)?mask_value_float(16|32)$", r"(^|\.)position_ids$"]
"""Patterns of entries in old files that are no weights."""


def choose_head_bias(biases: list[Tensor]) -> Tensor:
    """Choose between the biases that a file holds under the two names.

    Transformers 2 to 4 had one parameter under both. The script that made the published
    checkpoints replaced it under one name only, which left zeros under the other.

    Args:
        biases: one or two tensors.

    Returns:
        The bias; of two that differ, the one that is not all zeros.

    Raises:
        ValueError: if there are two that differ and neither is zero.
    """
    trained = [bias for bias in biases if bias.any()] or biases[:1]
    if any(not torch.equal(bias, trained[0]) for bias in trained):
        raise ValueError(
            f"{HEAD_BIAS} and {HEAD_BIAS_IN_DECODER} hold different biases, and either could be "
            "meant: remove one of them from the weights file"
        )
    return trained[0]


class _NoOperation(ConversionOps):
    """Stands for the operations of `HeadBiasConverter`, which has none."""

    def convert(self, input_dict: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        return input_dict


class HeadBiasConverter(WeightConverter):
    """Reads the head's bias under either name, and writes it under the first.

    This is a converter and not an operation of one, because transformers only logs an error in an
    operation.
    """

    def __init__(self) -> None:
        super().__init__([HEAD_BIAS, HEAD_BIAS_IN_DECODER], HEAD_BIAS, [_NoOperation()])

    def convert(self, layer_name: str, **kwargs: Any) -> dict[str, Tensor]:
        """Return the chosen bias under its full name."""
        tensors = self.materialize_tensors()
        return {
            layer_name: choose_head_bias([bias for group in tensors.values() for bias in group])
        }

    def reverse_transform(self) -> WeightConverter:
        """Save under the name of the parameter."""
        return HeadBiasConverter()


def add_base_prefix(model: nn.Module, weights: dict[str, Any], prefix: str, *_: Any) -> None:
    """Rename weights of an encoder-decoder that was saved before it had a base model.

    `from_pretrained` does so by itself; this is for `load_state_dict`, by which a Trainer resumes.

    Args:
        model: whose weights they are.
        weights: name to weight, of which those of this model are renamed.
        prefix: of the names of this model's weights.
    """
    for name in [name for name in weights if name.startswith(prefix)]:
        own = name.removeprefix(prefix)
        if own.startswith(("encoder.", "decoder.", "enc_to_dec_proj.")):
            weights[f"{prefix}{model.base_model_prefix}.{own}"] = weights.pop(name)


@contextmanager
def explain_unreadable_files(folder: str | PathLike | None) -> Iterator[None]:
    """If loading fails, say so clearly where the reason is a weights file that cannot be read.

    Args:
        folder: what is loaded; anything but a folder on this machine is left to transformers.

    Raises:
        ImportError: naming the library that quantised weights need, where it is missing.
        OSError: naming the file and the fix.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] != "torchao":
            raise
        raise ImportError(
            f"{folder} has quantised weights, and torchao is not installed: "
            'pip install "reformer_hf[quantization]"'
        ) from error
    except Exception as error:
        for file in _weight_files(folder):
            _check_readable(file, error)
        raise


def _weight_files(folder: str | PathLike | None) -> list[Path]:
    """The weights files of a folder that transformers would read."""
    if folder is None:
        return []
    patterns = ("model*.safetensors", "pytorch_model*.bin")
    return next(filter(None, (sorted(Path(folder).glob(pattern)) for pattern in patterns)), [])


def _check_readable(file: Path, cause: Exception) -> None:
    try:
        load_state_dict(file, map_location="meta")
    except UnpicklingError:
        raise OSError(
            f"{file} is not a file of tensors alone; anything else could run code when it is read, "
            "so none of it was run. Use a file of tensors, best in safetensors format"
        ) from cause
    except Exception:
        raise OSError(f"{file} is damaged or cut short: download or copy it again") from cause
