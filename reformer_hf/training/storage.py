"""Writing files and folders so that a kill or a full disk never leaves half of one."""

import errno
import json
import os
import shutil
import tempfile
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_FULL = (errno.ENOSPC, errno.EDQUOT)
_FULL_MESSAGES = (
    *("No space left on device", "Disk quota exceeded", "os error 28", "os error 122"),
    # All that torch says of a write that the disk took only in part.
    *("unexpected pos", "PytorchStreamWriter failed writing"),
)


@contextmanager
def new_directory(path: Path) -> Iterator[Path]:
    """Create a folder at once, when all that belongs in it has been written.

    Args:
        path: the folder; must not exist.

    Yields:
        An empty folder beside it, which takes the name `path` when the block ends without an
        error and disappears otherwise. What a kill leaves is removed by the next attempt.

    Raises:
        FileExistsError: if `path` exists.
    """
    if path.exists():
        raise FileExistsError(errno.EEXIST, "already there", str(path))
    temporary = path.with_name(f".{path.name}.incomplete")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        sync_directory(temporary)
        os.rename(temporary, path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    _sync(path.parent)


def passing_folder(owner: Any) -> str:
    """Make an empty folder that is deleted when an object is no longer there."""
    folder = tempfile.mkdtemp(prefix="reformer_hf-")
    weakref.finalize(owner, shutil.rmtree, folder, ignore_errors=True)
    return folder


def write_json(path: Path, content: object) -> None:
    """Write JSON to a file that either keeps its old content or has all of the new."""
    temporary = path.with_name(f".{path.name}.incomplete")
    try:
        temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        _sync(temporary)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def sync_directory(path: Path) -> None:
    """Ask the system to put all files below a folder on the disk."""
    for file in path.rglob("*"):
        _sync(file)
    _sync(path)


def _sync(path: Path) -> None:
    if os.name == "nt":  # Windows opens no folders
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def is_disk_full(error: BaseException | None) -> bool:
    """Say whether an error, or one that led to it, is a full disk or an exhausted quota.

    The writers of safetensors and torch wrap the system's error, or only quote its text.
    """
    while error is not None:
        if isinstance(error, OSError) and error.errno in _FULL:
            return True
        if any(message in str(error) for message in _FULL_MESSAGES):
            return True
        error = error.__cause__ or error.__context__
    return False


@contextmanager
def readable_disk_errors(directory: Path, kept: str) -> Iterator[None]:
    """Turn any writer's complaint about a full disk into one `OSError` that says what to do.

    Args:
        directory: where the block writes.
        kept: what is not lost, for the message.
    """
    try:
        yield
    except Exception as error:
        if not is_disk_full(error):
            raise
        free = shutil.disk_usage(directory).free / 1e6
        raise OSError(
            errno.ENOSPC,
            f"the disk is full ({free:.1f} MB free). {kept} "
            "Free some space and run the same command again",
            str(directory),
        ) from error
