"""Muon for processors that multiply bfloat16 slowly."""

import math
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from reformer_hf.ops.precision import multiplies_bfloat16


class WideMuon(torch.optim.Muon):
    """`torch.optim.Muon`, which multiplies in float32 where the processor has no bfloat16.

    A step is the same up to rounding, and takes a small part of the time there. Elsewhere it is
    torch's own. Groups and state are torch's. Its rates are those of `adjust_lr_fn="original"`.
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take a step; see the base class."""
        parameters = [each for group in self.param_groups for each in group["params"]]
        if multiplies_bfloat16() or any(each.device.type != "cpu" for each in parameters):
            return super().step(closure)
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    _step(parameter, parameter.grad, self.state[parameter], group)
        return loss


def _step(parameter: Tensor, gradient: Tensor, state: dict, group: dict[str, Any]) -> None:
    """Step one matrix."""
    if "momentum_buffer" not in state:
        state["momentum_buffer"] = torch.zeros_like(gradient)
    mean, share = state["momentum_buffer"], group["momentum"]
    mean.lerp_(gradient, 1 - share)
    update = gradient.lerp(mean, share) if group["nesterov"] else mean
    update = orthogonalise(update, group["ns_coefficients"], group["ns_steps"], group["eps"])
    rate, rows, columns = float(group["lr"]), *parameter.shape
    parameter.mul_(1 - rate * group["weight_decay"])
    parameter.add_(update, alpha=-rate * math.sqrt(max(1, rows / columns)))


def orthogonalise(
    matrix: Float[Tensor, "rows columns"],
    coefficients: tuple[float, float, float],
    steps: int,
    eps: float,
) -> Float[Tensor, "rows columns"]:
    """Bring the singular values of a matrix near to one by Newton and Schulz' iteration.

    Args:
        matrix: any that is not zero.
        coefficients: of the odd polynomial of degree five that each step applies to them.
        steps: of the iteration.
        eps: what its norm is at least taken as.

    Returns:
        In float32 or wider, with the same singular vectors.

    Source: Jordan et al. 2024, "Muon" (kellerjordan.github.io/posts/muon).

    >>> matrix = torch.diag(torch.tensor([3.0, 1.0]))
    >>> found = orthogonalise(matrix, (3.4445, -4.775, 2.0315), 5, 1e-7)
    >>> ((found.diag() > 0.6) & (found.diag() < 1.3)).all().item()
    True
    """
    linear, cubic, quintic = coefficients
    wide = matrix.to(torch.promote_types(matrix.dtype, torch.float32))
    is_tall = wide.shape[0] > wide.shape[1]
    wide = wide.T if is_tall else wide
    wide = wide / wide.norm().clamp(min=eps)
    for _ in range(steps):
        gram = wide @ wide.T
        polynomial = torch.addmm(gram, gram, gram, beta=cubic, alpha=quintic)
        wide = torch.addmm(wide, polynomial, wide, beta=linear)
    return wide.T if is_tall else wide
