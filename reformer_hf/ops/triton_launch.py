"""Calls the kernels of :mod:`reformer_hf.ops.triton_kernels`, which needs Triton."""

import math
from typing import Any

import torch
from torch import Tensor

from reformer_hf.ops.long_order import BandMask, EarlierPlaceMask, LongOrder, PlaceMask
from reformer_hf.ops.triton_kernels import (
    EARLIER_PLACES,
    EVERY,
    OTHER_PLACES,
    attend_kernel,
    key_gradient_kernel,
    query_gradient_kernel,
)


class Launcher:
    """Runs the kernels over parts of a long order.

    Args:
        order: the long order.
        vectors: queries, keys and values as rows of (batch, seq, heads), contiguous.
        dropout: of the probabilities.
        seed: of dropout; None if there is none.
    """

    def __init__(
        self, order: LongOrder, vectors: tuple[Tensor, ...], dropout: float, seed: int | None
    ):
        self.order, self.vectors = order, vectors
        dim = vectors[0].shape[-1]
        self.randomness = (seed, round(dropout * 2**31), 1 / (1 - dropout))
        self.scale = 1 / math.sqrt(dim)
        sees = EVERY
        if isinstance(order.mask, PlaceMask):
            sees = EARLIER_PLACES if isinstance(order.mask, EarlierPlaceMask) else OTHER_PLACES
        self.sizes = dict(
            DIM=dim,
            WIDTH=max(16, 1 << (dim - 1).bit_length()),
            CHUNK=0 if sees == EVERY else order.geometry.chunk_length,
            SEES=sees.value,
        )

    def attend(self, ranks: slice, output: Tensor, logsumexp: Tensor) -> None:
        """Write the outputs and log-sum-exps of some ranks to the first rows of two tables."""
        self._launch(attend_kernel, ranks, output, logsumexp)

    def differentiate(
        self, ranks: slice, by_row: tuple[Tensor, Tensor, Tensor], tables: list[Tensor]
    ) -> None:
        """Write the gradients of queries, keys and values at some ranks to three tables.

        `by_row` are the cotangents of the outputs, the log-sum-exps of the union of the rounds,
        and what the gradient of a softmax subtracts.
        """
        self._launch(query_gradient_kernel, ranks, *by_row, tables[0])
        chunk, before, after = self.order.geometry
        further = chunk - 1 if self.sizes["CHUNK"] else 0
        reach = (before + further, after + further, self.order.ranks.shape[2])
        self._launch(key_gradient_kernel, ranks, *by_row, *tables[1:], *reach)

    def _launch(self, kernel: Any, ranks: slice, *arguments: Any) -> None:
        order, mask = self.order, self.order.mask
        _, before, after = order.geometry
        windows = slice(ranks.start, ranks.stop + before + after)
        band = isinstance(mask, BandMask)
        length = ranks.stop - ranks.start
        dtype, has_dropout = self.vectors[0].dtype, self.randomness[0] is not None
        options = launch_options(kernel, dtype, self.sizes["WIDTH"], has_dropout)
        with torch.cuda.device_of(self.vectors[0]):
            kernel[(-(-length // options["BLOCK"]),)](
                *self.vectors,
                order.rows[windows],
                mask.earlier[ranks] if band else None,
                mask.later[ranks] if band and mask.later is not None else None,
                mask.yields if band else None,
                None if band else mask.query_places[ranks],
                None if band else mask.key_places[windows],
                *(ranks.start, length, before, after, self.scale),
                *self.randomness,
                *arguments,
                **self.sizes,
                **options,
            )


def launch_options(kernel: Any, dtype: torch.dtype, width: int, dropout: bool) -> dict[str, Any]:
    """Ranks that are computed at a time, and how many threads hold them without spilling."""
    single = dtype.itemsize == 4
    block = 32 if single or dropout else 64
    others = 16 if single and kernel is key_gradient_kernel else block  # it has two sums to hold
    num_warps = 8 if width > 64 and (single or not dropout) else 4
    sizes = dict(BLOCK=block, OTHERS=others)
    return dict(**sizes, num_warps=num_warps, num_stages=1, enable_fp_fusion=True)
