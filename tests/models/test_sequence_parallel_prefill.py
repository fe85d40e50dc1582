"""A prompt that two or four processes read: each gets the cache of all up to its part's end."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests import processes
from tests.models.sequence_parallel_prefill_workers import LENGTHS, SCENARIOS

WORKERS = Path(__file__).with_name("sequence_parallel_prefill_workers.py")
TOLERANCE = 1e-12
QUICK = {
    2: ["local and lsh", "wide windows"],
    4: ["all options", "sparse projections, recurrent units, axial, gathered"],
}


def run(count: int, names: list[str], directory: Path) -> dict[str, list[dict[str, Any]]]:
    """What each process found, by scenario."""
    processes.run(count, WORKERS, directory, *names)
    found: dict[str, list[dict[str, Any]]] = {}
    for rank in range(count):
        for line in (directory / str(rank)).read_text().splitlines():
            result = json.loads(line)
            found.setdefault(result["name"], []).append(result)
    return found


def check(count: int, names: list[str], directory: Path) -> None:
    found = run(count, names, directory)
    for name in names:
        assert len(found[name]) == count
        for result in found[name]:
            differences = [result["part"], result["blocks"], *result["steps"]]
            assert max(differences) <= TOLERANCE, (name, result)
            assert result["beams"], name
            assert not result["gradient"]
            assert result["length"] == 0
            assert result["more_bytes"] == 0
    if "local and lsh" in names:
        check_memory(count, found["local and lsh"])


def check_memory(count: int, found: list[dict[str, Any]]) -> None:
    """The cache holds a part of the prompt and what a part before it hands on."""
    rounds, buckets, window = 2, 4, 4
    for rank, (length, result) in enumerate(zip(LENGTHS[count], found, strict=True)):
        behind = rank > 0
        local, lsh = length + behind * window, length + behind * rounds * buckets * window
        assert result["stored"] == [local, lsh] * 2


@pytest.mark.distributed
@pytest.mark.parametrize("count", [2, 4])
def test_each_goes_on_as_if_it_had_read_all_before(count: int, tmp_path: Path):
    check(count, QUICK[count], tmp_path)


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.parametrize("count", [2, 4])
def test_of_all_kinds_of_layers(count: int, tmp_path: Path):
    check(count, [name for name in SCENARIOS if name not in QUICK[count]], tmp_path)
