"""Prints the bytes by which training steps grow a process, with 2 layers and then with 6.

python -m tests.training.memory_by_depth 24    # with the thresholds of models of 24 layers
"""

import sys
import types
from pathlib import Path

import torch
from torch import nn

DIM, TOKENS = 128, 16384
DEPTHS = (2, 6)


def main() -> None:
    """Do a forward and a backward pass with either depth."""
    package = types.ModuleType("reformer_hf")  # without transformers, which takes seconds to import
    package.__path__ = [str(Path(__file__).parents[2] / "reformer_hf")]
    sys.modules["reformer_hf"] = package

    from reformer_hf.nn import LocalAttention, LSHAttention, ReversibleSequence
    from reformer_hf.training.allocator import reuse_freed_memory
    from reformer_hf.training.memory import peak_memory_bytes, resident_bytes

    reuse_freed_memory(int(sys.argv[1]))
    torch.manual_seed(0)
    before = resident_bytes() or 0
    for layers in DEPTHS:
        sublayers: list[nn.Module] = []
        for index in range(layers):
            far = LSHAttention(DIM, 2, num_hashes=1, hash_length=TOKENS, layer_index=index)
            sublayers.append(far if index % 2 else LocalAttention(DIM, 2))
            wide = nn.Linear(DIM, 2 * DIM)
            sublayers.append(nn.Sequential(wide, nn.GELU(), nn.Linear(2 * DIM, DIM)))
        stack, x = ReversibleSequence(DIM, sublayers), torch.randn(1, TOKENS, DIM)
        stack(x).square().mean().backward()
        print((peak_memory_bytes() or 0) - before)


if __name__ == "__main__":
    main()
