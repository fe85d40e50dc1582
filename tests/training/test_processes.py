import datasets
import pytest
from transformers.utils import logging

from reformer_hf.training.processes import hide_bars_unless


@pytest.mark.parametrize("is_main", [True, False])
def test_bars_are_those_of_the_main_process(is_main):
    datasets.enable_progress_bars()
    logging.enable_progress_bar()  # the scripts that other tests call hide it
    try:
        hide_bars_unless(is_main)
        assert datasets.are_progress_bars_disabled() is not is_main
        assert logging.is_progress_bar_enabled() is is_main
    finally:
        datasets.enable_progress_bars()
        logging.enable_progress_bar()
