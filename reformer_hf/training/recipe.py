"""What a script chooses for a new model where its arguments leave it open.

The defaults of `TrainingArguments` are for fine-tuning: with them a new model hardly begins to
learn. A model that is loaded, a `ReformerHFConfig` and functions such as `train_clm` know nothing
of this. docs/choosing.md has the measurements behind the values.
"""

import os
import shlex
from collections.abc import Collection, Mapping
from typing import Any

import torch

from reformer_hf.training.build import parse_overrides
from reformer_hf.training.data.text import LONGEST_BLOCK
from reformer_hf.training.parsing import command_line

MODEL_FIELDS = {
    "position_embedding_type": "rotary",
    "conv_kernel": "2",
    "use_qk_norm": "true",
    "lsh_local_round": "true",
}
"""Of the configuration, as `config_overrides` writes them."""

CAUSAL_FIELDS = {"lsh_next_values": "true"}
"""The same, of language models that read from left to right."""

BYTE_FIELDS = {"ngram_sizes": "[2,3,4,5]"}
"""The same, where tokens are bytes."""

OPTIMIZER = {
    "learning_rate": "3e-3",
    "muon_learning_rate": "1e-2",
    "adam_beta2": "0.95",
    "lr_scheduler_type": "cosine",
    "warmup_steps": "20",
    "num_warmup_steps": "20",  # the loop's name for it
}
CLASSIFIER_OPTIMIZER = OPTIMIZER | {"learning_rate": "2e-3", "muon_learning_rate": "0"}
"""Steps of a few labels are noisy, and those of Muon do not become smaller by that."""

ROW_LENGTHS = (512, 1024, 2048)
"""Before `block_size`."""

STEP_TOKENS = 2048

_DECIDE_ROWS = {
    *("row_lengths", "tokens_per_step", "per_device_train_batch_size", "auto_find_batch_size"),
    *("gradient_accumulation_steps", "train_sampling_strategy", "ignore_data_skip", "streaming"),
}
_INTERVALS = ("eval_strategy", "save_strategy", "logging_strategy", "checkpointing_steps")


def new_model_recipe(
    given: Mapping[str, Any],
    names: Collection[str],
    optimizer: Mapping[str, str] = OPTIMIZER,
    causal: bool = True,
) -> dict[str, Any]:
    """Choose arguments for training a new model, and print them; for `parse_arguments`.

    What is given stays. A `learning_rate` or an `optim` that is given is an optimizer of the
    user's: AdamW trains all unless `muon_learning_rate` is given, too. A batch size that is given
    is of rows that do not grow.

    Args:
        given: arguments by name, of the command line or a settings file.
        names: of the arguments that the script has.
        optimizer: arguments of the optimizer and its schedule.
        causal: whether the model is a language model that reads from left to right.

    Returns:
        Arguments by name; none for a checkpoint, a configuration of its own, or without training.

    Raises:
        ValueError: if `config_overrides` cannot be read.
    """
    trains = "do_train" not in names or given.get("do_train")
    if not trains or given.get("model_name_or_path") or given.get("config_name"):
        return {}
    text = given.get("config_overrides") or ""
    fields = parse_overrides(text) if text else {}
    ours = _model_fields(given, fields, causal)
    overrides = {"config_overrides": ",".join([*ours, text] if text else ours)} if ours else {}
    chosen = overrides | _optimizer(given, optimizer) | _rows(given, fields)
    chosen = {name: value for name, value in chosen.items() if name in names}
    if chosen and os.environ.get("RANK", "0") == "0":
        print(f"For a new model (docs/new_models.md): {shlex.join(command_line(chosen))}")
    return chosen


def _model_fields(given: Mapping[str, Any], fields: Mapping[str, Any], causal: bool) -> list[str]:
    """Fields of the configuration beside those given."""
    if fields.get("attention_scope") == "chunk":  # that of published checkpoints
        return []
    in_bytes = given.get("tokenizer_name") in (None, "bytes")
    takes_next = causal and fields.get("lsh_local_round", True)  # which next values need
    ours = MODEL_FIELDS | (CAUSAL_FIELDS if takes_next else {}) | (BYTE_FIELDS if in_bytes else {})
    if any(name.startswith("axial") for name in fields):
        ours = ours | {"position_embedding_type": "axial"}
    return [f"{name}={value}" for name, value in ours.items() if name not in fields]


def _optimizer(given: Mapping[str, Any], optimizer: Mapping[str, str]) -> dict[str, Any]:
    if given.keys() & {"learning_rate", "optim"}:
        return {}
    chosen = {name: value for name, value in optimizer.items() if name not in given}
    if not hasattr(torch.optim, "Muon") or _is_sharded(given) or given.get("use_lora"):
        chosen.pop("muon_learning_rate", None)
    if given.get("lr_scheduler_type") == "constant":
        chosen = {name: value for name, value in chosen.items() if "warmup" not in name}
    return chosen


def _is_sharded(given: Mapping[str, Any]) -> bool:
    """Whether parameters are, or may be, spread in a way that Muon refuses."""
    launched = os.environ  # by `accelerate launch`
    fsdp1 = "ACCELERATE_USE_FSDP" in launched and launched.get("FSDP_VERSION") != "2"
    others = {"ACCELERATE_USE_DEEPSPEED", "ACCELERATE_USE_MEGATRON_LM"} & launched.keys()
    return bool(fsdp1 or others or given.get("fsdp") or given.get("deepspeed"))


def _rows(given: Mapping[str, Any], fields: Mapping[str, Any]) -> dict[str, Any]:
    """Rows that grow, where nothing given contradicts them."""
    by_clock = given.get("max_minutes") and (given.get("max_steps") or -1) < 1
    block_size = given.get("block_size") or given.get("max_seq_length")
    last = block_size or min(fields.get("max_position_embeddings") or LONGEST_BLOCK, LONGEST_BLOCK)
    if (
        given.keys() & _DECIDE_ROWS
        or given.get("packing") == "none"
        or any(str(given.get(name)) == "epoch" for name in _INTERVALS)
        or (block_size is None and "axial_pos_shape" in fields)
        or (by_clock and "num_train_epochs" in given)  # steps that fit the minutes replace them
        or (by_clock and int(os.environ.get("WORLD_SIZE", "1")) > 1)  # steps cannot be timed
    ):
        return {}
    lengths = [length for length in ROW_LENGTHS if length < last and last % length == 0]
    if not lengths:
        return {}
    rows = {"row_lengths": [*lengths, last], "tokens_per_step": [STEP_TOKENS]}
    return rows if block_size else {"block_size": last} | rows
