"""Checkpoints of the Trainer and of the Accelerate loop: which are whole, and where a run goes on.

A kill or a full disk may leave a folder that looks like a checkpoint. So each is sealed, when all
of it is written, with the hashes of its files; one without a seal that fits is not used.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.utils import DistributedType
from transformers.trainer import TRAINER_STATE_NAME, TRAINING_ARGS_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, sort_checkpoints

from reformer_hf.training.storage import readable_disk_errors, sync_directory, write_json

SEAL = "seal.json"
_UNSEALED = (SEAL, TRAINING_ARGS_NAME)  # the arguments are given again, not read
PROGRESS = "progress.json"
RUN_SETTINGS = "_run_settings.json"
"""May name folders of this machine: `Trainer.push_to_hub` leaves out what begins with `_`."""
OLD_RUN_SETTINGS = "run_settings.json"
"""The same file of runs that began before it had that name."""

MAY_CHANGE = frozenset(
    (
        *("token", "cache_dir", "trust_remote_code", "attn_implementation"),
        *("num_beams", "length_penalty"),
        *("validation_file", "test_file", "max_eval_samples", "max_predict_samples"),
        *("preprocessing_num_workers", "overwrite_cache", "baselines"),
    )
)
"""Names of arguments that a run may change when it goes on; secrets are among them."""


def seal(checkpoint: Path) -> None:
    """Mark a checkpoint as whole."""
    sync_directory(checkpoint)
    write_json(checkpoint / SEAL, _hashes(checkpoint))


def is_whole(checkpoint: Path) -> bool:
    """Say whether every sealed file of a checkpoint is as it was; others may have come."""
    return not damage_of(checkpoint)


def damage_of(checkpoint: Path) -> str:
    """Say which files of a checkpoint are not as they were sealed; empty if all are."""
    if not (sealed := _read_seal(checkpoint)):
        return f"{SEAL} is missing or broken"
    found = _hashes(checkpoint, sealed)
    changed = [name for name in sealed if found.get(name) != sealed[name]]
    return ", ".join(
        f"{name} {'has changed' if name in found else 'is missing'}" for name in changed
    )


def last_whole_checkpoint(directory: Path) -> tuple[Path | None, list[Path]]:
    """Find the checkpoint to resume from. Only the contents of the last ones are read.

    Args:
        directory: of a run; need not exist.

    Returns:
        The whole checkpoint of the highest step, None if there is none, and the broken ones: those
        of higher steps, and all that have no seal.
    """
    whole, broken = None, []
    for path in reversed(_by_step(directory)):
        if whole is None and is_whole(path):
            whole = path
        elif whole is None or not _read_seal(path):
            broken.append(path)
    return whole, broken[::-1]


def find_checkpoint(
    asked: str | bool | None,
    directory: Path,
    state_file: str = TRAINER_STATE_NAME,
    tell: Callable[[str], None] | None = None,
) -> Path | None:
    """Find the checkpoint that a run goes on from.

    Args:
        asked: a checkpoint's folder, `last`, or None.
        directory: of the run.
        state_file: what the run reads of a checkpoint; it tells the Trainer's from the loop's.
        tell: what this process says of it, which also sets broken checkpoints aside, but for the
            one that is named; None to leave both to another process.

    Returns:
        A whole checkpoint, None to start at step 0.

    Raises:
        ValueError: if the directory is a file or holds a run that nobody asked to go on, or the
            checkpoint that was asked for is broken.
    """
    if directory.exists() and not directory.is_dir():
        raise ValueError(f"output_dir={directory} is a file: choose a folder")
    whole, broken = last_whole_checkpoint(directory)
    if not asked or asked == "False":
        if whole is not None:
            raise ValueError(
                f"output_dir={directory} holds {whole.name} of another run: go on with "
                "--resume_from_checkpoint last, delete the folder or choose another one"
            )
        return None
    if tell is not None:
        for note in set_aside([each for each in broken if each.resolve() != _resolved(asked)]):
            tell(note)
    found = whole if asked in (True, "True", "true", "last") else Path(str(asked))
    if found is None:
        if tell is not None:
            tell(f"There is no checkpoint to resume from in {directory}: starting at step 0")
        return None
    if reason := _reason_against(found, state_file, found == whole):
        raise ValueError(
            f"resume_from_checkpoint={asked}: there is no whole checkpoint ({reason}); the last "
            f"whole one of output_dir is {whole}, which 'last' stands for"
        )
    if tell is not None:
        tell(f"Resuming from {found.name}")
    return found


def _reason_against(checkpoint: Path, state_file: str, is_whole: bool) -> str:
    """Say why a run cannot go on from a checkpoint; empty if it can."""
    if not checkpoint.is_dir():
        return "there is no such folder"
    if not (checkpoint / state_file).is_file():
        return f"{state_file} is missing, which one of this script has"
    # One that another Trainer wrote has no seal; the loop seals all of its own.
    has_seal = (checkpoint / SEAL).exists() or state_file == PROGRESS
    return damage_of(checkpoint) if has_seal and not is_whole else ""


def settings_of(arguments: Any) -> dict[str, Any]:
    """The fields of a dataclass of arguments that decide what is trained."""
    return {name: v for name, v in asdict(arguments).items() if name not in MAY_CHANGE}


def run_settings(model_arguments: Any, data: dict[str, Any], seed: int) -> dict[str, Any]:
    """What a run may not change when it goes on: its model, its data and its seed.

    Args:
        model_arguments: a dataclass.
        data: what `describe_rows` or `data_settings` of the data returns.
        seed: of weights, order, dropout and hashing.

    Returns:
        JSON values, without a token.
    """
    return {"model": settings_of(model_arguments), "data": data, "seed": seed}


def check_settings(
    directory: Path, settings: Mapping[str, Any], checkpoint: Path | None, writes: bool = True
) -> None:
    """Record what decides a run that starts, or check it for one that goes on.

    Args:
        directory: of the run.
        settings: JSON values.
        checkpoint: what the run goes on from, None if it starts at step 0.
        writes: whether this process may write.

    Raises:
        ValueError: naming the values that are not those that the run began with.
    """
    if checkpoint is not None:
        compare_settings(checkpoint.parent, settings)
    file = directory / RUN_SETTINGS
    if writes and (checkpoint is None or not file.exists()):
        directory.mkdir(parents=True, exist_ok=True)
        write_json(file, settings)
        (directory / OLD_RUN_SETTINGS).unlink(missing_ok=True)


def compare_settings(directory: Path, settings: Mapping[str, Any]) -> None:
    """Check that the settings are those that the run in a folder began with, if it has any.

    Raises:
        ValueError: naming the values that differ.
    """
    names = (RUN_SETTINGS, OLD_RUN_SETTINGS)
    recorded = next((file for name in names if (file := directory / name).exists()), None)
    if recorded is None:
        return
    try:
        old = json.loads(recorded.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(
            f"{recorded} cannot be read ({error}): delete it to go on unchecked, or choose "
            "another output_dir"
        ) from error
    new = json.loads(json.dumps(settings))
    if differences := "; ".join(_differences(_read(old), _read(new))):
        raise ValueError(
            f"the run in {directory} has other settings ({differences}). Give the old ones to go "
            "on with it; to start anew, choose another --output_dir"
        )


def _read(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings with `config_overrides` as fields: what is switched off need not be named."""
    from reformer_hf.training.build import parse_overrides  # which needs this module

    model = settings.get("model")
    if not isinstance(model, dict) or not model.get("config_overrides"):
        return settings
    try:
        fields = parse_overrides(model["config_overrides"])
    except ValueError:  # which is told when the model is built
        return settings
    named = {name: value for name, value in fields.items() if value is not False}
    return {**settings, "model": {**model, "config_overrides": named}}


def _differences(old: Any, new: Any, name: str = "") -> Iterator[str]:
    """List the values that differ between two nested dictionaries, by dotted name."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted((old.keys() | new.keys()) - MAY_CHANGE):
            yield from _differences(old.get(key), new.get(key), f"{name}.{key}".lstrip("."))
    elif old != new:
        yield f"{name} was {old!r}, now {new!r}"


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
        damage = damage_of(path)
        if sealed or (path / TRAINER_STATE_NAME).exists():
            aside = path.with_name(f"_broken-{path.name}")
            shutil.rmtree(aside, ignore_errors=True)
            path.rename(aside)
            note += f", or changed since ({damage})" if sealed else ", or another Trainer wrote it"
            note += f"; its files are in {aside.name}"
        else:
            shutil.rmtree(path)
        notes.append(note)
    return notes


def rotate(directory: Path, limit: int | None, keep: Collection[Path]) -> None:
    """Delete checkpoints of low steps, until only so many are left.

    Args:
        directory: of the run.
        limit: how many may be left; None for all.
        keep: those that stay in any case: the one just written, whose step is low if the run went
            on from an old one, and the best.
    """
    others = [path for path in _by_step(directory) if path not in keep]
    if limit is not None:
        for path in others[: max(0, len(others) - max(0, limit - len(keep)))]:
            shutil.rmtree(path)


@dataclass
class Progress:
    """Where a run of the Accelerate loop stands.

    Attributes:
        step: steps of the optimizer.
        epoch: the epoch that the next batch is of.
        rows: rows of that epoch that the processes together have seen; if rows grow, of the run.
        loss: sum of the losses since the last entry of the log.
        seconds: that its steps took, with what it did between them.
        log_history: as of a Trainer.
        row_schedule: what `RowSchedule.record` says; None if rows do not grow.
        tokens: that were trained on.
        step_seconds: that its steps alone took.
        peak_memory_bytes: the largest of a process of this run so far, 0 if unknown.
    """

    step: int = 0
    epoch: int = 0
    rows: int = 0
    loss: float = 0.0
    seconds: float = 0.0
    log_history: list[dict] = field(default_factory=list)
    row_schedule: dict[str, Any] | None = None
    tokens: int = 0
    step_seconds: float = 0.0
    peak_memory_bytes: int = 0


def save_checkpoint(
    accelerator: Accelerator, directory: Path, progress: Progress, limit: int | None
) -> None:
    """Write a checkpoint beside its name, which it gets when all processes have written theirs.

    Args:
        accelerator: knows model, optimizer, schedule and random states.
        directory: of the run.
        progress: goes with it; its step gives the name.
        limit: checkpoints to keep; older ones are deleted when this one is whole. None for all.

    Raises:
        OSError: if the disk is full; the checkpoints before this one stay whole.
    """
    final = directory / f"{PREFIX_CHECKPOINT_DIR}-{progress.step}"
    temporary = directory / f".{final.name}.incomplete"
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
        rotate(directory, limit, {final})
    accelerator.wait_for_everyone()


def load_checkpoint(accelerator: Accelerator, checkpoint: Path) -> Progress:
    """Load what :func:`save_checkpoint` wrote, also into another number of processes."""
    accelerator.load_state(str(checkpoint))
    return Progress(**json.loads((checkpoint / PROGRESS).read_text()))


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


def _by_step(directory: Path) -> list[Path]:
    return [Path(path) for path in sort_checkpoints(str(directory))] if directory.is_dir() else []


def _resolved(asked: str | bool) -> Path | None:
    return Path(asked).resolve() if isinstance(asked, str) else None


def _read_seal(checkpoint: Path) -> dict[str, str]:
    """The sealed hashes by file; empty if there is no readable seal."""
    try:
        sealed = json.loads((checkpoint / SEAL).read_text())
        return {name: sealed[name] for name in sealed if name not in _UNSEALED}
    except (OSError, ValueError):
        return {}


def _hashes(checkpoint: Path, names: Collection[str] | None = None) -> dict[str, str]:
    """Hash the files of a checkpoint, all or those of the given names."""
    hashes = {}
    for file in sorted(checkpoint.rglob("*")):
        name = file.relative_to(checkpoint).as_posix()
        if file.is_file() and file.name not in _UNSEALED and (names is None or name in names):
            with file.open("rb") as stream:
                hashes[name] = hashlib.file_digest(stream, "sha256").hexdigest()
    return hashes
