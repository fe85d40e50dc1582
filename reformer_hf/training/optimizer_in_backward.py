"""The optimizer's step inside backward: gradients of one layer are held at a time.

Backward makes the gradients of the last layer first. Here each layer is updated when backward has
made all of its gradients, and they are freed. So the set of all gradients, as large as the model,
is never there. The parameters afterwards are those of the usual step, but for clipping, which is
of each layer by itself: the norm of all gradients is known only at the end.

Source: `ReversibleSerialTrainer` of trax; on the hooks, Lv et al. 2023, "Full Parameter
Fine-tuning for Large Language Models with Limited Resources" (LOMO, arXiv 2306.09782), section 3.
"""

import math
import weakref
from collections.abc import Callable, Iterable
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import Tensor, nn
from torch.optim import Optimizer
from transformers import Trainer

from reformer_hf.training.memory import tensor_bytes

_NAME = "optimizer_in_backward"


class OptimizerInBackward:
    """Lets an optimizer update each layer in backward, and frees its gradients there.

    A layer is an entry of a `nn.ModuleList`, with all that is inside; of what is outside, each
    module is one. A layer is updated when all of its parameters have their gradients and the first
    gradient of another one comes: before that, a reversible layer may still be replayed with its
    old parameters. `optimizer.step()` updates what is left then, such as layers of which a
    parameter got no gradient. The state is that of the optimizer, saved and loaded as ever.

    It lives as long as the optimizer, and needs one backward pass for each `optimizer.step()`.

    Args:
        model: whose gradients `loss.backward()` makes. Under FSDP2, sharded.
        optimizer: of its parameters, each of which it must update by its own gradient alone, as
            AdamW, Adafactor and Muon do.
        max_grad_norm: longest gradient of a layer, to which longer ones are cut; None or 0: no
            limit.

    Attributes:
        grad_norm: of the gradients of all layers in the last step, before they were clipped; 0
            before the first. A tensor without axes.
        gradient_bytes: of the layer that has most.

    Raises:
        RuntimeError: in a second backward pass before `optimizer.step()`.
    """

    def __init__(
        self, model: nn.Module, optimizer: Optimizer, max_grad_norm: float | None = None
    ) -> None:
        # The optimizer refers to this, and the hooks of parameters must not, or nothing of all
        # that would be freed by reference counting.
        self._optimizer = weakref.ref(optimizer)
        self.max_grad_norm = max_grad_norm or math.inf
        self.grad_norm = torch.zeros(())
        trained = [each for group in optimizer.param_groups for each in group["params"]]
        self._layers = [_Layer(parameters) for parameters in group_by_layer(model, trained)]
        self._layer_of = {each: layer for layer in self._layers for each in layer.parameters}
        self._complete: _Layer | None = None  # and not updated yet
        self._norms: list[Tensor] = []
        self._is_stepping = False
        arrived, finish = _weakly(self._arrived), _weakly(self.finish)
        self._handles = [
            *(each.register_post_accumulate_grad_hook(arrived) for each in trained),
            optimizer.register_step_pre_hook(lambda *_: finish()),
        ]
        optimizer._in_backward = self  # type: ignore[attr-defined]

    @property
    def gradient_bytes(self) -> int:
        """Bytes of the gradients of the layer that has most, in this process."""
        return max(tensor_bytes(layer.parameters) for layer in self._layers)

    def remove(self) -> None:
        """Give the optimizer back its usual step."""
        for handle in self._handles:
            handle.remove()
        optimizer: Any = self._optimizer()
        if optimizer is not None:
            optimizer._in_backward = None

    def finish(self) -> None:
        """Update the layers that backward left, and end the step; `optimizer.step()` does it."""
        if self._is_stepping:
            return
        for layer in self._layers:
            self._update(layer)
            layer.begin()
        self._complete = None
        if self._norms:
            norms = [norm.to(self._norms[0].device) for norm in self._norms]
            self.grad_norm = torch.linalg.vector_norm(torch.stack(norms))
            self._norms = []

    def _arrived(self, parameter: nn.Parameter) -> None:
        """Take note of a gradient, after all uses of its parameter have added to it."""
        layer = self._layer_of[parameter]
        if layer.is_updated:
            raise RuntimeError(
                "optimizer_in_backward: a second backward pass before optimizer.step(); gradients "
                "cannot be accumulated, since the first ones are used and gone"
            )
        if self._complete is not None and self._complete is not layer:
            self._update(self._complete)
            self._complete = None
        layer.missing.discard(parameter)
        if not layer.missing:
            self._complete = layer

    def _update(self, layer: "_Layer") -> None:
        """Clip, step and free the gradients of a layer, if it has any."""
        found = [each for each in layer.parameters if each.grad is not None]
        optimizer = self._optimizer()
        if not found or optimizer is None:
            return
        norm: Any = nn.utils.clip_grad_norm_(found, self.max_grad_norm)
        self._norms.append(norm.full_tensor() if hasattr(norm, "full_tensor") else norm)
        groups, members = optimizer.param_groups, set(found)
        own = [
            {**group, "params": [each for each in group["params"] if each in members]}
            for group in groups
        ]
        optimizer.param_groups = [group for group in own if group["params"]]
        self._is_stepping = True
        try:
            optimizer.step()
        finally:
            self._is_stepping, optimizer.param_groups = False, groups
        for parameter in found:
            parameter.grad = None
        layer.is_updated = True


class _Layer:
    """Parameters that are clipped and updated together."""

    def __init__(self, parameters: list[nn.Parameter]) -> None:
        self.parameters = parameters
        self.begin()

    def begin(self) -> None:
        """Expect the gradients of a new step."""
        self.missing, self.is_updated = set(self.parameters), False


def group_by_layer(
    model: nn.Module, parameters: Iterable[nn.Parameter]
) -> list[list[nn.Parameter]]:
    """Part parameters by layer: an entry of a `nn.ModuleList`, or a module outside of all lists.

    One that several layers share goes to the first of them. Those of other models are one layer.
    """
    owner: dict[nn.Parameter, nn.Module] = {}
    entries: set[nn.Module] = set()
    for module in model.modules():  # the outer ones first
        if isinstance(module, nn.ModuleList):
            entries.update(module)
        for parameter in module.parameters(recurse=module in entries):
            owner.setdefault(parameter, module)
    layers: dict[nn.Module | None, list[nn.Parameter]] = {}
    for parameter in parameters:
        layers.setdefault(owner.get(parameter), []).append(parameter)
    return list(layers.values())


def _weakly(method: Callable[..., None]) -> Callable[..., None]:
    """Make a function that calls a method as long as its object lives."""
    reference = weakref.WeakMethod(method)

    def call(*arguments: Any) -> None:
        alive = reference()
        if alive is not None:
            alive(*arguments)

    return call


def check_processes(optimizer_in_backward: bool, accelerator: Accelerator) -> None:
    """Check that the processes of a run leave gradients to the optimizer as backward makes them.

    Raises:
        ValueError: with a gradient scaler, and with several processes but under FSDP2.
    """
    if not optimizer_in_backward:
        return
    kind = accelerator.distributed_type
    if accelerator.scaler is not None:
        raise ValueError(
            f"optimizer_in_backward=True with mixed_precision={accelerator.mixed_precision!r}: its "
            "scaler looks at all gradients before a step. Use bf16 or none, or leave it out"
        )
    plugin = accelerator.state.fsdp_plugin if kind == DistributedType.FSDP else None
    if kind != DistributedType.NO and (plugin is None or plugin.fsdp_version == 1):
        raise ValueError(
            f"optimizer_in_backward=True with {kind.value}: it keeps and averages all gradients. "
            "Use one process or FSDP2 (fsdp_version: 2), or leave it out"
        )


def in_backward_settings(arguments: Any) -> dict[str, bool]:
    """What a record says beside the other hyperparameters; nothing of the usual step."""
    return {_NAME: True} if getattr(arguments, _NAME, False) else {}


class OptimizerInBackwardTrainer(Trainer):
    """A `Trainer` whose arguments may have `optimizer_in_backward`.

    Mix it in before another Trainer. `max_grad_norm` is of each layer then; `grad_norm` in the log
    is that of all gradients, as ever. `on_pre_optimizer_step` comes after the step.
    """

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.in_backward: OptimizerInBackward | None = None
        asked = getattr(self.args, _NAME, False)
        check_processes(asked, self.accelerator)
        if asked and self.args.n_gpu > 1:
            raise ValueError(
                f"optimizer_in_backward=True with {self.args.n_gpu} GPUs in one process "
                "(DataParallel): set CUDA_VISIBLE_DEVICES to one, or leave it out"
            )

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        """Forward, backward, and with `optimizer_in_backward` the optimizer's step."""
        if getattr(self.args, _NAME, False):
            self._prepare_optimizer()
        loss = super().training_step(*args, **kwargs)
        if self.in_backward is not None:
            self.in_backward.finish()
        return loss

    def _prepare_optimizer(self) -> None:
        """Hook in when accelerate has shared out the parameters; once for each optimizer."""
        optimizer: Any = getattr(self.optimizer, "optimizer", self.optimizer)
        hooked = getattr(optimizer, "_in_backward", None)
        if hooked is None:
            if self.in_backward is not None:
                self.in_backward.remove()
            model: Any = self.accelerator.unwrap_model(self.model_wrapped)
            hooked = OptimizerInBackward(model, optimizer, self.args.max_grad_norm)
        self.in_backward = hooked

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Log, with the norm of the gradients that are gone."""
        if "grad_norm" in logs and self.in_backward is not None:
            logs["grad_norm"] = float(self.in_backward.grad_norm)
        super().log(logs, *args, **kwargs)
