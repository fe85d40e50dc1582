"""Manners of several processes: one terminal, one end."""

import gc

import datasets
import torch.distributed
from transformers.utils import logging


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
