"""Checks of tensor shapes at run time: each function once for each form of its arguments.

jaxtyping and beartype check every call of the functions in `ops` and `nn`. A training run makes the
same call thousands of times, and a check takes longer than the arithmetic on tiny tensors. So calls
whose arguments have the form of a call that passed are not checked again.
"""

import contextlib
import functools
from collections.abc import Callable
from dataclasses import is_dataclass
from typing import Any

import jaxtyping
import torch
from torch import Tensor, nn

PLAIN = {bool, int, float, str, type(None), torch.dtype, torch.device}
check_every_call = jaxtyping.jaxtyped
passed: set[tuple] = set()


def form(value: Any) -> Any:
    """What decides the shape of a result: shapes, numbers and names, which module, no data."""
    kind = type(value)
    if kind in PLAIN:
        return kind, value
    if isinstance(value, Tensor):
        return value.shape, value.dtype
    if isinstance(value, (tuple, list)):
        return kind, *map(form, value)
    if isinstance(value, nn.Module):
        return id(value)
    if is_dataclass(value):
        return kind, *map(form, vars(value).values())
    return kind


def check_each_form_once(**options: Any) -> Callable[[Any], Any]:
    """Stands in for `jaxtyping.jaxtyped`, which the import hook puts on functions and classes."""

    def decorate(fn: Any) -> Any:
        if isinstance(fn, type):
            return check_every_call(fn, **options)
        if fn.__module__.endswith("triton_kernels"):  # Triton compiles the source, not the call
            return fn
        # Not the function: one that another defines is made, and would be kept, again and again.
        source, checked = id(fn.__code__), None

        @functools.wraps(fn)
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal checked
            if torch.compiler.is_compiling():  # and would compile the checks
                return fn(*args, **kwargs)
            key = source, *map(form, args), *kwargs, *map(form, kwargs.values())
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
