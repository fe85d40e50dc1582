"""Checks of tensor shapes at run time: each function once for each form of its arguments.

jaxtyping and beartype check every call of the functions in `ops` and `nn`. A training run makes the
same call thousands of times, and a check takes longer than the arithmetic on tiny tensors. So calls
whose arguments have the form of a call that passed are not checked again.
"""

import contextlib
import functools
import weakref
from collections.abc import Callable
from dataclasses import is_dataclass
from typing import Any, get_args

import jaxtyping
import torch
from torch import Tensor, nn
from torch.compiler import is_compiling

PLAIN = {bool, float, str, type(None), torch.dtype, torch.device}
NO_SIZE = 2**24
"""No size in a test is as large: such a number is a seed or an address."""
check_every_call = jaxtyping.jaxtyped
passed: set[tuple] = set()
numbers: dict[tuple, int] = {}
"""Of the ways in which modules are built."""
seen: dict[int, tuple[weakref.ref[nn.Module], int, int]] = {}
"""Modules by their address, how many parts each had, and the number of the way it is built."""


def form(value: Any) -> Any:
    """What decides the shape of a result: shapes, numbers and names, how a module is built."""
    kind = type(value)
    if kind is Tensor:
        return value.shape, value.dtype
    if kind is int:
        return kind, value if -NO_SIZE < value < NO_SIZE else NO_SIZE
    if kind in PLAIN:
        return kind, value
    return _form_of(kind)(value)


@functools.cache
def _form_of(kind: type) -> Callable[[Any], Any]:
    """Of values of the kinds that `form` does not know itself."""
    if issubclass(kind, Tensor):
        return lambda tensor: (tensor.shape, tensor.dtype)
    if issubclass(kind, (tuple, list)):
        return lambda values: (kind, *map(form, values))
    if issubclass(kind, nn.Module):
        return lambda module: (kind, vars(module).get("training"), _number(module))
    if is_dataclass(kind):
        return lambda data: (kind, *map(form, vars(data).values()))
    return lambda _: kind


def _number(module: nn.Module) -> int:
    """The same for modules of the same kind, fields, weights and modules inside."""
    state = vars(module)
    inside = [state.get(name, {}) for name in ("_parameters", "_buffers", "_modules")]
    size = len(state) + sum(map(len, inside))  # which grows while a module is made
    reference, known_size, number = seen.get(id(module), (None, 0, 0))
    if reference is None or reference() is not module or known_size != size:
        parts = {name: part for name, part in state.items() if name != "training"}
        parts = [item for each in (parts, *inside) for item in each.items()]
        built = (type(module), *((name, form(part)) for name, part in parts))
        number = numbers.setdefault(built, len(numbers))
        seen[id(module)] = weakref.ref(module), size, number
    return number


def kinds_in(value: Any) -> Any:
    """The form of an argument of a function that names no shape: of a list what kinds it holds."""
    return (list, *{type(item) for item in value}) if type(value) is list else form(value)


def names_a_shape(annotation: Any) -> bool:
    """Whether an annotation, or a part of it, is one of jaxtyping; of one in quotes: it may be."""
    if isinstance(annotation, str):
        return "[" in annotation
    if isinstance(annotation, type) and issubclass(annotation, jaxtyping.AbstractArray):
        return True
    parts = annotation if isinstance(annotation, list) else get_args(annotation)
    return any(map(names_a_shape, parts))


def check_each_form_once(**options: Any) -> Callable[[Any], Any]:
    """Stands in for `jaxtyping.jaxtyped`, which the import hook puts on functions and classes."""

    def decorate(fn: Any) -> Any:
        if isinstance(fn, type):
            return check_every_call(fn, **options)
        if fn.__module__.endswith("triton_kernels"):  # Triton compiles the source, not the call
            return fn
        # Not the function: one that another defines is made, and would be kept, again and again.
        source, checked = id(fn.__code__), None
        shaped = any(map(names_a_shape, getattr(fn, "__annotations__", {}).values()))
        describe = form if shaped else kinds_in

        @functools.wraps(fn)
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal checked
            if is_compiling():  # and would compile the checks
                return fn(*args, **kwargs)
            key = source, *map(describe, args), *kwargs, *map(describe, kwargs.values())
            try:
                if key in passed:
                    return fn(*args, **kwargs)
            except TypeError:  # sizes that are symbols cannot be looked up
                pass
            checked = checked or check_every_call(fn, **options)
            result = checked(*args, **kwargs)
            with contextlib.suppress(TypeError):
                passed.add(key)
            return result

        return call

    return decorate


def install() -> None:
    """Check the shapes in the modules of `ops` and `nn` that are imported from now on."""
    jaxtyping.jaxtyped = check_each_form_once
    jaxtyping.install_import_hook(["reformer_hf.ops", "reformer_hf.nn"], "beartype.beartype")
