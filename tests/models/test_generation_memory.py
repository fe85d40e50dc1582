"""A long text costs the cache's bytes per token, and nothing else."""

import json
from pathlib import Path

import pytest

from tests import processes

SCRIPT = Path(__file__).with_name("long_generation.py")
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
    printed = processes.run(1, SCRIPT, scope, tokens)
    first, *_, last = json.loads(printed.splitlines()[-1])[2:]
    written = last["written"] - first["written"]
    assert written == tokens - 3 * 250
    used, resident = (last[name] - first[name] for name in ("used", "resident"))
    # What the local layer keeps goes up and down.
    assert abs(used - written * (KEYS_AND_VALUES + buckets)) < 60 * KEYS_AND_VALUES
    assert last["allocated"] < 1.13 * last["used"] + MIB
    # Room to grow that no token has filled is not resident.
    assert abs(resident - used) < 2 * MIB
