"""Keeping autocast out of what chooses its precision by itself."""

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
