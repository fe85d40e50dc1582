"""Convolutions along a row, which stop at the borders of documents."""

from collections.abc import Iterator

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
    taps = weight.shape[-1]
    factors = weight[:, 0].to(inputs.dtype).unbind(dim=-1)
    mixed = inputs * factors[before]
    for tap, neighbours in enumerate(_moved(inputs, before, taps - 1 - before, documents)):
        if tap != before:
            mixed = torch.addcmul(mixed, neighbours, factors[tap])
    return mixed


def neighbourhoods(
    inputs: Float[Tensor, "batch seq dim"],
    before: int,
    after: int,
    documents: Int[Tensor, "batch seq"] | None = None,
) -> Float[Tensor, "images height dim"]:
    """Lay out tokens with their neighbours around them, for a convolution without padding.

    Args:
        inputs: vectors of the tokens.
        before: neighbours before a token.
        after: neighbours behind it.
        documents: document of each place; None for a single document. Neighbours are those of the
            own document; beyond its ends there are zeros.

    Returns:
        Each row with zeros around it, or, where there are documents, each token with its
        neighbours: either way a convolution gives one vector for each token, in order.

    >>> x = torch.tensor([[[1.0], [2.0], [4.0]]])
    >>> neighbourhoods(x, 1, 0).flatten().tolist()
    [0.0, 1.0, 2.0, 4.0]
    >>> neighbourhoods(x, 1, 0, torch.tensor([[0, 1, 0]])).squeeze(-1).tolist()
    [[0.0, 1.0], [0.0, 2.0], [1.0, 4.0]]
    """
    if documents is None or before == after == 0:
        return pad(inputs, (0, 0, before, after))
    return torch.stack([*_moved(inputs, before, after, documents)], dim=2).flatten(0, 1)


def following(
    vectors: Float[Tensor, "batch heads seq dim"], documents: Int[Tensor, "batch seq"] | None = None
) -> Float[Tensor, "batch heads seq dim"]:
    """Give each token the vector of the next token of its document.

    Args:
        vectors: of the tokens.
        documents: document of each place; None for a single document. A document's tokens need not
            stand together.

    Returns:
        Vectors of the same shape; zeros for the last token of a document.

    >>> x = torch.tensor([[[[1.0], [2.0], [4.0]]]])
    >>> following(x).flatten().tolist()
    [2.0, 4.0, 0.0]
    >>> following(x, torch.tensor([[0, 1, 0]])).flatten().tolist()
    [4.0, 0.0, 0.0]
    """
    if documents is None:
        return pad(vectors[:, :, 1:], (0, 0, 0, 1))
    places = nearby_places(documents, 0, 1)[:, None, :, 1:] + 1
    padded = pad(vectors, (0, 0, 1, 0))  # what is taken where there is no next one
    return padded.gather(2, places.expand(vectors.shape))


def _moved(
    inputs: Tensor, before: int, after: int, documents: Tensor | None
) -> Iterator[Float[Tensor, "batch seq dim"]]:
    """For each tap, the earliest first, that neighbour of every token, or zeros."""
    seq = inputs.shape[1]
    if documents is None:
        padded = pad(inputs, (0, 0, before, after))
        for tap in range(before + 1 + after):
            yield padded[:, tap : tap + seq]
        return
    padded = pad(inputs, (0, 0, 1, 0))  # what is taken where there is no neighbour
    places = nearby_places(documents, before, after) + 1
    rows = torch.arange(inputs.shape[0], device=inputs.device).unsqueeze(1)
    for tap in range(before + 1 + after):
        yield padded[rows, places[..., tap]]
