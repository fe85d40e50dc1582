"""What the profiles of the benchmarks share: labels, and the way up from an event."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import wraps
from importlib import import_module
from typing import Any
from unittest.mock import patch

from torch.autograd.profiler_util import FunctionEvent
from torch.profiler import record_function

STAGE, OTHER = "stage: ", "other"


def labelled(function: Callable, label: str) -> Callable:
    """The function, under a label in a profile."""

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        with record_function(label):
            return function(*args, **kwargs)

    return call


@contextmanager
def labelled_stages(functions: Sequence[tuple[str, str, str]]) -> Iterator[list[str]]:
    """Label functions in a profile.

    Args:
        functions: stage, module, and name in it.

    Yields:
        Those that are not there, because the package has changed.
    """
    missing: list[str] = []
    with ExitStack() as labels:
        for stage, module_name, path in functions:
            owner: Any = import_module(module_name)
            *outer, name = path.split(".")
            for part in outer:
                owner = getattr(owner, part, None)
            function = getattr(owner, name, None)
            if function is None:
                missing.append(f"{module_name}.{path}")
            else:
                labels.enter_context(patch.object(owner, name, labelled(function, STAGE + stage)))
        yield missing


def outer_names(event: FunctionEvent | None) -> Iterator[str]:
    """The names of an event and of those around it, from the inside."""
    while event is not None:
        yield event.name
        event = event.cpu_parent


def innermost(event: FunctionEvent, prefix: str) -> str | None:
    """What follows a prefix in the innermost name that has it, of an event and those around it."""
    names = (name for name in outer_names(event) if name.startswith(prefix))
    return next((name.removeprefix(prefix) for name in names), None)
