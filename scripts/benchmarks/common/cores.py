"""The cores that a benchmark runs on, and whether other processes wanted them, too."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def usable_cores() -> int:
    """Cores that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)  # not on macOS and Windows
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def waiting_seconds() -> float | None:
    """How long the threads of this process have waited for a core so far; None if unknown."""
    try:
        files = list(Path("/proc/self/task").glob("*/schedstat"))
        waited = [int(file.read_text(encoding="ascii").split()[1]) for file in files]
    except OSError:  # a thread that has just ended
        return None
    return sum(waited) / 1e9 if files else None  # no files: not Linux


@contextmanager
def watched_cores(record: dict, name: str) -> Iterator[None]:
    """Put into `record[name]` how long threads waited for a core in each second of a block.

    With no more threads than cores they wait only for other processes.
    """
    begin, before = time.perf_counter(), waiting_seconds()
    yield
    seconds, after = time.perf_counter() - begin, waiting_seconds()
    if before is None or after is None:
        record[name] = None
    else:
        record[name] = round((after - before) / seconds, 4)
