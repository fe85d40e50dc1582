"""Processes of a run: one terminal for all, a wish to stop, one end."""

import gc
import signal
import threading
from pathlib import Path
from typing import Any

import datasets
import torch.distributed
from transformers.utils import logging

from reformer_hf.training.checkpoints import last_whole_checkpoint


class Interrupted(KeyboardInterrupt):
    """A run that ended early, with a message that says what is there to go on from.

    Args:
        directory: of the run.
        signal_number: what asked this process to end; None if it was another one.
    """

    def __init__(self, directory: Path, signal_number: int | None = None):
        self.signal_number = signal_number or signal.SIGINT
        whole, _ = last_whole_checkpoint(directory)
        super().__init__(_what_is_there(whole))


def _what_is_there(checkpoint: Path | None) -> str:
    """Say what a run that was interrupted left."""
    if checkpoint is None:
        return "Interrupted before the first checkpoint: there is nothing to go on from"
    if not any(checkpoint.glob("optimizer*")) and not any(checkpoint.glob("global_step*")):
        return (
            f"Interrupted; {checkpoint.name} has the weights alone (--save_only_model): train on "
            f"from them with --model_name_or_path {checkpoint} and another --output_dir"
        )
    return (
        f"Interrupted; {checkpoint.name} is whole, and --resume_from_checkpoint last goes on "
        "from it"
    )


class StopSignals:
    """Catches SIGINT (Ctrl-C) and SIGTERM, so that a run can end after its step with a checkpoint.

    Used as a context. A second signal ends the process at once, as without this.

    Attributes:
        caught: number of the signal that came, None before one came.
    """

    def __init__(self):
        self.caught: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "StopSignals":
        if threading.current_thread() is threading.main_thread():  # only there Python allows it
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._catch)
        return self

    def __exit__(self, *error) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def _catch(self, number: int, frame: Any) -> None:
        self.caught = number
        self.__exit__()
        print("\nStopping after this step, with a checkpoint; again to stop at once.", flush=True)

    def agreed(self, accelerator: Any) -> bool:
        """Say whether any process was asked to stop: all of them must save at the same step."""
        if accelerator.num_processes == 1:
            return self.caught is not None
        if self.caught is not None:
            accelerator.set_trigger()
        return accelerator.check_trigger()


def hide_bars_unless(is_main: bool) -> None:
    """Hide the progress bars of datasets and transformers on all processes but one of a machine."""
    if not is_main:
        datasets.disable_progress_bars()
        logging.disable_progress_bar()


def end_processes() -> None:
    """Destroy the process group, if there is one, after all that uses it.

    Call it where no variable refers to the model any more. A DDP model that outlives its group is
    the last owner: its destructor then waits for gloo's threads with the GIL held, and these may
    wait for the GIL to free a tensor (seen with torch 2.13, in some runs). A group that is never
    destroyed has threads at the interpreter's end, which aborts some runs.
    """
    gc.collect()
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
