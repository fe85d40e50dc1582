"""Checkpoints of the Accelerate loop: written by all processes, there as a whole or not at all."""

import json
import os
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path

from accelerate import Accelerator
from accelerate.utils import DistributedType

from reformer_hf.training.checkpoints import SEAL, is_whole, rotate, seal
from reformer_hf.training.storage import readable_disk_errors, sync_directory, write_json

PROGRESS = "progress.json"


@dataclass
class Progress:
    """Where a run stands.

    Attributes:
        step: steps of the optimizer.
        epoch: the epoch that the next batch is of.
        rows: rows of that epoch that the processes together have seen.
        loss: sum of the losses since the last entry of the log.
        seconds: that its steps took, with what it did between them.
        log_history: as of a Trainer.
    """

    step: int = 0
    epoch: int = 0
    rows: int = 0
    loss: float = 0.0
    seconds: float = 0.0
    log_history: list[dict] = field(default_factory=list)


def save_checkpoint(
    accelerator: Accelerator, directory: Path, name: str, progress: Progress, limit: int | None
) -> None:
    """Write a checkpoint beside its name, which it gets when all processes have written theirs.

    Args:
        accelerator: knows model, optimizer, schedule and random states.
        directory: of the run.
        name: of the checkpoint, such as `step_100`.
        progress: goes with it.
        limit: checkpoints to keep; older ones are deleted when this one is whole. None for all.

    Raises:
        OSError: if the disk is full; the checkpoints before this one stay whole.
    """
    temporary, final = directory / f".{name}.incomplete", directory / name
    if accelerator.is_main_process:
        for path in (temporary, final):
            shutil.rmtree(path, ignore_errors=True)
        temporary.mkdir(parents=True)
    accelerator.wait_for_everyone()
    with readable_disk_errors(directory, "The checkpoints before this one are whole."):
        accelerator.save_state(str(temporary))
        _save_model(accelerator, temporary)
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            write_json(temporary / PROGRESS, asdict(progress))
            seal(temporary)
            os.rename(temporary, final)
            sync_directory(directory)
    if accelerator.is_main_process:
        rotate(_by_step(directory), limit, {final})
    accelerator.wait_for_everyone()


def _save_model(accelerator: Accelerator, directory: Path) -> None:
    """Put what `from_pretrained` needs beside the state, in whatever way that is spread out."""
    (model,) = accelerator._models
    plain = accelerator.unwrap_model(model)
    if accelerator.distributed_type == DistributedType.FSDP or hasattr(plain, "peft_config"):
        state = accelerator.get_state_dict(model)
        if accelerator.is_main_process:
            plain.save_pretrained(directory, state_dict=state)
    elif accelerator.is_main_process:  # the state has the weights under the same name
        plain.config.save_pretrained(directory)


def load_checkpoint(accelerator: Accelerator, checkpoint: Path) -> Progress:
    """Load what :func:`save_checkpoint` wrote, also into another number of processes."""
    accelerator.load_state(str(checkpoint))
    return Progress(**json.loads((checkpoint / PROGRESS).read_text()))


def find_checkpoint(asked: str | None, directory: Path, trains: bool = True) -> Path | None:
    """Find the checkpoint to go on from.

    Args:
        asked: a folder, `last`, or None.
        directory: of the run.
        trains: whether the run would overwrite what is in the directory.

    Returns:
        A whole checkpoint; None to start anew.

    Raises:
        ValueError: if the directory holds a run that nobody asked to go on, or the checkpoint that
            was asked for is broken.
    """
    whole = [path for path in _by_step(directory) if is_whole(path)]
    last = whole[-1] if whole else None
    if asked is None:
        if trains and last is not None:
            raise ValueError(
                f"output_dir={directory} holds {last.name} of another run: go on with "
                "--resume_from_checkpoint last, delete the folder or choose another one"
            )
        return None
    if asked == "last":
        return last
    if not is_whole(Path(asked)):
        raise ValueError(
            f"resume_from_checkpoint={asked}: there is no whole checkpoint; the last whole one of "
            f"output_dir is {last}, which 'last' stands for"
        )
    return Path(asked)


def _by_step(directory: Path) -> list[Path]:
    """List the checkpoints in a folder by the step they were written at."""
    found = []
    for seal_file in directory.glob(f"*/{SEAL}"):
        try:
            progress = json.loads((seal_file.parent / PROGRESS).read_text())
            found.append((progress["step"], seal_file.parent))
        except (OSError, ValueError, KeyError):
            continue
    return [path for _, path in sorted(found)]
