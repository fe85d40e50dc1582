"""Which of the Trainer's checkpoints are whole: each is sealed with the hashes of its files.

The Trainer writes a checkpoint file by file into its final folder, so a kill or a full disk may
leave one that looks like a checkpoint. The seal is written last; a checkpoint without a seal that
fits is not used.
"""

import hashlib
import json
import shutil
from collections.abc import Collection, Sequence
from pathlib import Path

import torch.distributed
from transformers import TrainerCallback, TrainerState
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, sort_checkpoints

from reformer_hf.training.storage import sync_directory, write_json

SEAL = "seal.json"


def seal(checkpoint: Path) -> None:
    """Mark a checkpoint as whole."""
    sync_directory(checkpoint)
    write_json(checkpoint / SEAL, _hashes(checkpoint))


def is_whole(checkpoint: Path) -> bool:
    """Say whether every sealed file of a checkpoint is as it was; others may have come."""
    try:
        sealed = json.loads((checkpoint / SEAL).read_text())
    except (OSError, ValueError):
        return False
    return bool(sealed) and sealed.items() <= _hashes(checkpoint).items()


def last_whole_checkpoint(directory: Path) -> tuple[Path | None, list[Path]]:
    """Find the checkpoint to resume from.

    Args:
        directory: the Trainer's output folder; need not exist.

    Returns:
        The whole checkpoint of the highest step, None if there is none, and the broken ones.
    """
    if not directory.is_dir():
        return None, []
    checkpoints = [Path(path) for path in sort_checkpoints(str(directory))]
    whole = [path for path in checkpoints if is_whole(path)]
    broken = [path for path in checkpoints if path not in whole]
    return (whole[-1] if whole else None), broken


def set_aside(broken: Sequence[Path]) -> list[str]:
    """Take broken checkpoints out of sight: the Trainer would count them among those it keeps.

    Only what was cut off is deleted. A checkpoint that has the Trainer's state but no seal may be
    one of a plain Trainer, and one whose seal does not fit was changed later: they are renamed.

    Args:
        broken: checkpoints whose seal is missing or does not fit.

    Returns:
        What was done, a sentence for each.
    """
    notes = []
    for path in broken:
        note = f"Skipping {path.name}: it was cut while it was saved"
        sealed = (path / SEAL).exists()
        if sealed or (path / TRAINER_STATE_NAME).exists():
            aside = path.with_name(f"broken-{path.name}")
            shutil.rmtree(aside, ignore_errors=True)
            path.rename(aside)
            note += ", or changed since" if sealed else ", or another Trainer wrote it"
            note += f"; its files are in {aside.name}"
        else:
            shutil.rmtree(path)
        notes.append(note)
    return notes


def rotate(checkpoints: Sequence[Path], limit: int | None, keep: Collection[Path]) -> None:
    """Delete checkpoints of low steps, until only so many are left.

    Args:
        checkpoints: by step.
        limit: how many may be left; None for all.
        keep: those that stay in any case: the one just written, whose step is low if the run went
            on from an old one, and the best.
    """
    others = [path for path in checkpoints if path not in keep]
    if limit is not None:
        for path in others[: max(0, len(others) - max(0, limit - len(keep)))]:
            shutil.rmtree(path)


class SealCheckpoints(TrainerCallback):
    """Seals each checkpoint as soon as the Trainer has written it."""

    def on_save(self, args, state: TrainerState, control, **kwargs):
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.barrier()  # each process writes a file of its own
        if state.is_world_process_zero:
            seal(Path(str(args.output_dir), f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}"))


def _hashes(checkpoint: Path) -> dict[str, str]:
    hashes = {}
    for file in sorted(checkpoint.rglob("*")):
        if file.is_file() and file.name != SEAL:
            with file.open("rb") as stream:
                digest = hashlib.file_digest(stream, "sha256")
            hashes[file.relative_to(checkpoint).as_posix()] = digest.hexdigest()
    return hashes
