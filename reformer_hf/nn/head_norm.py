"""Normalisation of the queries and of the keys of each head."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from reformer_hf.ops.attend import normalise_keys


class HeadRMSNorm(nn.Module):
    """Vectors of a head at root-mean-square length one, times a scale of each number.

    All heads have the same scale, which is 1 at the start. Products of queries and keys over the
    root of `head_dim` then lie between plus and minus that root, and have a variance of about 1
    where directions are random. How much further they go, the scales learn.

    Args:
        head_dim: numbers of a vector.

    Source: Henry et al. 2020, "Query-Key Normalization" (arXiv 2010.04245), with the norm of Zhang
    and Sennrich 2019 (arXiv 1910.07467), as `q_norm` and `k_norm` of transformers' Qwen3.
    """

    def __init__(self, head_dim: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(head_dim))

    def forward(
        self, vectors: Float[Tensor, "batch heads seq head_dim"]
    ) -> Float[Tensor, "batch heads seq head_dim"]:
        """Normalise and scale.

        Args:
            vectors: queries or keys, before their position turns them.

        Returns:
            The same in the same dtype, also where autocast has narrowed them.
        """
        return normalise_keys(vectors) * self.weight.to(vectors.dtype)
