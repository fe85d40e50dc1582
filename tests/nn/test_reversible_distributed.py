"""Two processes over gloo get the gradients of one: DDP and FSDP2, with every step replayed."""

import json
from pathlib import Path

import pytest

from tests import processes
from tests.nn.reversible_workers import SCENARIOS, WORLD_SIZE

pytestmark = pytest.mark.distributed
WORKERS = Path(__file__).with_name("reversible_workers.py")
REPLAYED = [2] * 8  # four layers, forward and replay
CALLS = {
    "ddp, no_sync": [6] * 8,
    "fsdp, per layer, accumulation": [6] * 8,
    "fsdp, per layer, frozen bottom": [1, 1, *[2] * 6],  # nothing below needs the first layer
}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict]]:
    """What each process found, by scenario; the processes run once for all tests."""
    directory = tmp_path_factory.mktemp("workers")
    log, store = directory / "log", processes.new_store()
    ranks = processes.start_ranks(WORLD_SIZE, WORKERS, directory, log=log, store=store)
    processes.wait(ranks)
    print(log.read_text())  # pytest shows it where a test fails
    found: dict[str, list[dict]] = {}
    for rank in range(WORLD_SIZE):
        file = directory / str(rank)
        for line in file.read_text().splitlines() if file.exists() else []:
            result = json.loads(line)
            found.setdefault(result["name"], []).append(result)
    return found


@pytest.mark.parametrize("name", SCENARIOS)
def test_two_processes_get_the_gradients_of_one(name: str, results: dict[str, list[dict]]) -> None:
    assert len(results.get(name, [])) == WORLD_SIZE, f"{name} did not run to its end"
    for result in results[name]:
        assert result["world_size"] == WORLD_SIZE == 2
        assert result["missing"] == []
        assert result["difference"] <= 1e-12 < 1e-3 < result["gradient"]
        assert result["calls"] == CALLS.get(name, REPLAYED)
        assert result["sharded_calls"] == []
