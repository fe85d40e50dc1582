"""The ambient state that a piece of code runs in, captured so that a replay can run in it again."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch


class Surroundings:
    """State of the default random generators and of autocast, as it is when this is made.

    Args:
        device: device of the tensors at work; its generator and autocast are captured beside
            the CPU's.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.cpu_state = torch.get_rng_state()
        module = getattr(torch, device.type, None)
        # Fake tensors may lie on a device that this process has not started, or does not have.
        started = getattr(module, "is_initialized", getattr(module, "is_available", bool))
        self.generator = module if hasattr(module, "get_rng_state") and started() else None
        self.device_state = self.generator and self.generator.get_rng_state(device)
        self.autocast = [
            {
                "device_type": kind,
                "enabled": torch.is_autocast_enabled(kind),
                "dtype": torch.get_autocast_dtype(kind),
                "cache_enabled": torch.is_autocast_cache_enabled(),
            }
            for kind in {device.type, "cpu"}
            if torch.amp.is_autocast_available(kind)
        ]

    @contextmanager
    def restored(self) -> Iterator[None]:
        """Within the context, all is as it was; after it, as it was before it."""
        devices = [self.device] if self.generator else []
        kind = self.device.type if self.generator else None
        with torch.random.fork_rng(devices, device_type=kind), ExitStack() as stack:
            torch.set_rng_state(self.cpu_state)
            if self.generator:
                self.generator.set_rng_state(self.device_state, self.device)
            for options in self.autocast:
                stack.enter_context(torch.autocast(**options))
            yield
