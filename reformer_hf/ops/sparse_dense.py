"""Linear layers of few weights: multiplicative, and convolutional over the modules of a vector.

A vector is seen as modules of equal width, side by side.
"""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import linear


def multiplicative_dense(
    inputs: Float[Tensor, "*batch dim"],
    gates: Float[Tensor, "modules dim"],
    weight: Float[Tensor, "width dim"],
    bias: Float[Tensor, " outputs"] | None = None,
) -> Float[Tensor, "*batch outputs"]:
    """Multiply the input by each module's gate, then by one matrix that all modules share.

    Few tokens are gated, and no more is read than gates and weight. For many tokens that would be
    a copy of each for each module: then the gates multiply the matrix, which gives the weight of an
    ordinary linear layer. The number of multiplications is the same.

    Args:
        inputs: vectors.
        gates: of each module, D in the paper.
        weight: shared matrix, E in the paper, transposed as `torch.nn.Linear` has it.
        bias: of the outputs.

    Returns:
        The modules' outputs side by side, `modules * width` numbers.

    Source: Jaszczur et al. 2021, "Sparse is Enough in Scaling Transformers" (arXiv 2111.12763),
    section 3.2, "Multiplicative layer".

    >>> x, weight = torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0, 1.0]])
    >>> multiplicative_dense(x, torch.tensor([[1.0, 0.0], [0.0, 3.0]]), weight).tolist()
    [[1.0, 6.0]]
    """
    if inputs.numel() > weight.numel():
        return linear(inputs, (gates.unsqueeze(1) * weight).flatten(0, 1), bias)
    outputs = linear(inputs.unsqueeze(-2) * gates, weight).flatten(-2)
    return outputs if bias is None else outputs + bias.to(outputs.dtype)


def locally_convolutional_dense(
    neighbourhoods: Float[Tensor, "images height dim"],
    weight: Float[Tensor, "width taps kernel width"],
    bias: Float[Tensor, " width"] | None = None,
) -> Float[Tensor, "images rest dim"]:
    """Make each module of a token of its nearest modules in the token and its neighbours.

    All modules share the weight. Beyond the first and the last module there are zeros.

    Args:
        neighbourhoods: as :func:`reformer_hf.ops.convolution.neighbourhoods` lays them out.
        weight: by output, neighbour, module and input; an odd number of modules.
        bias: of the outputs of every module.

    Returns:
        Vectors of the same width, `taps - 1` fewer in each image.

    Source: Jaszczur et al. 2021 (arXiv 2111.12763), section 3.2, "Convolutional layer".

    >>> x, weight = torch.tensor([[[1.0, 2.0, 4.0]]]), torch.tensor([[[[8.0], [1.0], [0.5]]]])
    >>> locally_convolutional_dense(x, weight).tolist()
    [[[2.0, 12.0, 20.0]]]
    """
    # The channels come last in memory, which is the fast layout on a CPU.
    modules = neighbourhoods.unflatten(-1, (-1, weight.shape[-1])).permute(0, 3, 1, 2)
    padding = (0, weight.shape[2] // 2)
    weight = weight.permute(0, 3, 1, 2)
    outputs = torch.conv2d(modules, weight, bias, padding=padding)
    return outputs.permute(0, 2, 3, 1).flatten(2)
