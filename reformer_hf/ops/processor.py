"""What the arithmetic of this machine's processor is good for."""

import functools

import torch


@functools.cache
def multiplies_bfloat16() -> bool:
    """Whether the CPU has instructions for products of bfloat16; without, they are slow.

    Returns:
        True with AVX-512 BF16, which processors with AMX have, too; False where torch cannot say.

    >>> multiplies_bfloat16() in (True, False)
    True
    """
    supported = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return supported is not None and bool(supported())
