"""Documents of a row, sorting its tokens by bucket, and moving vectors to that order and back."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor


class SortOrder(NamedTuple):
    """The order of one or more rounds, its inverse, and the segments along it.

    Attributes:
        order: ``order[..., rank]`` is the place in the row of the token with that rank.
        inverse: ``inverse[..., place]`` is the rank of the token at that place.
        segments: ``segments[..., rank]`` numbers the (document, bucket) of that token, from 0.
    """

    order: Int[Tensor, "batch heads rounds seq"]
    inverse: Int[Tensor, "batch heads rounds seq"]
    segments: Int[Tensor, "batch heads rounds seq"]

    def expand_heads(self, heads: int) -> "SortOrder":
        """Repeat the order of a single head for all heads, without a copy.

        Args:
            heads: heads.

        Returns:
            The same order for each head.
        """
        shape = (-1, heads, -1, -1)
        order, inverse, segments = self
        return SortOrder(order.expand(shape), inverse.expand(shape), segments.expand(shape))


def number_documents(
    attention_mask: Bool[Tensor, "batch seq"] | None, seq_idx: Int[Tensor, "batch seq"] | None
) -> Int[Tensor, "batch seq"] | None:
    """Number the documents of each row, with padding as the last one.

    Args:
        attention_mask: true at real tokens; None when all are.
        seq_idx: any int per document of a packed row; None for one document.

    Returns:
        Document numbers from 0, or None when neither argument is given.

    >>> number_documents(torch.tensor([[False, True]]), None).tolist()
    [[1, 0]]
    """
    if attention_mask is None and seq_idx is None:
        return None
    if seq_idx is None:
        assert attention_mask is not None
        return (~attention_mask).long()
    documents = seq_idx.long() - seq_idx.min()
    if attention_mask is not None:
        documents = torch.where(attention_mask, documents, documents.max() + 1)
    return documents


def places_in_document(documents: Int[Tensor, "batch seq"]) -> Int[Tensor, "batch seq"]:
    """Count each token's place within its document, which is its position.

    Args:
        documents: document numbers; a document's tokens need not be neighbours.

    Returns:
        Places from 0, restarting in every document.

    >>> places_in_document(torch.tensor([[0, 0, 1, 0, 1]])).tolist()
    [[0, 1, 0, 2, 1]]
    """
    ordered, order = torch.sort(documents, dim=-1, stable=True)
    ranks = torch.arange(documents.shape[-1], device=documents.device).expand_as(documents)
    begins = torch.ones_like(ordered, dtype=torch.bool)
    begins[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    first_rank = torch.where(begins, ranks, 0).cummax(dim=-1).values
    return torch.empty_like(documents).scatter_(-1, order, ranks - first_rank)


def keep_order(batch: int, heads: int, seq: int, device: torch.device | str = "cpu") -> SortOrder:
    """The order of the row as one round with a single segment.

    Args:
        batch: rows.
        heads: heads.
        seq: tokens.
        device: where the result goes.

    Returns:
        The order, without a copy for each head.

    >>> keep_order(1, 1, 2).order.tolist()
    [[[[0, 1]]]]
    """
    places = torch.arange(seq, device=device).expand(batch, heads, 1, seq)
    return SortOrder(places, places, torch.zeros_like(places))


def sort_by_bucket(
    buckets: Int[Tensor, "batch heads rounds seq"],
    documents: Int[Tensor, "batch seq"] | None,
    num_buckets: int,
) -> SortOrder:
    """Sort each round by (document, bucket, place in the row).

    Args:
        buckets: bucket ids below ``num_buckets``.
        documents: document of each place, from 0, padding last; None for a single document.
        num_buckets: total number of buckets.

    Returns:
        The sort order of every batch row, head and round.

    >>> sort_by_bucket(torch.tensor([[[[1, 0, 1, 0]]]]), None, 2).order.tolist()
    [[[[1, 3, 0, 2]]]]
    """
    keys = buckets
    if documents is not None:
        keys = documents[:, None, None, :] * num_buckets + buckets
    segments, order = torch.sort(keys, dim=-1, stable=True)
    return SortOrder(order, invert_order(order), segments)


def invert_order(order: Int[Tensor, "*lead seq"]) -> Int[Tensor, "*lead seq"]:
    """Invert permutations along the last axis.

    >>> invert_order(torch.tensor([2, 0, 1])).tolist()
    [1, 2, 0]
    """
    ranks = torch.arange(order.shape[-1], device=order.device).expand_as(order)
    return torch.empty_like(order).scatter_(-1, order, ranks)


class _Rearrange(torch.autograd.Function):
    """Take rows in an order; the gradient comes back in the inverse order, never by scattering."""

    generate_vmap_rule = True

    @staticmethod
    def forward(rows: Tensor, order: Tensor, inverse: Tensor) -> Tensor:
        return _take_rows(rows, order)

    @staticmethod
    def setup_context(ctx, inputs: tuple, output: Tensor) -> None:
        ctx.save_for_backward(*inputs[1:])

    @staticmethod
    def backward(ctx, *grads: Tensor) -> tuple[Tensor, None, None]:
        order, inverse = ctx.saved_tensors
        lead, rounds, seq = order.shape
        grad = grads[0].reshape(lead * rounds, seq, -1)
        back = _take_rows(grad, inverse.reshape(lead * rounds, 1, seq))
        return back.view(lead, rounds, seq, -1).sum(dim=1), None, None


class _RearrangeWithTangent(_Rearrange):
    """The same with a forward derivative, which a compiler does not take."""

    @staticmethod
    def setup_context(ctx, inputs: tuple, output: Tensor) -> None:
        ctx.save_for_backward(*inputs[1:])
        ctx.save_for_forward(*inputs[1:])

    @staticmethod
    def jvp(ctx, *tangents: Tensor | None) -> Tensor:
        assert tangents[0] is not None
        return _take_rows(tangents[0], ctx.saved_tensors[0])


def _take_rows(rows: Tensor, index: Tensor) -> Tensor:
    """Gather ``(lead, seq, dim)`` rows by an index ``(lead, rounds, seq)``."""
    lead, rounds, seq = index.shape
    base = torch.arange(lead, device=rows.device).view(-1, 1, 1) * rows.shape[1]
    flat = rows.reshape(lead * rows.shape[1], -1).index_select(0, (index + base).flatten())
    return flat.view(lead, rounds, seq, -1)


def rearrange(
    rows: Shaped[Tensor, "lead seq dim"],
    order: Int[Tensor, "lead rounds seq"],
    inverse: Int[Tensor, "lead rounds seq"],
) -> Shaped[Tensor, "lead rounds seq dim"]:
    """Take rows in one or more orders, differentiably.

    Args:
        rows: vectors.
        order: permutations.
        inverse: their inverses.

    Returns:
        ``rows[lead, order[lead, round, rank]]``.

    >>> rows, order = torch.tensor([[[5.0], [6.0], [7.0]]]), torch.tensor([[[2, 0, 1]]])
    >>> rearrange(rows, order, invert_order(order)).flatten().tolist()
    [7.0, 5.0, 6.0]
    """
    function = _Rearrange if torch.compiler.is_compiling() else _RearrangeWithTangent
    return function.apply(rows, order, inverse)  # type: ignore[return-value]


def permute(
    vectors: Float[Tensor, "batch heads seq dim"], sort: SortOrder
) -> Float[Tensor, "batch heads rounds seq dim"]:
    """Bring vectors from the order of the row into the sort order of every round.

    Args:
        vectors: in the order of the row.
        sort: the sort order.

    Returns:
        Vectors by rank.

    >>> sort = sort_by_bucket(torch.tensor([[[[1, 0]]]]), None, 2)
    >>> permute(torch.tensor([[[[5.0], [6.0]]]]), sort).flatten().tolist()
    [6.0, 5.0]
    """
    order, inverse = (index.flatten(0, 1) for index in (sort.order, sort.inverse))
    return rearrange(vectors.flatten(0, 1), order, inverse).unflatten(0, vectors.shape[:2])


def unpermute(
    vectors: Float[Tensor, "batch heads rounds seq dim"], sort: SortOrder
) -> Float[Tensor, "batch heads rounds seq dim"]:
    """Bring vectors from the sort order of every round back into the order of the row.

    Args:
        vectors: by rank.
        sort: the sort order.

    Returns:
        Vectors by place.

    >>> sort = sort_by_bucket(torch.tensor([[[[1, 0]]]]), None, 2)
    >>> unpermute(torch.tensor([[[[[6.0], [5.0]]]]]), sort).flatten().tolist()
    [5.0, 6.0]
    """
    order, inverse = (index.flatten(0, 2).unsqueeze(1) for index in (sort.order, sort.inverse))
    return rearrange(vectors.flatten(0, 2), inverse, order).view(vectors.shape)
