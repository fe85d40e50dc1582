"""Layer normalisation of float32 streams in a model of lower precision."""

import torch
from jaxtyping import Float
from torch import Tensor, nn


def cast_for_products(normalised: Float[Tensor, "*lead dim"]) -> Float[Tensor, "*lead dim"]:
    """Cast what several linear layers read to autocast's dtype, once for all of them.

    Args:
        normalised: a normalised stream.

    Returns:
        The same; in autocast's dtype where autocast is on and would cast it.
    """
    device = normalised.device.type
    if not torch.amp.is_autocast_available(device) or not torch.is_autocast_enabled(device):
        return normalised
    narrow = torch.get_autocast_dtype(device)
    return normalised.to(narrow) if normalised.dtype == torch.float32 else normalised


class StreamLayerNorm(nn.LayerNorm):
    """``nn.LayerNorm`` computed in its input's precision, with its output in the weights' dtype.

    The reversible streams stay float32 when the parameters are bfloat16 or float16; their
    normalised copies enter sub-layers, which compute in the parameters' dtype.
    """

    def forward(self, input: Float[Tensor, "*lead dim"]) -> Float[Tensor, "*lead dim"]:
        """Normalise the last axis.

        Args:
            input: a stream, at least as wide as the weights.

        Returns:
            The normalised stream in the dtype of the weights.
        """
        if input.dtype == self.weight.dtype:
            return super().forward(input)
        wide = torch.promote_types(input.dtype, self.weight.dtype)
        bias = None if self.bias is None else self.bias.to(wide)
        normalised = nn.functional.layer_norm(
            input.to(wide), self.normalized_shape, self.weight.to(wide), bias, self.eps
        )
        return normalised.to(self.weight.dtype)
