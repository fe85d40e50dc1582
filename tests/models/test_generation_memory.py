"""A long text costs the cache's bytes per token, and nothing else."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
KEYS_AND_VALUES = 2 * 2 * 256 * 4
"""Bytes per token of the LSH layer: of keys and values, 2 heads of 256, float32."""
MIB = 2**20


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="asks Linux")
@pytest.mark.parametrize(
    ("scope", "tokens", "buckets"),
    [
        ("band", 2_500, 0),
        pytest.param("band", 10_000, 0, marks=pytest.mark.slow),
        ("chunk", 1_250, 2 * 8),
    ],
)
def test_memory_grows_with_the_cache_alone(scope, tokens, buckets):
    # Freed buffers go back to the system at once, so that resident is what is held.
    environment = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    environment["MALLOC_MMAP_THRESHOLD_"] = "65536"
    finished = subprocess.run(
        [sys.executable, "-m", "tests.models.long_generation", scope, str(tokens)],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert finished.returncode == 0, finished.stderr
    first, *_, last = json.loads(finished.stdout)[2:]
    written = last["written"] - first["written"]
    assert written == tokens - 3 * 250
    used, resident = (last[name] - first[name] for name in ("used", "resident"))
    # What the local layer keeps goes up and down.
    assert abs(used - written * (KEYS_AND_VALUES + buckets)) < 60 * KEYS_AND_VALUES
    assert last["allocated"] < 1.13 * last["used"] + MIB
    # Room to grow that no token has filled is not resident.
    assert abs(resident - used) < 2 * MIB
