"""A sparse model that starts from a dense one's weights."""

import torch
from torch import Tensor, nn

from reformer_hf.nn.sparse_feed_forward import SparseFeedForward

SPARSE_NAMES = {
    "up_weight": "dense.dense.weight",
    "up_bias": "dense.dense.bias",
    "down_weight": "output.dense.weight",
    "down_bias": "output.dense.bias",
}
"""Parameters of a sparse feed-forward sub-layer, to those of a dense one."""


def start_from_dense(sparse: nn.Module, dense: nn.Module) -> list[str]:
    """Copy a dense model's weights into a model that differs in `ff_sparsity` only.

    The controllers keep what they have, so train the result: it is a start, not the same function.

        model = ReformerHFForCausalLM.from_pretrained(folder)
        config = ReformerHFConfig.from_pretrained(folder, ff_sparsity=16)
        sparse = ReformerHFForCausalLM(config)
        start_from_dense(sparse, model)

    Args:
        sparse: model with sparse feed-forward sub-layers; its weights are changed.
        dense: model of the same class and sizes without.

    Returns:
        Names of the parameters that were not copied: those of the controllers.

    Raises:
        ValueError: if the models differ in more, or not in this.
    """
    for name, model, wanted in (("sparse", sparse, True), ("dense", dense, False)):
        if any(isinstance(m, SparseFeedForward) for m in model.modules()) is not wanted:
            raise ValueError(
                f"the model {name!r} has {'dense' if wanted else 'sparse'} feed-forward "
                f"sub-layers: give one with ff_sparsity {'above 0' if wanted else '0'}"
            )
    weights: dict[str, Tensor] = dict(dense.state_dict())
    copied, controllers = {}, []
    for name, module in sparse.named_modules():
        if isinstance(module, SparseFeedForward):
            controllers += [f"{name}.controller.{key}" for key in module.controller.state_dict()]
            for own, other in SPARSE_NAMES.items():
                weight = weights.pop(f"{name}.{other}", None)
                if weight is not None:
                    copied[f"{name}.{own}"] = weight.t() if own == "down_weight" else weight
    copied |= weights
    found = {name: weight.shape for name, weight in sparse.state_dict().items()}
    wrong = {name for name, weight in copied.items() if found.get(name) != weight.shape}
    wrong |= found.keys() - copied.keys() - {*controllers}
    if wrong:
        raise ValueError(
            f"sparse and dense differ in more than ff_sparsity, such as {sorted(wrong)[:3]}: make "
            "the sparse model's configuration from the dense one's"
        )
    with torch.no_grad():
        sparse.load_state_dict(copied, strict=False)
    return controllers
