"""Peaks of resident memory by phase."""

import pytest
import torch

from scripts import benchmark_memory
from scripts.benchmark_memory import RESET, PeakMemory, resident_bytes


@pytest.mark.skipif(not RESET.exists(), reason="only Linux begins a new peak")
def test_each_phase_has_its_own_peak():
    memory = PeakMemory()
    with memory.phase("small"):
        torch.ones(2**18)
    with memory.phase("large"):
        torch.ones(2**25)  # 128 MiB
    with memory.phase("small"):
        torch.ones(2**18)
    peaks = memory.record("small", "large", "never")
    assert peaks["large"] > peaks["small"] + 100 * 2**20
    assert peaks["never"] is None
    assert peaks["whole"] >= peaks["large"] > resident_bytes()


def test_a_system_that_does_not_say(monkeypatch, tmp_path):
    monkeypatch.setattr(benchmark_memory, "STATUS", tmp_path / "status")
    monkeypatch.setattr(benchmark_memory, "RESET", tmp_path / "nowhere" / "reset")
    memory = PeakMemory()
    with memory.phase("forward"):
        pass
    assert resident_bytes() is None
    whole = memory.record("forward")
    assert whole["forward"] is None and (whole["whole"] is None or whole["whole"] > 0)
