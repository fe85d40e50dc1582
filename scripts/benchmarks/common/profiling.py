"""What the profiles of the benchmarks share: labels, and the way up from an event."""

from collections.abc import Callable, Iterator
from functools import wraps
from typing import Any

from torch.autograd.profiler_util import FunctionEvent
from torch.profiler import record_function


def labelled(function: Callable, label: str) -> Callable:
    """The function, under a label in a profile."""

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        with record_function(label):
            return function(*args, **kwargs)

    return call


def outer_names(event: FunctionEvent | None) -> Iterator[str]:
    """The names of an event and of those around it, from the inside."""
    while event is not None:
        yield event.name
        event = event.cpu_parent


def innermost(event: FunctionEvent, prefix: str) -> str | None:
    """What follows a prefix in the innermost name that has it, of an event and those around it."""
    names = (name for name in outer_names(event) if name.startswith(prefix))
    return next((name.removeprefix(prefix) for name in names), None)
