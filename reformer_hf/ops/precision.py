"""Choosing a precision: without autocast, and by what the processor is good for."""

import functools
from contextlib import AbstractContextManager, nullcontext

import torch


def autocast_off(device_type: str) -> AbstractContextManager[object]:
    """Autocast switched off within the context, if it is on (``meta`` does not know it at all).

    Args:
        device_type: of the tensors at work.

    Returns:
        The context.

    >>> with torch.autocast("cpu", torch.bfloat16), autocast_off("cpu"):
    ...     (torch.ones(1, 1) @ torch.ones(1, 1)).dtype
    torch.float32
    """
    if torch.amp.is_autocast_available(device_type) and torch.is_autocast_enabled(device_type):
        return torch.autocast(device_type, enabled=False)
    return nullcontext()


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
