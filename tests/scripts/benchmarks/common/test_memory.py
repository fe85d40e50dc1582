"""Peaks of resident memory by phase."""

import pytest
import torch

from scripts.benchmarks.common import memory
from scripts.benchmarks.common.memory import RESET, PeakMemory, resident_bytes


@pytest.mark.skipif(not RESET.exists(), reason="only Linux begins a new peak")
def test_each_phase_has_its_own_peak():
    peaks = PeakMemory()
    with peaks.phase("small"):
        torch.ones(2**18)
    with peaks.phase("large"):
        torch.ones(2**25)  # 128 MiB
    with peaks.phase("small"):
        torch.ones(2**18)
    found = peaks.record("small", "large", "never")
    assert found["large"] > found["small"] + 100 * 2**20
    assert found["never"] is None
    assert found["whole"] >= found["large"] > resident_bytes()


def test_a_system_that_does_not_say(monkeypatch, tmp_path):
    monkeypatch.setattr(memory, "STATUS", tmp_path / "status")
    monkeypatch.setattr(memory, "RESET", tmp_path / "nowhere" / "reset")
    peaks = PeakMemory()
    with peaks.phase("forward"):
        pass
    assert resident_bytes() is None
    whole = peaks.record("forward")
    assert whole["forward"] is None and (whole["whole"] is None or whole["whole"] > 0)
