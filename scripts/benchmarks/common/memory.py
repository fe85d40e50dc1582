"""Resident memory of this process, and its peak in each phase of a run."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from reformer_hf.training.machine import peak_memory_bytes

STATUS = Path("/proc/self/status")
RESET = Path("/proc/self/clear_refs")
RESET_PEAK = "5"  # what Linux takes as the order to begin a new peak


def resident_bytes() -> int | None:
    """Resident memory now; None where the system does not say."""
    return _status("VmRSS")


class PeakMemory:
    """The largest resident memory of each phase.

    Where the system cannot begin a new peak, only that of the whole process is known.
    """

    def __init__(self) -> None:
        self.peaks: dict[str, int] = {}
        self.whole = peak_memory_bytes()

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Watch a part of a phase."""
        is_watched = _reset()
        yield
        peak = _status("VmHWM") if is_watched else None
        if peak is not None:
            self.peaks[name] = max(peak, self.peaks.get(name, 0))
        # A reset also takes back the peak that is asked for here, hence the largest so far.
        now = peak_memory_bytes()
        if now is not None:
            self.whole = max(now, self.whole or 0)

    def record(self, *phases: str) -> dict[str, int | None]:
        """The peaks of some phases, None where unknown, and that of the `whole` process."""
        return {name: self.peaks.get(name) for name in phases} | {"whole": self.whole}


def _reset() -> bool:
    try:
        RESET.write_text(RESET_PEAK, encoding="ascii")
    except OSError:  # not Linux, or not allowed
        return False
    return True


def _status(field: str) -> int | None:
    try:
        lines = STATUS.read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    for line in lines:
        name, _, value = line.partition(":")
        if name == field:
            return int(value.split()[0]) * 1024
    return None
