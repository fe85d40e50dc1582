"""Memory that grows less with depth under glibc. Entry points call this; no import does.

torch asks for blocks aligned to 64 bytes. glibc cuts such a block out of a longer free one, and
gives the few bytes before and behind it to small objects, which may live longer. Once freed, the
block is then too short for the next request of its size (sourceware.org bug 14581), so each layer
takes new memory. With `THP_MEM_ALLOC_ENABLE=1` torch aligns blocks of 2 MiB and more to pages: what
is cut off then is longer than what small objects ask for. It also asks the system for large pages,
so that giving the largest blocks back at once costs less time. It does cost some, because what
comes back has to be cleared. So shallow models, whose memory grows little, leave glibc's thresholds
as they are.
"""

import ctypes
import os
import platform
import sys
from pathlib import Path

import torch

ALIGN_TO_PAGES = {"THP_MEM_ALLOC_ENABLE": "1"}
"""What torch reads when it makes its first tensor; other packages make one while imported."""

MMAP_THRESHOLD, TRIM_THRESHOLD = "MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_"
"""What glibc reads at its start: bytes from which on a freed block is given back at once, and bytes
of free memory at the end of the heap from which on those are."""

THRESHOLDS = {MMAP_THRESHOLD: str(2**23), TRIM_THRESHOLD: str(2**28)}
"""What deep models set."""

SHALLOW = 6
"""Layers up to which a model gives nothing more back than glibc does by itself."""

LARGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")
ALIGNED = 2**21  # bytes of a tensor from which on torch aligns it to pages
PAGE = 4096
_OPTIONS = {MMAP_THRESHOLD: -3, TRIM_THRESHOLD: -1}  # of mallopt, in malloc.h


_ALIGNED: list[bool] = []  # holds something once this process was asked for it


def thresholds(num_hidden_layers: int) -> dict[str, str]:
    """What `fit_to_depth` tells glibc.

    Args:
        num_hidden_layers: of the model.

    Returns:
        The settings, as the environment would have them: none of a shallow model.
    """
    return THRESHOLDS if num_hidden_layers > SHALLOW else {}


def reuse_freed_memory(num_hidden_layers: int | None = None) -> bool:
    """Have this process use freed memory again, so that its peak grows less with depth.

    Set `THP_MEM_ALLOC_ENABLE=1` in the environment before anything makes a tensor, as the training
    scripts do at their top; then call this. One line on standard error says what was done. Nothing
    is done where that variable is not 1, where the system's allocator is not glibc, or where
    another is preloaded. Settings of glibc that are in the environment are left as they are.

    Args:
        num_hidden_layers: of the model, if it is known; `fit_to_depth` says it later.

    Returns:
        Whether blocks are aligned to pages.
    """
    if not _is_asked():
        return False
    is_aligned = not any(
        torch.empty(ALIGNED, dtype=torch.uint8).data_ptr() % PAGE for _ in range(4)
    )
    if not is_aligned:
        said = "as it was, because THP_MEM_ALLOC_ENABLE=1 came after the first tensor"
    else:
        said = "large blocks are aligned to pages"
        if _may_be_told():
            said += f", and models of more than {SHALLOW} layers give the largest back at once"
        said += " (THP_MEM_ALLOC_ENABLE=0: as it was)"
        _ALIGNED.append(True)
        if num_hidden_layers is not None:
            fit_to_depth(num_hidden_layers)
    if os.environ.get("RANK", "0") == "0":
        print(f"glibc's allocator: {said}", file=sys.stderr)
    return is_aligned


def fit_to_depth(num_hidden_layers: int) -> bool:
    """Let a deep model give blocks of 8 MiB and more back at once.

    It holds until the process ends, also for a shallow model that comes after.

    Args:
        num_hidden_layers: of the model that is trained next.

    Returns:
        Whether glibc was told: only after `reuse_freed_memory` had blocks aligned, and if the
        system has large pages. Without these each page that comes back costs time.
    """
    settings = thresholds(num_hidden_layers)
    if not settings or not _ALIGNED or not _may_be_told():
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return all([mallopt(_OPTIONS[name], int(value)) for name, value in settings.items()])


def _may_be_told() -> bool:
    """Whether the system has large pages, and the environment leaves the thresholds open."""
    tuned = "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", "")
    return has_large_pages() and not tuned and not os.environ.keys() & THRESHOLDS.keys()


def _is_asked() -> bool:
    """Whether the environment asks for it, and glibc's own allocator is at work."""
    return (
        all(os.environ.get(name) == value for name, value in ALIGN_TO_PAGES.items())
        and platform.libc_ver()[0] == "glibc"
        and "alloc" not in os.environ.get("LD_PRELOAD", "")
    )


def has_large_pages() -> bool:
    """Whether a process of this system may ask for large pages."""
    try:
        return "[never]" not in LARGE_PAGES.read_text(encoding="ascii")
    except OSError:
        return False
