"""Data parallel training of two processes, as DDP and Trainer set it up by default."""

from datetime import timedelta
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.multiprocessing.spawn import start_processes
from torch.nn.parallel import DistributedDataParallel
from torch.testing import assert_close

from reformer_hf.training.processes import end_processes
from tests import processes
from tests.parity.defect_models import LENGTH, build_ours, build_stock, gradients

pytestmark = pytest.mark.distributed

SETTINGS = {"default": False, "as Trainer": True}
"""Name to `find_unused_parameters`, which is True in Trainer."""


def batch() -> Tensor:
    return torch.randint(2, 50, (2, LENGTH), generator=torch.Generator().manual_seed(0))


def build(name: str) -> nn.Module:
    return build_ours(redraw_rotations=False) if name == "ours" else build_stock()


def train_steps(model: nn.Module, ids: Tensor) -> dict[str, Any]:
    """Gradients of the first of two steps, and what was raised, if anything was."""
    found: dict[str, Any] = {"error": "", "gradients": {}}
    try:
        for _ in range(2):
            model.zero_grad()
            model(ids, labels=ids).loss.backward()
            if not found["gradients"]:
                found["gradients"] = {n: g.clone() for n, g in gradients(model.module).items()}
    except RuntimeError as error:
        found["error"] = str(error)
    return found


def work(rank: int, folder: str) -> None:
    """One of two processes, with one of the two rows."""
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", f"file://{folder}/store", rank=rank, world_size=2, timeout=timedelta(minutes=2)
    )
    found = {}
    for model in ("ours", "stock"):
        for setting, unused in SETTINGS.items():
            parallel = DistributedDataParallel(build(model).train(), find_unused_parameters=unused)
            found[model, setting] = train_steps(parallel, batch()[rank : rank + 1])
    torch.save(found, f"{folder}/{rank}.pt")
    del parallel
    end_processes()


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory) -> list[dict[tuple[str, str], dict[str, Any]]]:
    """What each of the two processes found."""
    folder = tmp_path_factory.mktemp("distributed")
    method = processes.CONTEXT.get_start_method()  # with the imports done
    start_processes(work, (str(folder),), nprocs=2, start_method=method)
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


@pytest.mark.parametrize("setting", SETTINGS)
def test_gradients_are_those_of_the_whole_batch(outcomes, setting):
    model, ids = build("ours").train(), batch()
    model(ids, labels=ids).loss.backward()
    for outcome in outcomes:
        assert outcome["ours", setting]["error"] == ""
        assert_close(outcome["ours", setting]["gradients"], gradients(model))


def test_stock_gradients_are_not_synchronised(outcomes):
    first, second = (outcome["stock", "default"] for outcome in outcomes)
    differing = [n for n, g in first["gradients"].items() if not g.equal(second["gradients"][n])]
    print(f"{len(differing)} of {len(first['gradients'])} gradients differ after the first step")
    assert differing
    assert "Expected to have finished reduction in the prior iteration" in first["error"]


def test_stock_fails_as_trainer_sets_it_up(outcomes):
    for outcome in outcomes:
        assert "mark a variable ready only once" in outcome["stock", "as Trainer"]["error"]
