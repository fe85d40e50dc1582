"""Memory of this process, of its GPU, of tensors and of training, in bytes."""

import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

STATUS = Path("/proc/self/status")


def peak_memory_bytes() -> int | None:
    """Largest resident memory of this process so far; None where the system does not say."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def peak_device_bytes() -> int | None:
    """Largest memory of tensors on this process's GPU so far; None without one."""
    return torch.cuda.max_memory_allocated() if torch.cuda.is_initialized() else None


def resident_bytes() -> int | None:
    """Resident memory of this process now; None where the system does not say."""
    return status_bytes("VmRSS")


def status_bytes(field: str) -> int | None:
    """What Linux says of this process's memory under a name; None elsewhere."""
    try:
        lines = STATUS.read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    found = (line.split() for line in lines if line.startswith(f"{field}:"))
    return next((int(words[1]) * 1024 for words in found), None)


def tensor_bytes(tensors: Iterable[Any]) -> int:
    """Bytes of this process's part of tensors; what else is among them counts nothing."""
    held = (tensor for tensor in tensors if isinstance(tensor, Tensor))
    local = (tensor.to_local() if hasattr(tensor, "to_local") else tensor for tensor in held)  # type: ignore[operator]
    return sum(tensor.numel() * tensor.element_size() for tensor in local)


@dataclass(frozen=True)
class MemoryUse:
    """Bytes of a process in a dry run; None for what is not known.

    Attributes:
        peak: largest resident memory of the process.
        device_peak: largest memory of tensors on its GPU.
        parameters: of the model.
        gradients: of its trained parameters, as far as they are there at a time.
        optimizer: of the state of the optimizer.
        activations: what the steps took besides: activations, and tensors that live shortly.
    """

    peak: int | None
    device_peak: int | None
    parameters: int
    gradients: int
    optimizer: int
    activations: int | None


class MemoryWatch:
    """The memory that training takes in this process."""

    def __init__(self) -> None:
        self._before, self._peak_before = resident_bytes(), peak_memory_bytes()
        self._activations: int | None = None

    def after_steps(self, model: Any, optimizer: Any, gradients: int | None = None) -> None:
        """Note what the steps took; evaluations and checkpoints may come then.

        Args:
            model: that was trained.
            optimizer: of it.
            gradients: bytes of those that were there at a time; None for all.
        """
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        states = (value for state in optimizer.state.values() for value in state.values())
        self._parameters = tensor_bytes(model.parameters())
        self._gradients = tensor_bytes(trained) if gradients is None else gradients
        self._optimizer = tensor_bytes(states)
        needed = self._gradients + self._optimizer
        on_device, peak = peak_device_bytes(), peak_memory_bytes()
        if on_device is not None:
            self._activations = max(0, on_device - self._parameters - needed)
        # The peak may be one of preparing the data.
        elif self._before is not None and peak is not None and peak > (self._peak_before or 0):
            self._activations = max(0, peak - self._before - needed)

    def result(self) -> MemoryUse:
        """All of it, at the end."""
        return MemoryUse(
            peak_memory_bytes(),
            peak_device_bytes(),
            self._parameters,
            self._gradients,
            self._optimizer,
            self._activations,
        )
