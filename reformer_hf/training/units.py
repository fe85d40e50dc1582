"""Which units of sparse feed-forward sub-layers are used, and how often."""

from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from reformer_hf.nn.sparse_feed_forward import SparseFeedForward
from reformer_hf.ops.sparse_feed_forward import choose, one_hot_mask


class UnitUse(NamedTuple):
    """The use of one sub-layer's units.

    Attributes:
        layer: name of the sub-layer within the model.
        used: share of the units that a token used; the others are dead for these tokens.
        load: how often each unit was used, 1 if all units of its block were used equally,
            (units,).
    """

    layer: str
    used: float
    load: Tensor


def unit_use(model: nn.Module, batches: Iterable[Mapping[str, Any]]) -> list[UnitUse]:
    """Run a model in evaluation on batches and count the units that its tokens choose.

    Padding counts as tokens do: give rows without it where that matters.

    Args:
        model: with sparse feed-forward sub-layers.
        batches: keyword arguments of the model's passes, on its device.

    Returns:
        The use of each sub-layer, in the model's order.

    Raises:
        ValueError: if the model has no sparse feed-forward sub-layer, or there is no batch.
    """
    counts: dict[str, Tensor | int] = {
        name: 0 for name, module in model.named_modules() if isinstance(module, SparseFeedForward)
    }
    if not counts:
        raise ValueError("the model has no sparse feed-forward sub-layer: set ff_sparsity")

    def count(layer: str, controller: nn.Module, inputs: Any, logits: Tensor) -> None:
        mask = one_hot_mask(choose(logits), logits.shape[-1], torch.float64)
        counts[layer] = counts[layer] + mask.flatten(0, -3).sum(dim=0)

    hooks = [
        model.get_submodule(f"{layer}.controller").register_forward_hook(partial(count, layer))
        for layer in counts
    ]
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            for batch in batches:
                model(**batch)
    finally:
        model.train(was_training)
        for hook in hooks:
            hook.remove()
    return [_summary(layer, times) for layer, times in counts.items()]


def _summary(layer: str, times: Tensor | int) -> UnitUse:
    if isinstance(times, int):
        raise ValueError(f"{layer} saw no token: give at least one batch")
    load = times / times.mean(dim=-1, keepdim=True)
    return UnitUse(layer, float((load > 0).double().mean()), load.flatten().float())
