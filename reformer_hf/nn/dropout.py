"""Dropout that keeps a seed for backward, not a mask as large as its input."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from reformer_hf.ops.derivatives import transform_runs
from reformer_hf.ops.dropout import draw_kept, draw_seed, seeded_generator

PIECE = 2**14
"""Vectors whose mask is held at a time."""


class SeededDropout(nn.Dropout):
    """Dropout for what lives as long as the whole pass, such as the embeddings.

    On a CPU torch keeps a mask of the input's dtype, which for long inputs is a stream's memory.
    """

    def forward(self, input: Float[Tensor, "*lead dim"]) -> Float[Tensor, "*lead dim"]:
        """Drop numbers in training.

        Args:
            input: any vectors.

        Returns:
            The input, or in training one with numbers dropped and the others scaled up.
        """
        if not (self.training and self.p):
            return input
        # Neither of which takes a generator.
        if torch.compiler.is_compiling() or transform_runs():
            return super().forward(input)
        return drop(input, self.p, draw_seed())


def drop(
    vectors: Float[Tensor, "*lead dim"], dropout: float, seed: int | None, inplace: bool = False
) -> Float[Tensor, "*lead dim"]:
    """Apply the dropout that a seed stands for.

    Args:
        vectors: any.
        dropout: probability of dropping, below 1.
        seed: from :func:`reformer_hf.ops.dropout.draw_seed`.
        inplace: write to the vectors, which nothing else may need.

    Returns:
        The vectors with numbers dropped and the others scaled up.
    """
    return _Drop.apply(vectors, dropout, seed, inplace)  # type: ignore[return-value]


class _Drop(torch.autograd.Function):
    @staticmethod
    def forward(vectors: Tensor, dropout: float, seed: int | None, inplace: bool) -> Tensor:
        return _multiply(vectors, dropout, seed, vectors if inplace else None)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        vectors, *ctx.settings, inplace = inputs
        if inplace:
            ctx.mark_dirty(vectors)

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor:
        return drop(tangents[0], *ctx.settings)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        return drop(grads[0], *ctx.settings), None, None, None


def _multiply(
    vectors: Tensor, dropout: float, seed: int | None, result: Tensor | None = None
) -> Tensor:
    """The same mask in both directions: it is drawn in the order of the vectors."""
    generator = seeded_generator(seed, vectors.device)
    result = vectors.new_empty(vectors.shape) if result is None else result
    pieces = (x.split(PIECE) for x in (vectors.flatten(0, -2), result.view(-1, result.shape[-1])))
    for piece, out in zip(*pieces, strict=True):
        torch.mul(piece, draw_kept(out, dropout, generator), out=out)
    return result
