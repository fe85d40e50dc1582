"""Embeddings of positions and of n-grams."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import embedding

from reformer_hf.nn.dropout import SeededDropout
from reformer_hf.nn.past.base import NewTokens
from reformer_hf.nn.past.recent_inputs import RecentInputs
from reformer_hf.ops.ngrams import hash_ngrams, last_tokens


class _AxialTables(nn.ParameterList):
    """One table per axis. It is called, so that offloading hooks on it bring the tables in."""

    __call__ = nn.Module.__call__  # which a ParameterList hides

    def forward(
        self, coordinates: list[Int[Tensor, "batch seq"]]
    ) -> Float[Tensor, "batch seq dim"]:
        parts = [
            embedding(coordinate, table.flatten(0, -2))
            for coordinate, table in zip(coordinates, self, strict=True)
        ]
        return torch.cat(parts, dim=-1)


class AxialPositionEmbeddings(nn.Module):
    """A position's embedding is the concatenation of one small embedding per axis.

    Position ``p`` has the coordinates of cell ``p`` of a grid of ``shape``, last axis fastest.
    The tables need the sum of the axes' lengths in rows, where a learned table needs the product.

    Args:
        shape: lengths of two or more axes; their product bounds the position.
        dims: embedding dimensions of the axes; their sum is the hidden size.
        dropout: probability.

    Source: paper section 5 ("axial positional embeddings"); weights as in transformers' Reformer.
    """

    def __init__(self, *, shape: Sequence[int], dims: Sequence[int], dropout: float = 0.0):
        super().__init__()
        self.shape = tuple(shape)
        self.dropout = SeededDropout(dropout)
        self.weights = _AxialTables()
        for axis, dim in enumerate(dims):
            size = [1] * len(self.shape) + [dim]
            size[axis] = self.shape[axis]
            self.weights.append(nn.Parameter(torch.ones(size)))

    def forward(self, position_ids: Int[Tensor, "batch seq"]) -> Float[Tensor, "batch seq dim"]:
        """Look positions up.

        Args:
            position_ids: from 0 to the product of the axes less one, in any order.

        Returns:
            Their embeddings.
        """
        coordinates = []
        for axis, length in enumerate(self.shape):
            coordinate = position_ids // math.prod(self.shape[axis + 1 :])
            # The first axis is not reduced, so that a position beyond the grid is an index error.
            coordinates.append(coordinate % length if axis else coordinate)
        return self.dropout(self.weights(coordinates))


class LearnedPositionEmbeddings(nn.Module):
    """One learned embedding per position.

    Args:
        max_positions: rows of the table.
        hidden_size: dimension of an embedding.
        dropout: probability.
    """

    def __init__(self, *, max_positions: int, hidden_size: int, dropout: float = 0.0):
        super().__init__()
        self.embedding = nn.Embedding(max_positions, hidden_size)
        self.dropout = SeededDropout(dropout)

    def forward(self, position_ids: Int[Tensor, "batch seq"]) -> Float[Tensor, "batch seq dim"]:
        """Look positions up.

        Args:
            position_ids: from 0 to ``max_positions`` less one.

        Returns:
            Their embeddings.
        """
        return self.dropout(self.embedding(position_ids))


class NgramEmbeddings(nn.Module):
    """Embeddings of a token's last tokens, looked up by their hash and added.

    Args:
        sizes: tokens in an n-gram, at least 2.
        table_size: rows of the table for each size.
        hidden_size: dimension of an embedding.

    Source: hash n-gram embeddings of Pagnoni et al. 2024, "Byte Latent Transformer"
    (arXiv 2412.09871), section 3.2.1.
    """

    def __init__(self, *, sizes: Sequence[int], table_size: int, hidden_size: int):
        super().__init__()
        self.sizes, self.table_size = sorted(sizes), table_size
        self.embedding = nn.Embedding(len(sizes) * table_size, hidden_size)

    def forward(
        self,
        input_ids: Int[Tensor, "batch seq"],
        documents: Int[Tensor, "batch seq"] | None = None,
        *,
        recent: RecentInputs | None = None,
        new: NewTokens | None = None,
        recording: bool = False,
    ) -> Float[Tensor, "batch seq dim"]:
        """Embed the tokens of rows, or new tokens behind those before them.

        Args:
            input_ids: token ids.
            documents: document of each place, before which no token is seen; None for one.
            recent: the last tokens before, which are remembered anew; in place of `documents`.
            new: where the new tokens stand; padding is skipped.
            recording: forget nothing, so that tokens can be taken back.

        Returns:
            Their embeddings.
        """
        if recent is None or new is None:
            return self._look_up(last_tokens(input_ids + 1, self.sizes[-1], documents))
        real = new.real if new.padded else None
        count = self.sizes[-1] - 1
        joined, target, documents = recent.join(input_ids.unsqueeze(-1) + 1, count, real, recording)
        last = last_tokens(joined.squeeze(-1), self.sizes[-1], documents)
        if target is None:
            return self._look_up(last[:, -input_ids.shape[1] :])
        rows = torch.arange(len(last), device=last.device).unsqueeze(1)
        return self._look_up(last[rows, target])

    def _look_up(self, last: Int[Tensor, "batch seq count"]) -> Float[Tensor, "batch seq dim"]:
        return self.embedding(hash_ngrams(last, self.sizes, self.table_size)).sum(dim=-2)
