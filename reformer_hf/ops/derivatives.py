"""What has a first derivative only, by an ordinary backward pass, says so."""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch._C._functorch import get_interpreter_stack

Backward = Callable[..., Any]

ADVICE = (
    "use implementation='eager' (attn_implementation='eager' of a model), and no reversible layers "
    "(config.reversible=False)"
)


def first_derivative_only(backward: Backward) -> Backward:
    """Refuse a second derivative as soon as it is prepared for.

    `once_differentiable` of torch raises only when backward arrives where the graph was cut. A
    backward to chosen inputs does not go there, and what it leaves out makes a wrong number.

    Args:
        backward: of a `torch.autograd.Function`; it computes without a graph.

    Returns:
        The same, which raises a RuntimeError under `create_graph=True`.

    >>> twice = first_derivative_only(lambda ctx, grad: 2 * grad)
    >>> with torch.no_grad():  # as torch runs a backward pass
    ...     twice(None, torch.tensor(3.0)).item()
    6.0
    """

    @functools.wraps(backward)
    def run(ctx: Any, *grads: Any) -> Any:
        if torch.is_grad_enabled():
            raise RuntimeError(
                f"create_graph=True: this layer has a first derivative only; for more {ADVICE}"
            )
        return backward(ctx, *grads)

    return run


def transform_runs() -> bool:
    """Whether a transform of `torch.func`, such as `grad` or `vmap`, is at work.

    Returns:
        True within the function that it calls.

    >>> transform_runs()
    False
    """
    return get_interpreter_stack() is not None


def refuse_transforms() -> None:
    """Refuse the transforms of `torch.func`, which do not call a plain backward pass.

    Raises:
        RuntimeError: if one is at work.

    >>> refuse_transforms() is None  # nothing happens here, outside any
    True
    """
    if transform_runs():
        raise RuntimeError(f"torch.func does not transform this layer: {ADVICE}")
