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
        return normalise(input, self.weight, self.bias, self.eps)


def normalise(
    stream: Float[Tensor, "*lead dim"],
    weight: Float[Tensor, " dim"],
    bias: Float[Tensor, " dim"] | None,
    eps: float,
) -> Float[Tensor, "*lead dim"]:
    """What :class:`StreamLayerNorm` computes.

    Args:
        stream: at least as wide as the weights.
        weight: factors.
        bias: addends.
        eps: added to the variance.

    Returns:
        The normalised stream in the dtype of the weights.
    """
    wide = torch.promote_types(stream.dtype, weight.dtype)
    normalised = nn.functional.layer_norm(
        stream.to(wide), weight.shape, weight.to(wide), None if bias is None else bias.to(wide), eps
    )
    return normalised.to(weight.dtype)
