"""Two processes over gloo get the gradients of one: DDP and FSDP2, with every step replayed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

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
    paths = os.pathsep.join([str(WORKERS.parents[2]), os.environ.get("PYTHONPATH", "")])
    processes = [
        subprocess.Popen(
            [sys.executable, str(WORKERS), str(rank), str(directory)],
            env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(WORLD_SIZE)
    ]
    try:
        errors = [process.communicate(timeout=240)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    found: dict[str, list[dict]] = {}
    for rank, error in enumerate(errors):
        file = directory / str(rank)
        for line in file.read_text().splitlines() if file.exists() else []:
            result = json.loads(line)
            found.setdefault(result["name"], []).append(result)
        print(f"rank {rank}:\n{error}")  # pytest shows it where a test fails
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
