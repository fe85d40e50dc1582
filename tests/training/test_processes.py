import weakref

import datasets
import pytest
import torch
import torch.distributed
from torch.nn.parallel import DistributedDataParallel
from transformers.utils import logging

from reformer_hf.training.parsing import readable_errors
from reformer_hf.training.processes import end_processes, hide_bars_unless


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


class Job:
    """A model in a cycle of references, as in a Trainer and its callbacks."""

    def __init__(self):
        self.model, self.itself = DistributedDataParallel(torch.nn.Linear(2, 2)), self


@pytest.fixture
def group(tmp_path):
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path}/group", world_size=1, rank=0
    )
    yield
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def test_a_model_is_gone_before_its_group(group, monkeypatch):
    model, found = weakref.ref(Job().model), []
    destroy = torch.distributed.destroy_process_group
    monkeypatch.setattr(
        torch.distributed,
        "destroy_process_group",
        lambda: (found.append(model()), destroy()),
    )
    end_processes()
    assert found == [None] and not torch.distributed.is_initialized()
    end_processes()  # where there is none, nothing happens


@pytest.mark.parametrize("error", [None, ValueError("mend this")])
def test_a_script_ends_its_group(group, error):
    with readable_errors() as status:
        if error:
            raise error
    assert status.code == (1 if error else 0) and not torch.distributed.is_initialized()
