"""What going on from a checkpoint needs: all of its files, steps of as many rows, the arguments."""

import json
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch.optim.lr_scheduler import LambdaLR
from transformers.trainer import TRAINING_ARGS_NAME

from reformer_hf.training.storage import write_json

ROWS = "rows.json"
_NEEDED = {
    "optimizer.pt": ("optimizer*", "global_step*"),  # of DeepSpeed
    "scheduler.pt": ("scheduler.pt", "global_step*"),
    "rng_state.pth": ("rng_state*",),
    "model.safetensors": ("*model*.safetensors*", "*model*.bin*", "*model_fsdp*", "global_step*"),
}
_HYPERPARAMETERS = ("initial_lr", "weight_decay", "betas", "eps", "momentum")


def check_complete(checkpoint: Path) -> None:
    """Check that a checkpoint of the Trainer has all that training goes on from, unbroken.

    The Trainer itself would begin with a fresh optimizer or other random numbers, without a word.

    Raises:
        ValueError: naming the file that is missing or broken.
    """
    advice = (
        f"Train on from its weights with --model_name_or_path {checkpoint} and another "
        "--output_dir, or resume from another checkpoint"
    )
    if missing := [
        name for name, found in _NEEDED.items() if not any(any(checkpoint.glob(f)) for f in found)
    ]:
        raise ValueError(
            f"resume_from_checkpoint={checkpoint}: {', '.join(missing)} is missing "
            f"(--save_only_model leaves it out), so the run cannot go on. {advice}"
        )
    for file in sorted(checkpoint.iterdir()):
        if file.is_file() and file.name != TRAINING_ARGS_NAME and not _is_readable(file):
            raise ValueError(
                f"resume_from_checkpoint={checkpoint}: {file.name} is broken. {advice}"
            )


def _is_readable(file: Path) -> bool:
    """Say whether a file is whole, where its kind shows that."""
    try:
        if file.suffix == ".safetensors":
            with safe_open(file, framework="pt"):
                return True
        if file.suffix == ".json":
            json.loads(file.read_text(encoding="utf-8"))
        # torch writes archives.
        return file.suffix not in (".pt", ".pth", ".bin") or zipfile.is_zipfile(file)
    except (SafetensorError, ValueError):
        return False


def write_step(checkpoint: Path, step: Mapping[str, Any]) -> None:
    """Write down what decides the rows of the steps.

    Args:
        checkpoint: a folder.
        step: `rows_per_step` in all processes, or what `RowSchedule.record` returns.
    """
    write_json(checkpoint / ROWS, step)


def check_step(checkpoint: Path, step: Mapping[str, Any]) -> None:
    """Check that the steps have the rows that they had: the Trainer counts steps, not rows.

    Args:
        checkpoint: a folder; another Trainer's may not say what the steps had.
        step: as for :func:`write_step`.

    Raises:
        ValueError: if they have not.
    """
    file = checkpoint / ROWS
    if file.exists():
        compare_steps(checkpoint, json.loads(file.read_text(encoding="utf-8")), step)
    elif "row_lengths" in step:
        compare_steps(checkpoint, None, step)


def compare_steps(
    checkpoint: Path, before: Mapping[str, Any] | None, now: Mapping[str, Any] | None
) -> None:
    """Check that the rows of the steps are decided as they were.

    Args:
        checkpoint: for the error.
        before: as for :func:`write_step`; None where a checkpoint says nothing of it.
        now: the same.

    Raises:
        ValueError: if they are not.
    """
    if before == now:
        return
    if any("row_lengths" in (each or {}) for each in (before, now)):
        raise ValueError(
            f"resume_from_checkpoint={checkpoint}: the rows of its steps were decided by {before} "
            f"and are by {now} now, so rows would be left out or seen twice. Give row_lengths, "
            "tokens_per_step and the number of steps as before"
        )
    assert before is not None and now is not None
    raise ValueError(
        f"resume_from_checkpoint={checkpoint}: a step had {before['rows_per_step']} rows there and "
        f"has {now['rows_per_step']} now, so rows would be left out or seen twice. Give "
        "per_device_train_batch_size times gradient_accumulation_steps times processes as before"
    )


@contextmanager
def given_hyperparameters(optimizer: Any, scheduler: Any) -> Iterator[None]:
    """Keep learning rates, decay, betas and momentum as given, while a checkpoint is loaded.

    Args:
        optimizer: made from the arguments; the block loads its state.
        scheduler: the same.

    Raises:
        ValueError: if the state is that of another kind of optimizer.
    """
    given = [
        {name: group[name] for name in _HYPERPARAMETERS if name in group}
        for group in optimizer.param_groups
    ]
    try:
        yield
    except ValueError as error:
        if "parameter group" not in str(error):
            raise
        raise ValueError(
            f"resume_from_checkpoint: its optimizer is another one ({error}). Give optim and "
            "muon_learning_rate as the run had them"
        ) from error
    for group, values in zip(optimizer.param_groups, given, strict=True):
        group.update(values)
    if isinstance(scheduler, LambdaLR):
        scheduler.base_lrs = [values["initial_lr"] for values in given]
        step = scheduler.last_epoch
        rates = [
            base * f(step) for base, f in zip(scheduler.base_lrs, scheduler.lr_lambdas, strict=True)
        ]
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
        scheduler._last_lr = rates
