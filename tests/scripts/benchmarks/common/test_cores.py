"""Waiting for a core is noticed."""

import os
import subprocess
import sys
import time

import pytest

from scripts.benchmarks.common import cores
from scripts.benchmarks.common.cores import waiting_seconds, watched_cores


@pytest.mark.skipif(waiting_seconds() is None, reason="only Linux says how long threads wait")
def test_waiting_for_a_core_is_noticed():
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})  # and so the other process
    other = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    record = {}
    try:
        with watched_cores(record, "waiting"):
            own = time.process_time()
            while time.process_time() - own < 0.3:
                pass
    finally:
        other.kill()
        other.wait()
        os.sched_setaffinity(0, cores)
    assert record["waiting"] > 0.1


def test_waiting_is_per_second(monkeypatch):
    waited = iter([7.0, 7.5, None, 3.0])
    clock = iter([100.0, 102.0, 110.0, 111.0])
    monkeypatch.setattr(cores, "waiting_seconds", lambda: next(waited))
    monkeypatch.setattr(cores.time, "perf_counter", lambda: next(clock))
    record = {}
    with watched_cores(record, "known"):
        pass
    with watched_cores(record, "unknown"):
        pass
    assert record == {"known": 0.25, "unknown": None}
