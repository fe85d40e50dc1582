"""Rotary positions: the score of a query and a key depends on how far apart they stand."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor


class Rotary(NamedTuple):
    """By how much the vectors of each token are turned.

    Attributes:
        cos: cosine of each pair's angle, float32.
        sin: sine of the same.
    """

    cos: Float[Tensor, "#batch 1 seq pairs"]
    sin: Float[Tensor, "#batch 1 seq pairs"]


def rotary_angles(
    position_ids: Int[Tensor, "batch seq"],
    frequencies: Float[Tensor, " pairs"],
    scale: float = 1.0,
) -> Rotary:
    """Angles of tokens: position times frequency.

    They are multiplied in float64, where a device has it: in float32 the angle of token 1,000,000
    would be off by up to 0.03.

    Args:
        position_ids: place of each token in its document.
        frequencies: radians per token.
        scale: factor of cosine and sine, as some scalings of rotary positions have one.

    Returns:
        The angles; of one row where all have the same positions.

    >>> angles = rotary_angles(torch.tensor([[0, 2]]), torch.tensor([torch.pi / 2]))
    >>> angles.cos.flatten().tolist()
    [1.0, -1.0]
    """
    if position_ids.stride(0) == 0:
        position_ids = position_ids[:1]
    wide = torch.float32 if position_ids.device.type == "mps" else torch.float64
    angles = position_ids[:, None, :, None].to(wide) * frequencies.to(wide)
    return Rotary((angles.cos() * scale).float(), (angles.sin() * scale).float())


def rotate(
    vectors: Float[Tensor, "batch heads seq dim"], rotary: Rotary
) -> Float[Tensor, "batch heads seq dim"]:
    """Turn each pair of numbers of a vector by the angle of its token.

    Number ``i`` of the first half makes a pair with number ``i`` of the second half. Lengths do not
    change, and products of two vectors only by their distance.

    Args:
        vectors: queries or keys, of an even dimension.
        rotary: angles; half as many as the vectors have numbers.

    Returns:
        The turned vectors, in the same dtype.

    Source: Su et al. 2021, "RoFormer" (arXiv 2104.09864), equation 34; pairs as in transformers.

    >>> turned = rotary_angles(torch.tensor([[1]]), torch.tensor([torch.pi / 2]))
    >>> rotate(torch.tensor([[[[1.0, 0.0]]]]), turned).round().flatten().tolist()
    [-0.0, 1.0]
    """
    cos, sin = (part.to(vectors.dtype) for part in rotary)
    first, second = vectors.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)
