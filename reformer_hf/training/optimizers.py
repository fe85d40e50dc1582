"""Optimizers: AdamW, or Muon for the matrices of the layers and AdamW for the rest, as one."""

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import nn
from torch.optim import AdamW, Optimizer
from transformers import PreTrainedModel, Trainer

from reformer_hf.nn.sparse_dense import MultiplicativeDense
from reformer_hf.nn.sparse_feed_forward import SparseFeedForward

_KIND = "algorithm"


class MuonAdamW(Optimizer):
    """`torch.optim.AdamW` and `torch.optim.Muon` as one optimizer.

    It has the param groups of both, those of AdamW first, and the state of both. So a schedule
    scales each group's own learning rate, and a checkpoint holds all.

    Args:
        adamw: for the parameters that are no matrices of layers.
        muon: for those.
    """

    def __init__(self, adamw: Optimizer, muon: Optimizer):
        self._parts = {"adamw": adamw, "muon": muon}
        groups = []
        for kind, part in self._parts.items():
            for group in part.param_groups:
                group[_KIND] = kind
                groups.append(group)
        # Some schedules of transformers read the rate of the defaults.
        super().__init__(groups, {"lr": adamw.defaults["lr"]})

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"_parts": self._parts}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        for kind, part in self._parts.items():
            part.__setstate__(self._share(kind))  # fills in what an older torch did not write

    def _share(self, kind: str) -> dict[str, Any]:
        groups = [group for group in self.param_groups if group[_KIND] == kind]
        return {"param_groups": groups, "state": self.state}

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step of both."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for kind, part in self._parts.items():
            vars(part).update(self._share(kind))  # a load or FSDP may have put others in place
            part.step()
        return loss


def make_optimizer(
    model: nn.Module,
    learning_rate: float,
    muon_learning_rate: float | None = None,
    *,
    muon_momentum: float = 0.95,
    weight_decay: float = 0.0,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    fused: bool | None = None,
) -> Optimizer:
    """Make AdamW, or Muon for the matrices of the layers and AdamW for the rest.

    Only parameters that require a gradient are in it. Of AdamW's, biases and layer norms, which
    have one axis, do not decay. A step of Muon has a spectral norm of about `muon_learning_rate`
    (times the root of rows by columns where a matrix has more rows; torch's `adjust_lr_fn`
    "original"), whatever the size of the gradient.

    Args:
        model: not yet in the hands of accelerate.
        learning_rate: of AdamW.
        muon_learning_rate: of Muon, for :func:`hidden_matrices`; None or 0 for AdamW alone.
        muon_momentum: of Muon, with Nesterov's.
        weight_decay: of both, each time its own learning rate.
        betas: of AdamW.
        eps: of AdamW.
        fused: of AdamW.

    Raises:
        ValueError: if there is no matrix for Muon, or torch has no Muon.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    adam: dict[str, Any] = {"lr": learning_rate, "betas": betas, "eps": eps, "fused": fused}
    if not muon_learning_rate:
        return AdamW(decay_groups(trained, weight_decay), **adam)
    matrices = hidden_matrices(model)
    _check_muon(model, matrices, muon_learning_rate)
    rest = set(trained) - set(matrices)
    groups = decay_groups((each for each in trained if each in rest), weight_decay)
    from reformer_hf.training.wide_muon import WideMuon  # which an older torch cannot make

    muon = WideMuon(
        _muon_groups(model, matrices, muon_learning_rate, weight_decay),
        lr=muon_learning_rate,
        momentum=muon_momentum,
        weight_decay=weight_decay,
        adjust_lr_fn="original",
    )
    return MuonAdamW(AdamW(groups or [{"params": []}], **adam), muon)


def decay_groups(parameters: Iterable[nn.Parameter], weight_decay: float) -> list[dict[str, Any]]:
    """Param groups of what decays and of what does not, because it has one axis."""
    parameters = list(parameters)
    groups = [
        {
            "params": [each for each in parameters if (each.ndim > 1) == decays],
            "weight_decay": weight_decay if decays else 0.0,
        }
        for decays in (True, False)
    ]
    return [group for group in groups if group["params"]]


def _muon_groups(
    model: nn.Module, matrices: list[nn.Parameter], rate: float, weight_decay: float
) -> list[dict[str, Any]]:
    """Param groups of Muon, those of matrices that are stored transposed with rates of their own.

    Muon multiplies a rate by what follows from rows and columns. There it must follow from columns
    and rows, and the decay must not change with it.
    """
    stored = {m.down_weight for m in model.modules() if isinstance(m, SparseFeedForward)}
    groups = {1.0: {"params": [], "lr": rate, "weight_decay": weight_decay}}
    for matrix in matrices:
        rows, columns = matrix.shape if matrix in stored else (1, 1)
        factor = math.sqrt(max(1, columns / rows) / max(1, rows / columns))
        group = {"params": [], "lr": rate * factor, "weight_decay": weight_decay / factor}
        groups.setdefault(factor, group)["params"].append(matrix)
    return list(groups.values())


def hidden_matrices(model: nn.Module) -> list[nn.Parameter]:
    """The trained parameters of exactly two axes that are in the layers: those for Muon.

    Not among them are embeddings, position tables (what has "embed" in its name) and heads (all
    that is outside `base_model`, and the output embeddings). Nor are adapters of PEFT: Muon makes
    the singular values of a step equal, which says little of a product of two thin matrices. For
    the same reason the controllers of sparse feed-forward sub-layers are not, nor are the gates of
    a `MultiplicativeDense`, which multiply number by number.
    """
    if hasattr(model, "peft_config"):
        return []
    left_out: set[nn.Parameter] = set()
    for module in model.modules():
        if isinstance(module, nn.Embedding | nn.EmbeddingBag):
            left_out.update(module.parameters())
        if isinstance(module, SparseFeedForward):
            left_out.update(module.controller.parameters())
        if isinstance(module, MultiplicativeDense):
            left_out.add(module.gates)
        if isinstance(module, PreTrainedModel):
            left_out.update(set(module.parameters()) - set(module.base_model.parameters()))
            if isinstance(head := module.get_output_embeddings(), nn.Module):
                left_out.update(head.parameters())
    return [
        parameter
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
        and parameter.ndim == 2
        and parameter not in left_out
        and "embed" not in name
    ]


def _check_muon(model: nn.Module, matrices: list[nn.Parameter], rate: float) -> None:
    if not hasattr(torch.optim, "Muon"):
        raise ValueError(
            f"muon_learning_rate={rate}: torch {torch.__version__} has no torch.optim.Muon. "
            "Install torch 2.9 or newer, or leave it out"
        )
    if not matrices:
        why = "adapters are AdamW's" if hasattr(model, "peft_config") else "none is trained"
        raise ValueError(
            f"muon_learning_rate={rate}: there are no matrices of layers for Muon ({why}). "
            "Leave it out"
        )


def check_machine(muon_learning_rate: float | None, accelerator: Accelerator) -> None:
    """Check that Muon sees whole matrices.

    Raises:
        ValueError: under DeepSpeed, Megatron-LM and FSDP 1, whose shards are no matrices.
    """
    if not muon_learning_rate:
        return
    kind, given = accelerator.distributed_type, f"muon_learning_rate={muon_learning_rate}"
    flat = [DistributedType.DEEPSPEED, DistributedType.MEGATRON_LM]
    plugin = accelerator.state.fsdp_plugin if kind == DistributedType.FSDP else None
    if kind in flat or (plugin is not None and plugin.fsdp_version == 1):
        raise ValueError(
            f"{given} with {kind.value}: its shards are no matrices. Use DDP or FSDP2 "
            "(fsdp_version: 2), or leave it out"
        )


def muon_settings(arguments: Any) -> dict[str, float]:
    """What a record says of Muon beside the other hyperparameters; nothing without Muon."""
    names = ("muon_learning_rate", "muon_momentum")
    used = getattr(arguments, names[0], None)
    return {name: getattr(arguments, name) for name in names} if used else {}


def muon_rate(optimizer: Optimizer) -> dict[str, float]:
    """What a log says of Muon's learning rate beside AdamW's; nothing without Muon."""
    rates = [group["lr"] for group in optimizer.param_groups if group.get(_KIND) == "muon"]
    return {"muon_learning_rate": float(rates[0])} if rates else {}


class MuonTrainer(Trainer):
    """A `Trainer` whose arguments may have `muon_learning_rate`, as `ReformerTrainingArguments` do.

    Mix it in before another Trainer.
    """

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        check_machine(getattr(self.args, "muon_learning_rate", None), self.accelerator)

    def create_optimizer(self, model: Any = None) -> Optimizer:
        """Make the optimizer that the arguments ask for."""
        settings: Any = muon_settings(self.args)
        if self.optimizer is None and settings:
            trained: Any = self.model if model is None else model
            _, adam = self.get_optimizer_cls_and_kwargs(self.args, trained)
            settings |= {"weight_decay": self.args.weight_decay}
            self.optimizer = make_optimizer(trained, adam.pop("lr"), **settings, **adam)
        return super().create_optimizer(model)

    def _get_learning_rate(self) -> float:
        self._muon_rate = muon_rate(self.optimizer)  # type: ignore[arg-type]
        return super()._get_learning_rate()

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Log, with Muon's learning rate beside AdamW's."""
        if "learning_rate" in logs:
            logs |= self._muon_rate  # of the same moment
        super().log(logs, *args, **kwargs)
