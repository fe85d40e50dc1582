"""Backward passes that cannot be differentiated themselves say so."""

import functools
from collections.abc import Callable
from typing import Any

import torch

Backward = Callable[..., Any]


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
                "create_graph=True: this layer has a first derivative only; for a second one "
                "use implementation='eager' (attn_implementation='eager' of a model), and no "
                "reversible layers (config.reversible=False)"
            )
        return backward(ctx, *grads)

    return run
