"""Decoding with weights that torchao has quantised to int8.

A token alone reads each weight once, so its time is that of the bytes. torchao's own product first
writes the whole weight out in the dtype of the input, which is right for many tokens.
"""

from typing import Any

import torch
from torch import Tensor, nn

MOST_TOKENS = 8
"""Tokens up to which reading int8 is faster, measured on an AMD EPYC in bfloat16."""

ALIGNMENT = 16
"""Bytes. The kernel loads so many at once: at other places it crashes or reads beyond the row."""


class Int8Linear(nn.Linear):
    """A linear layer whose int8 weight is read as it is, for a few tokens in bfloat16 on a CPU.

    All else is left to torchao: more tokens, other dtypes and devices, gradients, compiled passes.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Project the last axis, (..., in_features) to (..., out_features)."""
        if not self._reads_int8(input):
            return super().forward(input)
        weight: Any = self.weight
        rows = input.reshape(-1, self.in_features).contiguous()
        scale = weight.scale.flatten().to(input.dtype)
        output = torch.ops.aten._weight_int8pack_mm(rows, weight.qdata, scale)
        if self.bias is not None:
            output += self.bias
        return output.view(*input.shape[:-1], self.out_features)

    def _reads_int8(self, input: Tensor) -> bool:
        few = 0 < input.numel() <= MOST_TOKENS * self.in_features
        plain = input.dtype == torch.bfloat16 and input.device.type == "cpu"
        differentiated = torch.is_grad_enabled() and input.requires_grad
        if not few or not plain or differentiated or torch.compiler.is_compiling():
            return False
        return _has_int8_rows(self.weight) and _is_aligned(self.weight)


def read_int8_directly(model: nn.Module) -> None:
    """Give the linear layers that torchao's `Int8WeightOnlyConfig` has quantised a fast decoding.

    `from_pretrained` calls it. Call it yourself behind torchao's `quantize_`. Parameters, their
    names and what is saved stay as they are.

    Args:
        model: changed in place; layers of other kinds or with other weights are left alone.
    """
    for module in model.modules():
        if type(module) is not nn.Linear or not _has_int8_rows(module.weight):
            continue
        weight: Any = module.weight
        if not _is_aligned(weight):
            weight.qdata = weight.qdata.clone()  # in a file, tensors begin anywhere
        module.__class__ = Int8Linear


def _has_int8_rows(weight: Any) -> bool:
    """Whether a weight is an int8 of torchao with one scale a row, and inputs stay as they are."""
    # By name: torchao is not needed here, and remote code must not import it.
    if type(weight).__name__ != "Int8Tensor":
        return False
    as_they_are = weight.act_quant_kwargs is None and weight.act_pre_scale is None
    return as_they_are and weight.scale.numel() == weight.shape[0]


def _is_aligned(weight: Any) -> bool:
    """Whether each row of an int8 weight begins where the kernel can load it."""
    data = weight.qdata
    first, width = data.data_ptr() % ALIGNMENT, data.shape[1] % ALIGNMENT
    return data.is_contiguous() and data.device.type == "cpu" and not first and not width
