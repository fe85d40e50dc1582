"""Manners of several processes that share a terminal."""

import datasets
from transformers.utils import logging


def hide_bars_unless(is_main: bool) -> None:
    """Hide the progress bars of datasets and transformers on all processes but one of a machine."""
    if not is_main:
        datasets.disable_progress_bars()
        logging.disable_progress_bar()
