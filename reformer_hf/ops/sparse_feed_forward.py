"""A feed-forward layer of which each token uses one unit of every block.

The units stand in blocks of equal size. A controller gives each unit a logit, and the unit of the
largest logit in its block is used. `masked_feed_forward` computes all units and multiplies by a
mask; `chosen_feed_forward` reads the weights of the chosen units only. The result is the same.

Source: Jaszczur et al. 2021, "Sparse is Enough in Scaling Transformers" (arXiv 2111.12763),
section 3.1.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float, Integer
from torch import Tensor

from reformer_hf.ops.dropout import seeded_generator

NOISE_EDGE = 1e-6
"""Uniform numbers keep so far from 0 and 1, where their Gumbel noise is infinite."""


class Units(NamedTuple):
    """Weights of the units; one row of `up` and `down` belongs to one unit, so it is contiguous.

    Attributes:
        up: from the width to a unit.
        up_bias: added to it.
        down: from a unit to the width.
        down_bias: added to the sum over units.
    """

    up: Float[Tensor, "units dim"]
    up_bias: Float[Tensor, " units"]
    down: Float[Tensor, "units dim"]
    down_bias: Float[Tensor, " dim"]


def gumbel_noise(
    like: Float[Tensor, "*lead size"], seed: int | None
) -> Float[Tensor, "*lead size"]:
    """Draw noise with which an argmax is a draw from the softmax.

    Args:
        like: shape, dtype and device.
        seed: from :func:`reformer_hf.ops.dropout.draw_seed`; None for the default generator.

    Returns:
        Gumbel noise, float32 or wider.

    >>> torch.equal(gumbel_noise(torch.zeros(3), 1), gumbel_noise(torch.zeros(3), 1))
    True
    """
    uniform = torch.empty_like(like, dtype=torch.promote_types(like.dtype, torch.float32))
    uniform.uniform_(NOISE_EDGE, 1 - NOISE_EDGE, generator=seeded_generator(seed, like.device))
    return -(-uniform.log()).log()


def choose(logits: Float[Tensor, "*lead blocks size"]) -> Integer[Tensor, "*lead blocks"]:
    """Choose the unit of the largest logit in each block.

    Args:
        logits: of the units; noise included.

    Returns:
        Numbers within the blocks, of a dtype that takes little memory.

    >>> choose(torch.tensor([[0.0, 1.0], [3.0, 2.0]])).tolist()
    [1, 0]
    """
    return logits.argmax(dim=-1).to(torch.uint8 if logits.shape[-1] <= 256 else torch.int32)


def one_hot_mask(
    choices: Integer[Tensor, "*lead blocks"], size: int, dtype: torch.dtype
) -> Float[Tensor, "*lead blocks size"]:
    """The mask of a choice.

    Args:
        choices: from :func:`choose`.
        size: units of a block.
        dtype: of the mask.

    Returns:
        1 at the chosen unit of each block, 0 elsewhere.

    >>> one_hot_mask(torch.tensor([2]), 3, torch.float32).tolist()
    [[0.0, 0.0, 1.0]]
    """
    numbers = torch.arange(size, dtype=choices.dtype, device=choices.device)
    return (choices.unsqueeze(-1) == numbers).to(dtype)


def straight_through(
    choices: Integer[Tensor, "*lead blocks"], soft: Float[Tensor, "*lead blocks size"]
) -> Float[Tensor, "*lead blocks size"]:
    """The mask of a choice, with the gradient of the softmax.

    Args:
        choices: from :func:`choose`.
        soft: softmax of the logits.

    Returns:
        1 at the chosen unit of each block, 0 elsewhere, exactly.

    >>> straight_through(torch.tensor([1]), torch.tensor([[0.3, 0.7]])).tolist()
    [[0.0, 1.0]]
    """
    return one_hot_mask(choices, soft.shape[-1], soft.dtype) + (soft - soft.detach())


def masked_feed_forward(
    vectors: Float[Tensor, "*lead dim"],
    mask: Float[Tensor, "*lead blocks size"],
    units: Units,
    activation: Callable[[Tensor], Tensor],
) -> Float[Tensor, "*lead dim"]:
    """Compute all units, multiplied by a mask in front of the activation.

    Args:
        vectors: of the tokens.
        mask: what each unit is multiplied by.
        units: weights.
        activation: elementwise; it must give 0 for 0.

    Returns:
        The layer's output.

    >>> units = Units(torch.tensor([[1.0], [5.0]]), torch.zeros(2), torch.ones(2, 1), torch.ones(1))
    >>> masked_feed_forward(torch.ones(1), torch.tensor([[1.0, 0.0]]), units, torch.relu).tolist()
    [2.0]
    """
    inner = torch.nn.functional.linear(vectors, units.up, units.up_bias)
    inner = activation(inner * mask.flatten(-2).to(inner.dtype))
    return torch.nn.functional.linear(inner, units.down.t(), units.down_bias)


def chosen_feed_forward(
    vectors: Float[Tensor, "*lead dim"],
    choices: Integer[Tensor, "*lead blocks"],
    units: Units,
    activation: Callable[[Tensor], Tensor],
) -> Float[Tensor, "*lead dim"]:
    """Compute the chosen units, reading no other weights.

    It costs as many rows of weights as there are tokens times blocks: fast for few tokens.

    Args:
        vectors: of the tokens.
        choices: from :func:`choose`.
        units: weights.
        activation: elementwise; it must give 0 for 0.

    Returns:
        What :func:`masked_feed_forward` gives with the choice's mask.

    >>> units = Units(torch.tensor([[1.0], [5.0]]), torch.zeros(2), torch.ones(2, 1), torch.ones(1))
    >>> chosen_feed_forward(torch.ones(1), torch.tensor([0]), units, torch.relu).tolist()
    [2.0]
    """
    blocks, dim = choices.shape[-1], vectors.shape[-1]
    starts = torch.arange(0, units.up.shape[0], units.up.shape[0] // blocks, device=choices.device)
    chosen = (choices + starts).view(-1)
    rows = units.up.index_select(0, chosen).view(-1, blocks, dim)
    inner = torch.bmm(rows, vectors.reshape(-1, dim, 1)).flatten()
    inner = activation(inner + units.up_bias.index_select(0, chosen)).to(units.down.dtype)
    output = torch.nn.functional.embedding_bag(
        chosen.view(-1, blocks),
        units.down,
        per_sample_weights=inner.view(-1, blocks),
        mode="sum",
    )
    return (output + units.down_bias).view(vectors.shape)
