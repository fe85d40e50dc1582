"""Resident memory over one long call of generate(); run as a script, for a process of its own.

Prints as JSON, for some numbers of written tokens: resident bytes, and bytes that the cache
allocated and uses.
"""

import ctypes
import json
import sys
from pathlib import Path

import torch
from transformers.generation.streamers import BaseStreamer

from reformer_hf import ReformerHFCache
from tests.models.tiny import random_ids, tiny_lm

EVERY = 250
MMAP_THRESHOLD = -3
"""glibc's name for a setting of its allocator."""


def resident_bytes() -> int:
    """What the process has written to and still holds, to the page.

    `statm` counts roughly where there are many cores, and with pages of files, which the system
    takes away when others need the memory.
    """
    lines = Path("/proc/self/smaps_rollup").read_text(encoding="ascii").splitlines()[1:]
    sizes = {name: int(size.split()[0]) for name, _, size in (x.partition(":") for x in lines)}
    return 1024 * (sizes["Anonymous"] + sizes["Swap"])


class Watch(BaseStreamer):
    """Looks at the memory now and then."""

    def __init__(self, cache: ReformerHFCache):
        self.cache, self.written = cache, 0
        self.found: list[dict[str, int]] = []

    def put(self, value):
        if value.numel() > 1:
            return  # the prompt
        if self.written % EVERY == 0:
            self.found.append(
                {
                    "written": self.written,
                    "resident": resident_bytes(),
                    "allocated": self.cache.allocated_bytes(),
                    "used": self.cache.used_bytes(),
                }
            )
        self.written += 1

    def end(self):
        pass


def main(scope: str, new_tokens: int) -> None:
    model = tiny_lm(
        attention_scope=scope,
        attention_head_size=256,
        num_hashes=1,
        position_embedding_type="none",
        eos_token_id=None,
    )
    cache = ReformerHFCache(model.config)
    watch = Watch(cache)
    options = {"do_sample": False, "past_key_values": cache, "max_new_tokens": new_tokens}
    written = model.generate(random_ids(1, 5), streamer=watch, **options)
    assert written.shape == (1, 5 + new_tokens)
    assert cache.get_seq_length() == 4 + new_tokens
    print(json.dumps(watch.found))


if __name__ == "__main__":
    # Freed buffers go back to the system at once, so that resident is what is held; what the
    # imports freed goes back now.
    allocator = ctypes.CDLL(None)
    assert allocator.mallopt(MMAP_THRESHOLD, 65536) == 1
    allocator.malloc_trim(0)
    torch.set_num_threads(1)
    main(sys.argv[1], int(sys.argv[2]))
