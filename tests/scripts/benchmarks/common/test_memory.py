"""Peaks of resident memory by phase."""

import mmap

import pytest

from reformer_hf.training import memory as process
from reformer_hf.training.memory import resident_bytes
from scripts.benchmarks.common import memory
from scripts.benchmarks.common.memory import RESET, PeakMemory


@pytest.fixture
def system(tmp_path, monkeypatch):
    """A made-up system, which says what the test tells it to, and takes orders."""

    def say(resident, peak):
        lines = f"Name:\ttest\nVmHWM:\t{peak} kB\nVmRSS:\t{resident} kB\n"
        (tmp_path / "status").write_text(lines)

    monkeypatch.setattr(process, "STATUS", tmp_path / "status")
    monkeypatch.setattr(memory, "RESET", tmp_path / "reset")
    monkeypatch.setattr(memory, "peak_memory_bytes", lambda: 5000 * 1024)
    return say


def test_each_phase_has_its_own_peak(system, tmp_path):
    peaks = PeakMemory()
    system(resident=100, peak=900)
    with peaks.phase("small"):
        assert (tmp_path / "reset").read_text() == "5"
        system(resident=150, peak=300)
    with peaks.phase("large"):
        system(resident=110, peak=800)
    with peaks.phase("small"):
        system(resident=120, peak=200)
    assert resident_bytes() == 120 * 1024
    found = {"small": 300 * 1024, "large": 800 * 1024, "never": None, "whole": 5000 * 1024}
    assert peaks.record("small", "large", "never") == found
    assert peaks.entries("small") == {"peak_bytes": 300 * 1024, "before_bytes": 100 * 1024}
    assert peaks.entries("never") == {"peak_bytes": 5000 * 1024, "before_bytes": None}


def test_a_peak_is_never_below_what_was_there_before(system):
    peaks = PeakMemory()
    system(resident=100, peak=100)
    with peaks.phase("forward"):
        system(resident=90, peak=95)
    assert peaks.record("forward")["forward"] == 100 * 1024


def test_a_system_that_does_not_say(monkeypatch, tmp_path):
    monkeypatch.setattr(process, "STATUS", tmp_path / "status")
    monkeypatch.setattr(memory, "RESET", tmp_path / "nowhere" / "reset")
    peaks = PeakMemory()
    with peaks.phase("forward"):
        pass
    assert resident_bytes() is None
    whole = peaks.record("forward")
    assert whole["forward"] is None and (whole["whole"] is None or whole["whole"] > 0)


@pytest.mark.slow  # not for its time: other load can move what the system counts
@pytest.mark.skipif(not RESET.exists(), reason="only Linux begins a new peak")
def test_the_system_begins_a_new_peak():
    peaks = PeakMemory()
    for name, size in (("small", 2**12), ("large", 2**27), ("again", 2**12)):
        with peaks.phase(name), mmap.mmap(-1, size) as touched:
            touched.write(b"x" * size)
    found = peaks.record("small", "large", "again")
    for name in ("small", "again"):
        assert found["large"] > found[name] + 100 * 2**20
    assert found["whole"] >= found["large"] > resident_bytes()
