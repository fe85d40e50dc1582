"""What the processes of a row tell each other, with gradients that go back where they came from."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
import torch.distributed as dist
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from reformer_hf.ops.derivatives import first_derivative_only, refuse_transforms
from reformer_hf.ops.tails import Tails, merge_tails, split_tails

TailsForm = Literal["chain", "gather"]


class RowGroup:
    """The processes that hold a row together, each the tokens behind those of the one before.

    All of them make the same calls in the same order.

    Args:
        processes: their group in torch; None for all.
        form: how tails travel. ``chain``: each process waits for the one before it and hands on
            what that sent, with its own. ``gather``: all send theirs to all, which takes one
            collective and as many times the bytes as there are other processes.

    Attributes:
        index: of this process in the row, from the left.
        size: processes of the group.
        received_bytes: bytes that have come from other processes so far, gradients included.

    Raises:
        RuntimeError: in any call, if another process has ended.
    """

    def __init__(self, processes: Any = None, form: TailsForm = "chain"):
        self.processes, self.form = processes, form
        self.index, self.size = dist.get_rank(processes), dist.get_world_size(processes)
        self.received_bytes = 0

    @property
    def first(self) -> bool:
        """Whether nobody holds tokens before those of this process."""
        return self.index == 0

    @property
    def last(self) -> bool:
        """Whether nobody holds tokens behind those of this process."""
        return self.index == self.size - 1

    def gather(self, numbers: Shaped[Tensor, "..."]) -> Shaped[Tensor, "processes ..."]:
        """Collect a tensor of one shape from every process, without a gradient.

        Args:
            numbers: of this process.

        Returns:
            Those of all processes, in order.
        """
        found = [torch.empty_like(numbers) for _ in range(self.size)]
        with self._explained():
            dist.all_gather(found, numbers.contiguous(), group=self.processes)
        self.received_bytes += (self.size - 1) * numbers.nbytes
        return torch.stack(found)

    def move(self, tensor: Shaped[Tensor, "..."], step: int) -> Shaped[Tensor, "..."]:
        """Give a tensor to the process ``step`` further and take that of the process as far before.

        There is no gradient.

        Args:
            tensor: of one shape on all processes.
            step: 1 to the right, -1 to the left.

        Returns:
            The tensor of the other process; zeros where there is none.
        """
        received = _zeros_like(tensor)
        sent = tensor.contiguous()
        self._exchange((dist.isend, sent, step), (dist.irecv, received, -step))
        return received

    def nobody_before(self, step: int) -> bool:
        """Whether nothing comes to this process that goes ``step`` further."""
        return self.first if step > 0 else self.last

    def from_neighbour(self, tensor: Shaped[Tensor, "..."], step: int) -> Shaped[Tensor, "..."]:
        """The same as :meth:`move`, with the gradient of numbers that have one.

        Args:
            tensor: of one shape on all processes.
            step: 1 from the left neighbour, -1 from the right one.

        Returns:
            The neighbour's; zeros where there is none.
        """
        if not tensor.is_floating_point():
            return self.move(tensor, step)
        refuse_transforms()
        return _FromNeighbour.apply(tensor, self, step)  # type: ignore[return-value]

    def scan(self, own: Tails, goes_on: Bool[Tensor, " batch"] | None, step: int) -> Tails:
        """The tails of all processes on one side, with their gradient.

        Args:
            own: of this process, nearest to the other side first.
            goes_on: rows of which processes on the other side still see what is on this one; None
                for all.
            step: 1 for what goes to the right, the tails of all processes before; -1 for what goes
                to the left, of all processes behind.

        Returns:
            Of the processes on that side.

        Source: ``docs/sequence_parallelism.md``.
        """
        refuse_transforms()
        function = _Chain if self.form == "chain" else _Gather
        return Tails(*function.apply(*own, goes_on, self, step))  # type: ignore[misc]

    def carry(
        self, kept: Float[Tensor, "batch dim"], own: Float[Tensor, "batch dim"]
    ) -> Float[Tensor, "batch dim"]:
        """Carry a state along the row: a process hands ``kept * state + own`` to the next.

        Args:
            kept: how much of the state that comes in this process keeps.
            own: what it adds.

        Returns:
            The state that comes in, with its gradient; zeros on the first process.
        """
        refuse_transforms()
        return _Carry.apply(kept, own, self)  # type: ignore[return-value]

    def before(self, step: int) -> range:
        """The processes from which this one gets what goes on by ``step``, the farthest first."""
        return range(self.index) if step > 0 else range(self.size - 1, self.index, -1)

    def swap(self, parts: Shaped[Tensor, "processes ..."]) -> Shaped[Tensor, "processes ..."]:
        """Give each process its part, and take from each the part that it has for this one.

        Args:
            parts: for each process.

        Returns:
            From each process.
        """
        received = _zeros_like(parts)
        with self._explained():
            dist.all_to_all_single(received, parts.contiguous(), group=self.processes)
        self.received_bytes += (self.size - 1) * parts[0].nbytes
        return received

    def send(self, tensors: tuple[Tensor, ...], step: int) -> None:
        """Give tensors to the process ``step`` further, if there is one."""
        self._exchange(*((dist.isend, tensor.contiguous(), step) for tensor in tensors))

    def receive(self, like: tuple[Tensor, ...], step: int) -> tuple[Tensor, ...]:
        """Take tensors of these shapes from the process ``step`` further; zeros if none."""
        received = tuple(map(_zeros_like, like))
        self._exchange(*((dist.irecv, tensor, step) for tensor in received))
        return received

    def _exchange(self, *transfers: tuple[Callable[..., Any], Tensor, int]) -> None:
        """Send to processes or receive from them, all at once; beyond the ends there is nobody."""
        operations = []
        for transfer, tensor, step in transfers:
            peer = self.index + step
            if not 0 <= peer < self.size:
                continue
            if transfer is dist.irecv:
                self.received_bytes += tensor.nbytes
            if self.processes is not None:
                peer = dist.get_global_rank(self.processes, peer)
            operations.append(dist.P2POp(transfer, tensor, peer, self.processes))
        if operations:
            with self._explained():
                for work in dist.batch_isend_irecv(operations):
                    work.wait()

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            raise RuntimeError(
                f"process {self.index} of the {self.size} that hold a row together could not reach "
                f"another one ({error}). If that one has ended, see what it printed last, and "
                "start all of them again from the last checkpoint"
            ) from error


class _FromNeighbour(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor, group: RowGroup, step: int) -> Tensor:
        ctx.group, ctx.step = group, step
        return group.move(tensor, step)

    @staticmethod
    @first_derivative_only
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        return ctx.group.move(grads[0], -ctx.step), None, None


class _Carry(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, kept: Tensor, own: Tensor, group: RowGroup) -> Tensor:
        (state,) = group.receive((own,), -1)
        group.send((torch.addcmul(own, kept, state),), 1)
        ctx.group = group
        ctx.save_for_backward(kept, state)
        return state

    @staticmethod
    @first_derivative_only
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        kept, state = ctx.saved_tensors
        (handed,) = ctx.group.receive((grads[0],), 1)
        ctx.group.send((torch.addcmul(grads[0], kept, handed),), -1)
        return handed * state, handed, None


class _Chain(torch.autograd.Function):
    """A chain: from one side come the tails of all there, to the other go these and one's own."""

    @staticmethod
    def forward(
        ctx: Any,
        vectors: Tensor,
        counts: Tensor,
        goes_on: Tensor | None,
        group: RowGroup,
        step: int,
    ) -> tuple[Tensor, Tensor]:
        older = Tails(*group.receive((vectors, counts), -step))
        handed = older.counts
        if goes_on is not None:
            handed = handed * goes_on.view(-1, 1, 1)
        group.send(merge_tails(Tails(vectors, counts), Tails(older.vectors, handed)), step)
        ctx.group, ctx.step = group, step
        ctx.save_for_backward(counts)
        ctx.mark_non_differentiable(older.counts)
        return older.vectors, older.counts

    @staticmethod
    @first_derivative_only
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (counts,) = ctx.saved_tensors
        (merged,) = ctx.group.receive((grads[0],), ctx.step)
        own, older = split_tails(merged, counts)
        # Where older tails were not handed on, nobody saw them: this part of the gradient is 0.
        ctx.group.send((grads[0] + older,), -ctx.step)
        return own, None, None, None, None


class _Gather(torch.autograd.Function):
    """All tails go to all processes, and each merges those of the ones on one side."""

    @staticmethod
    def forward(
        ctx: Any,
        vectors: Tensor,
        counts: Tensor,
        goes_on: Tensor | None,
        group: RowGroup,
        step: int,
    ) -> tuple[Tensor, Tensor]:
        goes_on = counts.new_ones(len(counts), dtype=torch.bool) if goes_on is None else goes_on
        parts = [group.gather(tensor) for tensor in (vectors, counts, goes_on)]
        older = Tails(torch.zeros_like(vectors), torch.zeros_like(counts))
        for index in group.before(step):
            own, own_counts, kept = (part[index] for part in parts)
            handed = older._replace(counts=older.counts * kept.view(-1, 1, 1))
            older = merge_tails(Tails(own, own_counts), handed)
        ctx.group, ctx.step = group, step
        ctx.save_for_backward(parts[1])
        ctx.mark_non_differentiable(older.counts)
        return older.vectors, older.counts

    @staticmethod
    @first_derivative_only
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (counts,) = ctx.saved_tensors
        group, older = ctx.group, grads[0]
        parts = older.new_zeros(group.size, *older.shape)
        for index in reversed(group.before(ctx.step)):
            parts[index], older = split_tails(older, counts[index])
        return group.swap(parts).sum(dim=0), None, None, None, None


def _zeros_like(tensor: Tensor) -> Tensor:
    return torch.zeros_like(tensor, memory_format=torch.contiguous_format)
