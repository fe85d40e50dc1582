"""Memory that grows less with depth under glibc. Entry points call this; no import does.

torch asks for blocks aligned to 64 bytes. glibc cuts such a block out of a longer free one, and
gives the few bytes before and behind it to small objects, which may live longer. Once freed, the
block is then too short for the next request of its size (sourceware.org bug 14581), so each layer
takes new memory. With `THP_MEM_ALLOC_ENABLE=1` torch aligns blocks of 2 MiB and more to pages: what
is cut off then is longer than what small objects ask for. It also asks the system for large pages,
so that giving the largest blocks back at once costs little time.
"""

import ctypes
import os
import platform
import sys
from pathlib import Path

import torch

ALIGN_TO_PAGES = {"THP_MEM_ALLOC_ENABLE": "1"}
"""What torch reads when it makes its first tensor; other packages make one while imported."""

RETURN_LARGEST = {"MALLOC_MMAP_THRESHOLD_": str(2**23), "MALLOC_TRIM_THRESHOLD_": str(2**28)}
"""What glibc would read at its start: bytes from which on a freed block is given back at once, and
bytes of free memory at the end of the heap from which on those are."""

LARGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")
ALIGNED = 2**21  # bytes of a tensor from which on torch aligns it to pages
PAGE = 4096
_OPTIONS = {"MALLOC_MMAP_THRESHOLD_": -3, "MALLOC_TRIM_THRESHOLD_": -1}  # of mallopt, in malloc.h


def reuse_freed_memory() -> bool:
    """Have this process use freed memory again, so that its peak grows less with depth.

    Set `THP_MEM_ALLOC_ENABLE=1` in the environment before anything makes a tensor, as the training
    scripts do at their top; then call this. One line on standard error says what was done. Nothing
    is done where that variable is not 1, where the system's allocator is not glibc, or where
    another is preloaded. Settings of glibc that are in the environment are left as they are.

    Returns:
        Whether blocks are aligned to pages.
    """
    asked = all(os.environ.get(name) == value for name, value in ALIGN_TO_PAGES.items())
    if (
        not asked
        or platform.libc_ver()[0] != "glibc"
        or "alloc" in os.environ.get("LD_PRELOAD", "")
    ):
        return False
    is_aligned = not any(
        torch.empty(ALIGNED, dtype=torch.uint8).data_ptr() % PAGE for _ in range(4)
    )
    if not is_aligned:
        said = "as it was, because THP_MEM_ALLOC_ENABLE=1 came after the first tensor"
    else:
        said = "large blocks are aligned to pages (THP_MEM_ALLOC_ENABLE=0: as it was)"
        # Without large pages each page that comes back costs time.
        if has_large_pages() and not os.environ.keys() & RETURN_LARGEST.keys():
            for name, value in RETURN_LARGEST.items():
                ctypes.CDLL(None).mallopt(_OPTIONS[name], int(value))
            said += ", those of 8 MiB and more are given back at once"
    if os.environ.get("RANK", "0") == "0":
        print(f"glibc's allocator: {said}", file=sys.stderr)
    return is_aligned


def has_large_pages() -> bool:
    """Whether a process of this system may ask for large pages."""
    try:
        return "[never]" not in LARGE_PAGES.read_text(encoding="ascii")
    except OSError:
        return False
