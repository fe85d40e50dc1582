"""What the training scripts share: finding where a run stopped, and ending with a message."""

import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

from reformer_hf.training.checkpoints import last_whole_checkpoint, set_aside
from reformer_hf.training.processes import end_processes
from reformer_hf.training.run_directory import RunDirectory

Job = TypeVar("Job")


def resume_point(directory: RunDirectory, settings: Mapping) -> Path | None:
    """Enter a run's folder, and say on the standard output how far the run has come.

    Args:
        directory: may be new, or hold a run that is finished.
        settings: JSON values that decide the result.

    Returns:
        The checkpoint to go on from, None to start anew.

    Raises:
        ValueError: if the folder holds the work of a run with other settings.
    """
    checkpoint, broken = last_whole_checkpoint(directory.checkpoints)
    directory.claim(settings, started=directory.is_finished or checkpoint is not None)
    if directory.is_finished:
        print(f"This run is finished: see {directory.model}. {directory.how_to_start_anew()}.")
        return checkpoint
    for note in set_aside(broken):
        print(note)
    if checkpoint is not None:
        print(f"Resuming from {checkpoint.name}")
    return checkpoint


def run_script(prepare: Callable[[], Job | None], run: Callable[[Job], None]) -> int:
    """Prepare a job and run it; what a user can mend becomes a message and an exit status.

    Args:
        prepare: checks all that a user gives; its `ValueError` is the user's to mend. None if
            there is nothing to do.
        run: does the job. From there on a `ValueError` is a defect, and shows where.

    Returns:
        Exit status of the process.
    """
    start = time.perf_counter()
    try:
        try:
            job = prepare()
        except ValueError as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
        if job is not None:
            run(job)
            end_processes()
            print(f"{(time.perf_counter() - start) / 60:.1f} minutes in all")
    except KeyboardInterrupt:
        print("\nInterrupted. The same command goes on from the last checkpoint.", file=sys.stderr)
        return 130
    except (OSError, FloatingPointError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0
