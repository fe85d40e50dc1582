"""A stream's pieces, whose values and gradients are written into one tensor.

`torch.split` and `torch.cat` hold all pieces when they join them, twice a stream's memory. Here a
sum grows in place, and so does the gradient of what the pieces were cut from.
"""

import threading
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from reformer_hf.ops.derivatives import first_derivative_only

CAST_PLACES = 4096
"""Places of all rows that a CPU casts at a time, to add numbers of another dtype."""


def cut(
    stream: Float[Tensor, "*batch seq dim"], piece_length: int
) -> tuple[Float[Tensor, "*batch piece dim"], ...]:
    """Cut the places of a stream into pieces.

    Args:
        stream: any.
        piece_length: places of a piece; 0 for all. A whole stream is returned as it is.

    Returns:
        Views of it.
    """
    if not 0 < piece_length < stream.shape[-2]:
        return (stream,)
    return stream.split(piece_length, dim=-2)


def cut_gathering(
    stream: Float[Tensor, "*batch seq dim"], piece_length: int
) -> Iterator[Float[Tensor, "*batch piece dim"]]:
    """Cut the places of a stream into pieces that write their gradients into one tensor.

    Use each piece before taking the next: backward runs what was recorded last first, so it then
    finishes the gradient of one piece before it starts on another.

    Args:
        stream: any.
        piece_length: places of a piece; 0 for all. A whole stream is returned as it is.

    Yields:
        Views of it; all of them must take part in what is differentiated.
    """
    if not 0 < piece_length < stream.shape[-2]:
        yield stream
        return
    gathered = _Gathered(stream, piece_length)
    for part in range(gathered.count):
        yield _Take.apply(stream, gathered, part)  # type: ignore[misc]


class GrowingSum:
    """A stream plus addends, which are given one after another and not kept.

    Args:
        stream: the first summand, (batch, seq, dim); it is not changed.
    """

    def __init__(self, stream: Float[Tensor, "*batch seq dim"]) -> None:
        self.stream, self.value = stream, torch.empty_like(stream)
        self.begun = 0  # first places, which have got an addend
        self.places: list[tuple[int, int]] = []
        self.tokens: list[Tensor] = []

    def add(self, addend: Float[Tensor, "*batch piece dim"], start: int = 0) -> None:
        """Add to some places; the first addends of all places come in order.

        Args:
            addend: of these places.
            start: the first of them.
        """
        place = start, addend.shape[-2]
        summand = self.stream.detach() if start >= self.begun else self.value
        out = self.value.narrow(-2, *place)
        accumulate(out, summand.narrow(-2, *place), addend.detach())
        self.begun = max(self.begun, sum(place))
        self.places.append(place)
        self.tokens.append(_Deposit.apply(addend, self.stream.dtype))  # type: ignore[arg-type]

    def result(self) -> Float[Tensor, "*batch seq dim"]:
        """The sum, with the history of all summands; each place must have got an addend."""
        return _Collect.apply(self.stream, self.value, self.places, *self.tokens)  # type: ignore[return-value]


def accumulate(
    out: Float[Tensor, "*batch seq dim"],
    summand: Float[Tensor, "*batch seq dim"],
    addend: Float[Tensor, "*batch seq dim"],
    factor: int = 1,
) -> None:
    """Write ``summand + factor * addend``.

    Args:
        out: where to; the summand itself if need be.
        summand: of the same dtype.
        addend: of any dtype; a CPU would cast all of it first.
        factor: 1, or -1 to subtract.
    """
    parts: Sequence[tuple[Tensor, ...]] = [(out, summand, addend)]
    if addend.dtype != out.dtype and out.device.type == "cpu":
        step = max(1, CAST_PLACES * out.shape[-1] * out.shape[-2] // max(1, out.numel()))
        parts = list(zip(*(x.split(step, dim=-2) for x in parts[0]), strict=True))
    for into, left, right in parts:
        torch.add(left, right, alpha=factor, out=into)


class _Gathered:
    """The gradient of a stream, while its pieces write theirs."""

    def __init__(self, stream: Tensor, piece_length: int) -> None:
        self.piece_length, self.count = piece_length, -(-stream.shape[-2] // piece_length)
        self.lock = threading.Lock()  # backward may come from several threads
        self.begun: dict[int, tuple[Tensor, set[int]]] = {}  # by backward, some of them broken off

    def place(self, stream: Tensor, part: int) -> Tensor:
        """The view of a piece."""
        start = part * self.piece_length
        return stream.narrow(-2, start, min(self.piece_length, stream.shape[-2] - start))

    def write(self, shape: torch.Size, part: int, gradient: Tensor, task: int) -> Tensor | None:
        """Takes a piece's gradient of a backward; returns the stream's after the last piece."""
        with self.lock:
            # Without a task, as where a node is called by hand, the last may have been broken off.
            if task not in self.begun or part in self.begun[task][1]:
                self.begun[task] = gradient.new_empty(shape), set()
            whole, written = self.begun[task]
            self.place(whole, part).copy_(gradient)
            written.add(part)
            if len(written) < self.count:
                return None
            del self.begun[task]
            return whole


class _Take(torch.autograd.Function):
    """A piece of a stream."""

    @staticmethod
    def forward(ctx: Any, stream: Tensor, gathered: _Gathered, part: int) -> Tensor:
        ctx.shape, ctx.gathered, ctx.part = stream.shape, gathered, part
        return gathered.place(stream, part)

    @staticmethod
    @first_derivative_only
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, None, None]:  # type: ignore[override]
        task = torch._C._current_graph_task_id()
        return ctx.gathered.write(ctx.shape, ctx.part, gradient, task), None, None


class _Deposit(torch.autograd.Function):
    """Stands in the graph for an addend whose numbers are already in the sum."""

    @staticmethod
    def forward(ctx: Any, addend: Tensor, dtype: torch.dtype) -> Tensor:
        ctx.dtype = addend.dtype
        return addend.new_empty((), dtype=dtype).expand(addend.shape)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        return gradient.to(ctx.dtype), None


class _Collect(torch.autograd.Function):
    """The finished sum."""

    @staticmethod
    def forward(
        ctx: Any, stream: Tensor, value: Tensor, places: list[tuple[int, int]], *tokens: Tensor
    ) -> Tensor:
        ctx.places = places
        return value.detach()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        return gradient, None, None, *(gradient.narrow(-2, *place) for place in ctx.places)
