"""Checks of arguments: what is out of range, does not fit together, or would have no effect."""

import os
import platform
from collections.abc import Callable, Iterator, Sequence
from dataclasses import MISSING, fields
from typing import Any, Literal, get_args, get_origin, get_type_hints

from transformers.utils import logging

from reformer_hf.ops.precision import multiplies_bfloat16
from reformer_hf.training.settings_files import read_yaml

logger = logging.get_logger(__name__)

_FALLING = {"bits_per_byte", "perplexity", "mse", "mae"}  # metrics of our evaluations


def check_choices(arguments: Any) -> None:
    """Check the fields that have choices, which argparse does not do for values of a file.

    Raises:
        ValueError: naming the field, its value and the choices.
    """
    hints = get_type_hints(type(arguments))
    for each in fields(arguments):
        hint, value = hints[each.name], getattr(arguments, each.name)
        listed = get_args(hint) if get_origin(hint) is Literal else ()
        choices = each.metadata.get("choices") or listed
        if choices and value is not None and value not in choices:
            raise ValueError(f"{each.name}={value!r}: choose from {', '.join(map(str, choices))}")


def require_positive(arguments: Any, *names: str) -> None:
    """Check that the named fields are above 0, where they are given.

    Raises:
        ValueError: naming field and value.
    """
    _require(arguments, names, lambda value: value > 0, "above 0")


def refuse_negative(arguments: Any, *names: str) -> None:
    """Check that the named fields are not below 0, where they are given.

    Raises:
        ValueError: naming field and value.
    """
    _require(arguments, names, lambda value: value >= 0, "above 0, or 0 for none")


def _require(arguments: Any, names: Sequence[str], fits: Callable[[Any], bool], what: str) -> None:
    for name in names:
        value = getattr(arguments, name)
        if value is not None and not fits(value):
            raise ValueError(f"{name}={value}: must be {what}")


def check_seed(seed: int) -> None:
    """Check that all generators take a seed.

    Raises:
        ValueError: if they do not.
    """
    if not 0 <= seed < 2**32:
        raise ValueError(f"seed={seed}: choose a whole number from 0 to {2**32 - 1}")


def expand_home(arguments: Any, *names: str) -> None:
    """Let `~` stand for the home folder also where no shell has seen it."""
    for name in names:
        value = getattr(arguments, name)
        if isinstance(value, str) and value.startswith("~"):
            setattr(arguments, name, os.path.expanduser(value))


def unused(arguments: Any, why: str, *names: str) -> Iterator[str]:
    """Name the arguments that have no effect although they do not have their defaults.

    Args:
        arguments: a dataclass.
        why: when they have none, in words, such as "without use_lora".
        *names: of fields.
    """
    for each in fields(arguments):
        value = getattr(arguments, each.name)
        default = each.default if each.default_factory is MISSING else each.default_factory()
        if each.name in names and value != default:
            yield f"{each.name}={value!r} has no effect {why}"


def refuse_unused(arguments: Any, why: str, *names: str) -> None:
    """Refuse what :func:`unused` names.

    Raises:
        ValueError: naming the field, its value and the reason.
    """
    for message in unused(arguments, why, *names):
        raise ValueError(f"{message}: leave it out")


def check_source(arguments: Any) -> None:
    """Check that data are named, once, and the share of the rows that may be held out, if any.

    Raises:
        ValueError: naming the fields.
    """
    files = [f"{split}_file" for split in ("train", "validation", "test")]
    if arguments.dataset_name is not None:
        refuse_unused(arguments, "with dataset_name", *files)
    else:
        refuse_unused(arguments, "without dataset_name", "dataset_config_name")
        if all(getattr(arguments, name, None) is None for name in files):
            files = [name for name in files if hasattr(arguments, name)]
            raise ValueError(
                f"dataset_name, {', '.join(files)} are all missing: name a dataset of the Hub or a "
                "file of your own"
            )
    if arguments.validation_file is not None:
        refuse_unused(arguments, "with validation_file", "validation_split_percentage")
    share = getattr(arguments, "validation_split_percentage", 1)
    if not 0 < share < 100:
        raise ValueError(f"validation_split_percentage={share}: choose a whole number from 1 to 99")


def check_ranges(arguments: Any) -> None:
    """Check the numbers that the Trainer would misread or divide by."""
    require_positive(
        arguments,
        *("per_device_train_batch_size", "per_device_eval_batch_size", "num_train_epochs"),
        *("gradient_accumulation_steps", "learning_rate", "save_total_limit", "max_minutes"),
        *("logging_steps", "save_steps", "eval_steps"),
    )
    check_seed(arguments.seed)
    if arguments.max_steps != -1 and arguments.max_steps < 1:
        raise ValueError(
            f"max_steps={arguments.max_steps}: must be above 0, or -1 for num_train_epochs"
        )
    refuse_negative(arguments, "max_grad_norm", "weight_decay")
    if not 0 <= arguments.label_smoothing_factor < 1:
        raise ValueError(
            f"label_smoothing_factor={arguments.label_smoothing_factor}: choose a share from 0 to "
            "below 1"
        )


def check_predictions(arguments: Any) -> None:
    """Check that metrics get the predictions and the labels of all rows.

    Raises:
        ValueError: naming field and value.
    """
    for name in ("prediction_loss_only", "batch_eval_metrics"):
        if getattr(arguments, name):
            raise ValueError(
                f"{name}=True: the metrics here are of the predictions of all rows together; leave "
                "it out"
            )
    if arguments.label_names not in (None, ["labels"]):
        raise ValueError(
            f"label_names={arguments.label_names}: here labels are what the model calls labels; "
            "leave it out, and name columns with the arguments of the data"
        )


def check_muon(arguments: Any, *optimizers: str) -> None:
    """Check the arguments of Muon.

    Args:
        arguments: with `optim`, `muon_learning_rate` and `muon_momentum`.
        *optimizers: that may train the rest.

    Raises:
        ValueError: naming field and value.
    """
    refuse_negative(arguments, "muon_learning_rate")
    if arguments.muon_learning_rate is None:
        refuse_unused(arguments, "without muon_learning_rate", "muon_momentum")
    if not 0 <= arguments.muon_momentum < 1:
        raise ValueError(
            f"muon_momentum={arguments.muon_momentum}: choose a share from 0 to below 1"
        )
    optim = str(getattr(arguments.optim, "value", arguments.optim))
    if arguments.muon_learning_rate and optim not in optimizers:
        raise ValueError(
            f"muon_learning_rate={arguments.muon_learning_rate} with optim={optim!r}: AdamW trains "
            f"the rest. Choose optim from {', '.join(optimizers)}, or leave muon_learning_rate out"
        )


def check_optimizer_in_backward(arguments: Any, is_fp16: bool, *optimizers: str) -> None:
    """Check that the optimizer may step in backward, if it is to.

    Args:
        arguments: with `optimizer_in_backward`, `optim` and `gradient_accumulation_steps`.
        is_fp16: whether a scaler looks at all gradients before a step.
        *optimizers: that update each parameter by its own gradient alone.

    Raises:
        ValueError: naming field and value.
    """
    if not arguments.optimizer_in_backward:
        return
    optim = str(getattr(arguments.optim, "value", arguments.optim))
    accumulation = arguments.gradient_accumulation_steps
    for is_wrong, what, fix in (
        (
            accumulation > 1,
            f"gradient_accumulation_steps={accumulation}: gradients are used at once",
            "Choose 1, and a larger batch size if it fits",
        ),
        (is_fp16, "fp16: its scaler looks at all gradients before a step", "Choose bf16 or none"),
        (
            optim not in optimizers,
            f"optim={optim!r}, which may need all gradients",
            f"Choose optim from {', '.join(optimizers)}",
        ),
        (
            getattr(arguments, "auto_find_batch_size", False),
            "auto_find_batch_size: what runs out of memory has updated some layers",
            "Choose per_device_train_batch_size",
        ),
    ):
        if is_wrong:
            raise ValueError(
                f"optimizer_in_backward=True with {what}. {fix}, or leave optimizer_in_backward out"
            )


def check_use(arguments: Any) -> None:
    """Warn of what the Trainer leaves out in silence.

    No error: a settings file has it where the command line switches something off.
    """
    evaluates, saves, schedule, optim = (
        str(getattr(value, "value", value))
        for value in (
            *(arguments.eval_strategy, arguments.save_strategy),
            *(arguments.lr_scheduler_type, arguments.optim),
        )
    )
    hub = ("hub_model_id", "hub_private_repo", "hub_strategy", "hub_always_push", "hub_revision")
    adam = ("adam_beta1", "adam_beta2", "adam_epsilon")
    best = ("metric_for_best_model", "greater_is_better")
    for is_off, why, names in (
        (not arguments.push_to_hub, "without push_to_hub", hub),
        (evaluates != "steps", "without eval_strategy='steps'", ("eval_steps",)),
        (evaluates == "no", "without eval_strategy", ("eval_delay", *best)),
        (saves not in ("steps", "best"), "without save_strategy='steps'", ("save_steps",)),
        (schedule == "constant", "with lr_scheduler_type='constant'", ("warmup_steps",)),
        (optim == "adafactor", "with optim='adafactor'", adam),
        (not arguments.use_liger_kernel, "without use_liger_kernel", ("liger_kernel_config",)),
    ):
        for message in unused(arguments, why, *names) if is_off else ():
            logger.warning(message)


def warn_of_slow_bfloat16(device_type: str, is_bf16: bool) -> None:
    """Warn of products in bfloat16 on an x86 processor that has no instructions for them.

    Args:
        device_type: of the device that trains, such as `cpu`.
        is_bf16: whether training is autocast to bfloat16.
    """
    is_x86 = platform.machine().lower() in ("x86_64", "amd64")  # torch knows no others'
    if is_bf16 and device_type == "cpu" and is_x86 and not multiplies_bfloat16():
        logger.warning(
            "bf16: this processor has no bfloat16 instructions, so a step may take many times as "
            "long as in float32; leave it out if memory allows"
        )


def choose_best(arguments: Any) -> None:
    """Let the lowest value of a metric that falls be the best; the Trainer knows losses alone."""
    metric = (arguments.metric_for_best_model or "").removeprefix("eval_")
    falls = any(metric == name or metric.endswith(f"_{name}") for name in _FALLING)
    if arguments.greater_is_better is None and falls:  # also that of one of several evaluations
        arguments.greater_is_better = False


def read_mappings(arguments: Any) -> None:
    """Read the arguments that are mappings, and the numbers of the schedule, from their texts.

    Raises:
        ValueError: naming the argument.
    """
    for name in arguments._VALID_DICT_FIELDS:
        value = getattr(arguments, name)
        if isinstance(value, str) and (value.startswith("{") or name.endswith("kwargs")):
            try:
                value = read_yaml(value)
            except ValueError as error:
                raise ValueError(f"{name}={value!r}: cannot be read ({error})") from error
            if not isinstance(value, dict):
                raise ValueError(f"{name}={value!r}: write '{{name: value}}'")
        if isinstance(value, dict) and name == "lr_scheduler_kwargs":
            value = {n: read_yaml(v) if isinstance(v, str) else v for n, v in value.items()}
        setattr(arguments, name, value)
