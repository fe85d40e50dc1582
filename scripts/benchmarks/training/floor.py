"""The floor of a training step: the matrix products of the `band` model, and nothing else.

Each product runs over blocks of rows, with operands and results that were allocated before and are
used again and again, so that they are read from the caches: as fast as this machine multiplies.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from scripts.benchmarks.common.peers import ModelShape

BLOCK_ROWS = 4096


class Product(NamedTuple):
    """Products of one shape: (batch, rows, inner) x (batch, inner, columns).

    Attributes:
        name: what the model computes with them.
        count: how many a forward pass has.
        batch: matrices in one.
        rows: of the left operand.
        inner: the axis that is summed.
        columns: of the right operand.
        is_differentiated: whether there is a gradient, which takes two more products.
        is_replayed: whether a reversible backward computes it once more.
    """

    name: str
    count: int
    batch: int
    rows: int
    inner: int
    columns: int
    is_differentiated: bool = True
    is_replayed: bool = True

    @property
    def operations(self) -> int:
        """Multiplications and additions of all of them, once."""
        return 2 * self.count * self.batch * self.rows * self.inner * self.columns


def products(shape: ModelShape, tokens: int) -> list[Product]:
    """All products of a forward pass of the `band` model.

    Args:
        shape: the sizes.
        tokens: of all rows.

    Returns:
        They, each cut into equal blocks of at most `BLOCK_ROWS` rows.
    """
    lsh, local = shape.num_hidden_layers // 2, -(-shape.num_hidden_layers // 2)
    layers, hidden, heads = lsh + local, shape.hidden_size, shape.num_attention_heads
    dim, inside, chunk = hidden // heads, shape.feed_forward_size, shape.attn_chunk_length
    columns = shape.num_hashes * shape.num_buckets // 2
    blocks = -(-tokens // BLOCK_ROWS)
    rows = -(-tokens // blocks)
    # A local layer is one round; a chunk of queries meets its own keys and those of the window.
    chunks = -(-tokens * heads * (local + lsh * shape.num_hashes) // chunk)
    together = min(chunks, max(1, BLOCK_ROWS // chunk))
    attended = -(-chunks // together)
    return [
        Product("projections", blocks * (3 * local + 2 * lsh + layers), 1, rows, hidden, hidden),
        Product("hashing", blocks * lsh, heads, rows, dim, columns, False, False),
        Product("scores", attended, together, chunk, dim, 2 * chunk),
        Product("sums of values", attended, together, chunk, 2 * chunk, dim),
        Product("feed-forward, in", blocks * layers, 1, rows, hidden, inside),
        Product("feed-forward, out", blocks * layers, 1, rows, inside, hidden),
        Product("head", blocks, 1, rows, 2 * hidden, shape.vocab_size, is_replayed=False),
    ]


def operations(shape: ModelShape, tokens: int, training: bool) -> int:
    """Multiplications and additions of a forward pass, or of a reversible training step."""
    return sum(
        one.operations * (1 + training * (one.is_replayed + 2 * one.is_differentiated))
        for one in products(shape, tokens)
    )


class Floor:
    """The products of a pass, ready to run.

    Args:
        shape: the sizes.
        tokens: of all rows.
        dtype: of all operands.
    """

    def __init__(self, shape: ModelShape, tokens: int, dtype: torch.dtype):
        self.work = [(one, _Operands(one, dtype)) for one in products(shape, tokens)]

    @torch.no_grad()
    def forward(self) -> None:
        """The products of a forward pass."""
        for one, operands in self.work:
            for _ in range(one.count):
                operands.forward()

    @torch.no_grad()
    def backward(self) -> None:
        """Those of a backward pass that computes the activations once more."""
        for one, operands in self.work:
            for multiply in self._in_backward(one, operands):
                for _ in range(one.count):
                    multiply()

    @staticmethod
    def _in_backward(one: Product, operands: "_Operands") -> Iterator[Callable[[], None]]:
        if one.is_replayed:
            yield operands.forward
        if one.is_differentiated:
            yield operands.backward_left
            yield operands.backward_right


class _Operands:
    """Matrices of a product, of its gradients, and room for the results."""

    def __init__(self, one: Product, dtype: torch.dtype):
        def filled(rows: int, columns: int) -> Tensor:
            lead = () if one.batch == 1 else (one.batch,)
            return torch.randn(*lead, rows, columns).to(dtype)

        self.multiply = torch.mm if one.batch == 1 else torch.bmm
        self.left, self.right = filled(one.rows, one.inner), filled(one.inner, one.columns)
        self.grad = filled(one.rows, one.columns)
        self.result = torch.empty_like(self.grad)
        self.grad_left, self.grad_right = torch.empty_like(self.left), torch.empty_like(self.right)

    def forward(self) -> None:
        self.multiply(self.left, self.right, out=self.result)

    def backward_left(self) -> None:
        self.multiply(self.grad, self.right.mT, out=self.grad_left)

    def backward_right(self) -> None:
        self.multiply(self.left.mT, self.grad, out=self.grad_right)
