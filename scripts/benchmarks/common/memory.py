"""Resident memory of this process, and its peak in each phase of a run."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from reformer_hf.training.memory import peak_memory_bytes, resident_bytes, status_bytes

RESET = Path("/proc/self/clear_refs")
RESET_PEAK = "5"  # what Linux takes as the order to begin a new peak
RETURN_LARGE = {"MALLOC_MMAP_THRESHOLD_": str(2**20), "MALLOC_TRIM_THRESHOLD_": str(2**28)}
"""Settings of glibc that give large tensors' memory back at once: the peak is what was needed."""


class PeakMemory:
    """The largest resident memory of each phase, and that when it first began.

    Where the system cannot begin a new peak, only that of the whole process is known.
    """

    def __init__(self) -> None:
        self.before: dict[str, int | None] = {}
        self.peaks: dict[str, int] = {}
        self.whole = peak_memory_bytes()

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Watch a part of a phase."""
        before = resident_bytes()
        self.before.setdefault(name, before)
        is_watched = _reset()
        yield
        peak = status_bytes("VmHWM") if is_watched else None
        if peak is not None:
            # The system counts roughly: its peak can be below what it said before.
            self.peaks[name] = max(peak, before or 0, self.peaks.get(name, 0))
        # A reset also takes back the peak that is asked for here, hence the largest so far.
        self.whole = max(peak_memory_bytes() or 0, self.whole or 0) or None

    def record(self, *phases: str) -> dict[str, int | None]:
        """The peaks of some phases, None where unknown, and that of the `whole` process."""
        return {name: self.peaks.get(name) for name in phases} | {"whole": self.whole}

    def entries(self, phase: str) -> dict[str, int | None]:
        """The peak of a phase, or else of the process, and what the process held before it."""
        return {
            "peak_bytes": self.peaks.get(phase, self.whole),
            "before_bytes": self.before.get(phase),
        }


def _reset() -> bool:
    try:
        RESET.write_text(RESET_PEAK, encoding="ascii")
    except OSError:  # not Linux, or not allowed
        return False
    return True
