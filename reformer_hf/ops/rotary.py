"""Rotary positions: the score of a query and a key depends on how far apart they stand."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor


class Rotary(NamedTuple):
    """By how much the vectors of each token are turned.

    Attributes:
        cos: cosine of each pair's angle, float32 or wider.
        sin: sine of the same.
        score_factor: what scores of turned queries and keys are multiplied with; some scalings of
            rotary positions have such a factor.
    """

    cos: Float[Tensor, "#batch 1 seq pairs"]
    sin: Float[Tensor, "#batch 1 seq pairs"]
    score_factor: float = 1.0


def rotary_frequencies(
    dim: int, theta: float, device: torch.device | None = None
) -> Float[Tensor, " pairs"]:
    """Radians per token of each pair: ``theta ** (-2 i / dim)``.

    Args:
        dim: numbers of a vector, an even one.
        theta: base; the slowest pair turns once in somewhat less than ``2 pi theta`` tokens.
        device: where they go; None for torch's default.

    Returns:
        Frequencies, float64 where the device has it.

    >>> rotary_frequencies(4, 100.0).tolist()
    [1.0, 0.1]
    """
    evens = torch.arange(0, dim, 2, dtype=_wide(device), device=device)
    return theta ** (-evens / dim)


def rotary_angles(
    position_ids: Int[Tensor, "batch seq"],
    frequencies: Float[Tensor, " pairs"],
    dtype: torch.dtype = torch.float32,
    score_factor: float = 1.0,
) -> Rotary:
    """Angles of tokens: position times frequency.

    They are multiplied in float64, where a device has it: in float32 the angle of token 1,000,000
    would be off by up to 0.03.

    Args:
        position_ids: place of each token in its document.
        frequencies: radians per token.
        dtype: of the vectors that are turned; cosines and sines have at least float32.
        score_factor: factor of the scores.

    Returns:
        The angles; of one row where all have the same positions.

    >>> angles = rotary_angles(torch.tensor([[0, 2]]), torch.tensor([torch.pi / 2]))
    >>> angles.cos.flatten().tolist()
    [1.0, -1.0]
    """
    if position_ids.stride(0) == 0:
        position_ids = position_ids[:1]
    wide = _wide(position_ids.device)
    angles = position_ids[:, None, :, None].to(wide) * frequencies.to(wide)
    dtype = torch.promote_types(dtype, torch.float32)
    return Rotary(angles.cos().to(dtype), angles.sin().to(dtype), score_factor)


def rotate_queries(
    query: Float[Tensor, "batch heads seq dim"], rotary: Rotary
) -> Float[Tensor, "batch heads seq dim"]:
    """Turn queries, and let them carry the factor of the scores.

    Keys do not: an LSH layer makes them of its queries, at unit length.

    Args:
        query: queries, of an even dimension.
        rotary: angles.

    Returns:
        The turned queries, in the same dtype.

    >>> unturned = Rotary(torch.ones(1, 1, 1, 1), torch.zeros(1, 1, 1, 1), score_factor=2.0)
    >>> rotate_queries(torch.tensor([[[[1.0, 3.0]]]]), unturned).flatten().tolist()
    [2.0, 6.0]
    """
    turned = rotate(query, rotary)
    return turned if rotary.score_factor == 1 else turned * rotary.score_factor


def rotate(
    vectors: Float[Tensor, "batch heads seq dim"], rotary: Rotary
) -> Float[Tensor, "batch heads seq dim"]:
    """Turn each pair of numbers of a vector by the angle of its token, rounded once.

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
    first, second = vectors.chunk(2, dim=-1)
    cos, sin = rotary.cos, rotary.sin  # of at least float32, which products then have, too
    turned = torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)
    return turned.to(vectors.dtype)


def _wide(device: torch.device | None) -> torch.dtype:
    has_none = device is not None and device.type == "mps"
    return torch.float32 if has_none else torch.float64
