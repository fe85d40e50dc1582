"""A short convolution along a row, which stops at the borders of documents."""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import pad


def nearby_places(
    documents: Int[Tensor, "batch seq"], before: int, after: int
) -> Int[Tensor, "batch seq taps"]:
    """Find for each token the places of its neighbours in the same document.

    Args:
        documents: document of each place; a document's tokens need not stand together.
        before: neighbours before the token.
        after: neighbours behind it.

    Returns:
        Places in the row of the neighbours, from the earliest to the last, the token itself
        included; -1 where the document has ended.

    >>> nearby_places(torch.tensor([[0, 1, 0]]), 1, 0).tolist()
    [[[-1, 0], [-1, 1], [0, 2]]]
    """
    ordered, order = torch.sort(documents, dim=-1, stable=True)
    seq = documents.shape[1]
    ranks = torch.arange(seq, device=documents.device)
    found = []
    for offset in range(-before, after + 1):
        rank = (ranks + offset).clamp(0, seq - 1)
        same = (rank == ranks + offset) & (ordered[:, rank] == ordered)
        places = order[:, rank].masked_fill(~same, -1)
        found.append(torch.empty_like(order).scatter_(-1, order, places))
    return torch.stack(found, dim=-1)


def short_convolution(
    inputs: Float[Tensor, "batch seq dim"],
    weight: Float[Tensor, "dim 1 taps"],
    before: int,
    documents: Int[Tensor, "batch seq"] | None = None,
) -> Float[Tensor, "batch seq dim"]:
    """Mix each number of a token with the same number of its neighbours.

    Args:
        inputs: vectors of the tokens.
        weight: of each number: of its earliest neighbour first, as `torch.nn.Conv1d` has them.
        before: taps on earlier tokens; one is the token itself, the rest are later ones.
        documents: document of each place; None for a single document. Neighbours are those of the
            own document; beyond its ends there are zeros.

    Returns:
        Vectors of the same shape.

    Source: So et al. 2021, "Primer" (arXiv 2109.08668), depthwise convolution over length.

    >>> x = torch.tensor([[[1.0], [2.0], [4.0]]])
    >>> short_convolution(x, torch.tensor([[[0.5, 1.0]]]), 1).flatten().tolist()
    [1.0, 2.5, 5.0]
    >>> short_convolution(x, torch.tensor([[[0.5, 1.0]]]), 1, torch.tensor([[0, 1, 0]])).tolist()
    [[[1.0], [2.0], [4.5]]]
    """
    seq, taps = inputs.shape[1], weight.shape[-1]
    factors = weight[:, 0].to(inputs.dtype).unbind(dim=-1)
    mixed = inputs * factors[before]
    if documents is None:
        padded = pad(inputs, (0, 0, before, taps - 1 - before))
        moved = (padded[:, tap : tap + seq] for tap in range(taps))
    else:
        padded = pad(inputs, (0, 0, 1, 0))  # what is taken where there is no neighbour
        places = nearby_places(documents, before, taps - 1 - before) + 1
        rows = torch.arange(inputs.shape[0], device=inputs.device).unsqueeze(1)
        moved = (padded[rows, places[..., tap]] for tap in range(taps))
    for tap, neighbours in enumerate(moved):
        if tap != before:
            mixed = torch.addcmul(mixed, neighbours, factors[tap])
    return mixed
