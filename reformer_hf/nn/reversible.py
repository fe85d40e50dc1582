"""Reversible coupling of two residual streams: activations are rebuilt, not stored.

A step adds to one stream, the target, a function of the other, the source; then the roles swap:

    output = target + sublayer(source)        next step: target' = source, source' = output

A step is undone by a subtraction, `target = output - sublayer(source)`, so the streams of every
step follow from those of the last. `ReversibleCoupling` uses this to run a stack of any number of
steps in the memory of one. It builds the ordinary autograd graph, so parameters, hooks, DDP and
FSDP2 see nothing unusual, but a tensor that a sub-layer saves for backward is dropped: the graph
keeps an empty `_Slot` in its place. When backward asks for a slot, its step is inverted: the
sub-layer is replayed on the source, which fills the slots again, and the target is the output
minus the result of the replay.

What holds between the parts:

- References run one way: graph -> slot -> step -> next step. Nothing points back strongly, so all
  memory is freed by reference counting, with or without a backward.
- Between forward and backward only the last step holds streams (its two outputs). Every earlier
  step gets its outputs from the next step, which rebuilds them as its own inputs when it is
  inverted and hands them over once. A stream that a step has rebuilt is overwritten by the next
  to be rebuilt from it.
- A replay repeats its forward: same random numbers, autocast state, gradient flags and discrete
  decisions (`Decision`, `recalled_decision`). It must save the same tensors in the same order,
  which is checked.
- A sub-layer that treats each place by itself may run on pieces of the sequence, which are
  replayed one at a time.
- Replayed tensors live as long as plain autograd would keep them, and at most until the step
  before is inverted. After that (`retain_graph`), they are rebuilt once more on demand.
- The first steps may keep what they save, as long as it fits a budget: a replay takes time. Their
  slots are full from the start, so backward inverts the later steps and then uses what was kept.
"""

import threading
import weakref
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from contextvars import ContextVar
from functools import partial
from typing import Generic, NamedTuple, TypeVar, cast

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from reformer_hf.nn.stream_pieces import GrowingSum, accumulate, cut, cut_gathering
from reformer_hf.nn.surroundings import Surroundings
from reformer_hf.ops.derivatives import refuse_transforms

SubLayer = Callable[[Tensor], Tensor]
"""Maps a source to an addend."""

Terms = Sequence[SubLayer]
"""Sub-layers of one source whose results are added one after another, such as groups of heads."""

Lengths = int | Sequence[int]
"""Places given to a sub-layer at a time, 0 for all; the same for all terms, or one for each."""

MODIFIED = "uses a tensor that was modified in place between forward and backward"
CHANGED_END = "a final stream was modified in place between forward and backward"

T = TypeVar("T")
F = TypeVar("F", bound=Callable)


def _eager(function: F) -> F:
    """Keeps a compiler out; unlike torch's own decorator it keeps the type, too."""
    return cast(F, torch.compiler.disable(function))


class Decision(Generic[T]):
    """A discrete choice of one sub-layer call (bucket ids), made in forward, repeated in replay.

    A replay sees its source with another rounding error, so a nearly tied choice could fall
    differently the second time. One cell belongs to one sub-layer call: the caller creates it and
    the sub-layer's callable closes over it.
    """

    def __init__(self) -> None:
        self._choice: list[T] = []

    def recall(self, decide: Callable[[], T]) -> T:
        """Returns the choice, making it the first time.

        Args:
            decide: makes the choice. It is not called in a replay, so it must not draw from the
                default random generators: the numbers drawn after it would differ.

        Returns:
            What `decide` returned when it was first called.
        """
        if not self._choice:
            self._choice.append(decide())
        return self._choice[0]


class _Recalling:
    """A sub-layer and the decisions of one run of it, for layers that are given none."""

    def __init__(self, sublayer: SubLayer) -> None:
        self.sublayer = sublayer
        self.decisions: list[Decision] = []  # in the order in which the layers inside ask for them
        self.used = 0

    def __call__(self, source: Tensor) -> Tensor:
        self.used = 0
        token = _RUNNING.set(self)
        try:
            return self.sublayer(source)
        finally:
            _RUNNING.reset(token)


_RUNNING: ContextVar[_Recalling | None] = ContextVar("running sub-layer", default=None)


def recalled_decision() -> Decision | None:
    """Find the decision of a layer that runs now within a `ReversibleCoupling`.

    Returns:
        A cell of this run of the sub-layer, full in its replay; None outside a coupling, and in
        code that is compiled, which has no way to ask. Each call within a run gives the next cell.
    """
    running = None if torch.compiler.is_compiling() else _RUNNING.get()
    if running is None:
        return None
    if running.used == len(running.decisions):
        running.decisions.append(Decision())
    running.used += 1
    return running.decisions[running.used - 1]


class PlainCoupling:
    """Couples the streams with ordinary autograd: every activation is stored."""

    def couple(
        self,
        target: Float[Tensor, "*batch seq dim"],
        sublayer: SubLayer | Terms,
        source: Float[Tensor, "*batch seq dim"],
        piece_length: Lengths = 0,
    ) -> Float[Tensor, "*batch seq dim"]:
        """Adds to the target stream a function of the source stream.

        Args:
            target: stream to add to, (batch, seq, dim).
            sublayer: maps the source to an addend of the target's shape; or several that do.
            source: stream to read, (batch, seq, dim).
            piece_length: places given to the sub-layer at a time, if it treats each place by
                itself; 0 for all. Several may have one each.

        Returns:
            `target + sublayer(source)`, (batch, seq, dim).
        """
        for term, length in _terms(sublayer, piece_length):
            parts = zip(cut(target, length), cut(source, length), strict=True)
            outputs = [part + term(piece) for part, piece in parts]
            target = outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=-2)
        return target


class ReversibleCoupling(PlainCoupling):
    """Couples the streams of one forward pass; backward rebuilds what the sub-layers saved.

    Make one object for each pass through a stack. Side inputs of a sub-layer (encoder output,
    masks) are what its callable closes over; they get their gradients as usual and stay alive
    until backward. The callable must not close over the streams, nor over a variable that is
    assigned a stream later: it would keep its own graph alive.

    Args:
        budget: bytes of activations to keep. The first steps keep theirs while they fit in; from
            the first that does not, all are rebuilt. Weights that a sub-layer saves count, too.

    Source: Gomez et al. 2017, "The Reversible Residual Network" (arXiv 1707.04585); Kitaev et al.
    2020, "Reformer" (arXiv 2001.04451), section 3.
    """

    def __init__(self, budget: int = 0) -> None:
        self._last: _Step | None = None
        self._ends: _Ends | None = None
        self._kept = _Kept(budget)
        # Backward may ask from several threads at once (one per device, or several backwards).
        self._lock = threading.RLock()

    # A compiler that took in the sub-layer here would not be there for the replay in backward.
    @_eager
    def couple(
        self,
        target: Float[Tensor, "*batch seq dim"],
        sublayer: SubLayer | Terms,
        source: Float[Tensor, "*batch seq dim"],
        piece_length: Lengths = 0,
    ) -> Float[Tensor, "*batch seq dim"]:
        """Adds to the target stream a function of the source stream, and remembers how.

        Args:
            target: stream to add to, (batch, seq, dim); after the first call, the last `source`.
            sublayer: maps the source to an addend of the target's shape. It is called again in
                backward and must then compute the same (see the module's docstring). Of several,
                backward holds what one saved at a time.
            source: stream to read, (batch, seq, dim); after the first call, the last output.
            piece_length: places given to the sub-layer at a time, if it treats each place by
                itself; 0 for all. Backward holds what one piece saved at a time. Several
                sub-layers may have one each.

        Returns:
            `target + sublayer(source)`, (batch, seq, dim).

        Raises:
            ValueError: a stream is narrower than float32, or is not what the last call left.
        """
        if not torch.is_grad_enabled():
            return super().couple(target, sublayer, source, piece_length)
        refuse_transforms()
        for name, stream in (("target", target), ("source", source)):
            if torch.finfo(stream.dtype).bits < 32:
                raise ValueError(
                    f"{name}.dtype is {stream.dtype}, too narrow to rebuild activations from: keep "
                    "the streams in float32 (under FSDP2 mixed precision with "
                    "cast_forward_inputs=False) or use PlainCoupling (config.reversible=False)"
                )
        if self._ends is not None:
            self._ends.check_continued_by(target, source)
        step = _Step(self._kept, self._lock)
        output = step.run(target, _terms(sublayer, piece_length), source)
        step.outputs = self._ends = _Ends(source, output)
        if self._last is not None:
            self._last.outputs = step
        self._last = step
        return output


class _Ends:
    """The two outputs of the last step, held for backward or until a step follows."""

    def __init__(self, source: Tensor, output: Tensor) -> None:
        self.streams = (source.detach(), output.detach())
        self.versions = (source._version, output._version)

    def check_continued_by(self, target: Tensor, source: Tensor) -> None:
        """Raises ValueError unless the next step starts from these streams."""
        for stream, held, version in zip(
            (target, source), self.streams, self.versions, strict=True
        ):
            # FSDP2 passes the streams on as views, hence no test of identity.
            same = stream.untyped_storage() is held.untyped_storage()
            moved = stream.device != held.device
            if not moved and not (same and stream._version == version):
                raise ValueError(
                    "target and source must be the source and the output of the last couple(), "
                    "and not changed in between (by a forward hook?); or use PlainCoupling"
                )

    def take_inputs(self) -> "_Inputs":
        """Returns what a following step would: its target and its source."""
        if tuple(stream._version for stream in self.streams) != self.versions:
            raise RuntimeError(CHANGED_END)
        return _Inputs(*self.streams, own_target=False, own_source=False)


class _Inputs(NamedTuple):
    """What a step hands to the one before, and whether that one may write to it."""

    target: Tensor
    source: Tensor
    own_target: bool
    own_source: bool


class _Slot:
    """What the graph keeps in place of a saved tensor; a replay fills it."""

    __slots__ = ("__weakref__", "step", "index", "tensor", "version")

    def __init__(self, step: "_Step", index: int) -> None:
        self.step, self.index = step, index
        self.tensor: Tensor | None = None
        self.version: int | None = None  # of a kept tensor

    def keep(self, tensor: Tensor) -> None:
        """Holds a saved tensor from forward to backward."""
        # Detached: a tensor with its history would keep the graph that keeps this slot.
        self.tensor, self.version = tensor.detach(), tensor._version

    def take(self) -> Tensor:
        """Returns the saved tensor, rebuilding it if need be."""
        if self.tensor is None:
            self.step.invert(self.index)
        assert self.tensor is not None  # a replay fills every slot or raises
        if self.version not in (None, self.tensor._version):
            raise RuntimeError(f"{self.step.pieces[self.index].name} {MODIFIED}")
        return self.tensor


class _Kept:
    """Counts the bytes that the first steps keep; once they exceed the budget nobody keeps any."""

    def __init__(self, budget: int) -> None:
        self.budget, self.bytes = budget, 0
        self.storages: set[int] = set()  # of kept tensors: alive, so that no number comes twice

    def have_room_for(self, tensor: Tensor) -> bool:
        """Counts a tensor that a step saves and says whether to keep it."""
        storage = tensor.untyped_storage()
        if self.bytes <= self.budget and storage._cdata not in self.storages:
            self.storages.add(storage._cdata)
            self.bytes += storage.nbytes()
        return self.bytes <= self.budget


class _Step:
    """One call of `couple`: what is needed to run it again and to undo it, piece by piece."""

    def __init__(self, kept: _Kept, lock: AbstractContextManager[object]) -> None:
        self.kept, self.lock = kept, lock
        self.keeps = kept.bytes < kept.budget
        self.pieces: list[_Piece] = []
        self.outputs: _Step | _Ends | None = None  # who gives them: the next step, or the ends
        self.inversion: _Inversion | None = None  # from the first piece to the step before

    def run(self, target: Tensor, terms: list[tuple[SubLayer, int]], source: Tensor) -> Tensor:
        """Runs the sub-layers in forward; the graph gets a slot for each tensor they save."""
        output = GrowingSum(target)
        for term, length in terms:
            start = 0
            for piece_source in cut_gathering(source, length):
                self.pieces.append(_Piece(term, start, piece_source))
                # Autograd keeps the hooks as long as the graph: they must not refer to the source.
                with saved_tensors_hooks(partial(self.drop, len(self.pieces) - 1), _unpack):
                    addend = self.pieces[-1].sublayer(piece_source)
                output.add(addend, start)
                start += addend.shape[-2]
                del addend
        return output.result()

    @_eager
    def drop(self, index: int, tensor: Tensor) -> "_Slot":
        """Notes what autograd saves in forward and gives it a slot to keep instead."""
        slot = _Slot(self, index)
        self.pieces[index].note(slot, tensor)
        if self.keeps and self.kept.have_room_for(tensor):
            slot.keep(tensor)
        elif self.keeps:  # a step is kept whole or not at all
            self.keeps = False
            for piece in self.pieces:
                piece.forget()
        return slot

    def invert(self, index: int) -> None:
        """Fills the slots of a piece and rebuilds its part of the target."""
        piece = self.pieces[index]
        if self.inversion is None:
            if self.outputs is None:
                raise RuntimeError(f"{piece.name} was differentiated within its own forward")
            # Handed on without a name, which would keep a stream alive that is copied.
            self.inversion = _Inversion(self.outputs.take_inputs(), piece.surroundings.device)
            if _is_spent(self.outputs):
                self.outputs = None  # what backward leaves out finds the inversion
        inputs = self.inversion.unchanged_inputs()
        addend = piece.replay(inputs.source.narrow(-2, *piece.place))
        target = inputs.target.narrow(-2, *piece.place)
        if index not in self.inversion.undone:
            accumulate(target, target, addend, factor=-1)
            self.inversion.undone.add(index)

    def take_inputs(self) -> _Inputs:
        """Hands target and source to the step before; what the replays rebuilt has been used."""
        for index in range(len(self.pieces)):
            if self.inversion is None or index not in self.inversion.undone:
                self.invert(index)
        assert self.inversion is not None
        inputs = self.inversion.unchanged_inputs()
        retained = any([piece.forget() for piece in self.pieces])
        if retained and self.outputs is None:  # backward left something out
            return inputs._replace(own_target=False, own_source=False)
        self.inversion = None
        if any(piece.slots for piece in self.pieces) and not retained:
            self.outputs = None  # nobody can ask again
        return inputs


class _Inversion:
    """The rebuilding of a step's inputs from its outputs."""

    def __init__(self, outputs: _Inputs, device: torch.device) -> None:
        # A step's source and output are the target and the source of the step after it.
        source, output = outputs.target.to(device), outputs.source.to(device)
        target = output if outputs.own_source else output.clone()
        self.inputs = _Inputs(target, source, True, outputs.own_target)
        self.version = source._version  # of what may be the user's
        self.undone: set[int] = set()  # pieces that are subtracted again

    def unchanged_inputs(self) -> _Inputs:
        """The inputs, as far as they are rebuilt."""
        if self.inputs.source._version != self.version:
            raise RuntimeError(CHANGED_END)
        return self.inputs


class _Piece:
    """One run of a sub-layer on a part of a step's places."""

    def __init__(self, sublayer: SubLayer, start: int, source: Tensor) -> None:
        self.sublayer, self.place = _Recalling(sublayer), (start, source.shape[-2])
        function = getattr(sublayer, "func", sublayer)  # of a partial
        self.name = getattr(function, "__qualname__", type(function).__name__)
        self.surroundings = Surroundings(source.device)
        self.source_requires_grad = source.requires_grad
        self.source_version, self.source_storage = source._version, source.untyped_storage()._cdata
        self.slots: list[weakref.ref[_Slot]] = []
        self.saved: list[tuple] = []  # what is known of each saved tensor

    def note(self, slot: _Slot, tensor: Tensor) -> None:
        """Notes what autograd saves in forward."""
        self.slots.append(weakref.ref(slot))
        self.saved.append(_describe(tensor, self.source_storage, self.source_version))

    def replay(self, source: Tensor) -> Tensor:
        """Runs the sub-layer again as in forward, without history, and fills the slots."""
        saved: list[tuple] = []
        # Not `detach`: the versions noted in forward do not count how the source was rebuilt.
        source = source.data.requires_grad_(self.source_requires_grad)
        fill = partial(self.fill, saved, source.untyped_storage()._cdata, source._version)
        hooks = saved_tensors_hooks(fill, lambda tensor: tensor)
        with self.surroundings.restored(), torch.enable_grad(), hooks:
            addend = self.sublayer(source).detach()
        self.check_repeated(saved)
        return addend

    @_eager
    def fill(self, saved: list[tuple], storage: int, version: int, tensor: Tensor) -> Tensor:
        """Notes what autograd saves in a replay and puts it in its slot, if that still exists."""
        tensor = tensor.detach()
        slot = self.slots[len(saved)]() if len(saved) < len(self.slots) else None
        if slot is not None:
            slot.tensor = tensor
        saved.append(_describe(tensor, storage, version))
        return tensor

    def forget(self) -> bool:
        """Empties the slots that a retained graph still holds, and says if there are any."""
        slots = [slot for reference in self.slots if (slot := reference()) is not None]
        for slot in slots:
            slot.tensor = slot.version = None
        return bool(slots)

    def check_repeated(self, saved: list[tuple]) -> None:
        """Raises RuntimeError unless the replay saved what the forward did."""
        if [kind[:2] for kind in saved] != [kind[:2] for kind in self.saved]:
            fault = (
                "saved other tensors in its replay than in forward: it is not deterministic, or "
                "requires_grad, train/eval mode or a setting changed between forward and backward"
            )
        elif saved != self.saved:
            fault = MODIFIED
        else:
            return
        self.forget()
        raise RuntimeError(f"{self.name} {fault}")


def _describe(tensor: Tensor, source_storage: int, source_version: int) -> tuple:
    """Shape, dtype and version of a saved tensor; of views of the source, since it was given."""
    is_source = tensor.untyped_storage()._cdata == source_storage
    return tensor.shape, tensor.dtype, tensor._version - (source_version if is_source else 0)


def _terms(sublayer: SubLayer | Terms, piece_length: Lengths) -> list[tuple[SubLayer, int]]:
    """Sub-layers, each with its number of places at a time."""
    terms = sublayer if isinstance(sublayer, Sequence) else [sublayer]
    lengths = [piece_length] * len(terms) if isinstance(piece_length, int) else piece_length
    return list(zip(terms, lengths, strict=True))


def _is_spent(outputs: _Step | _Ends) -> bool:
    """Whether who gave a step its outputs has none left, or may let them go: the ends hold two."""
    if isinstance(outputs, _Ends):
        return not _graph_is_kept()
    return outputs.outputs is None and outputs.inversion is None


def _graph_is_kept() -> bool:
    """Whether the same backward may come again: `retain_graph`, for which torch has no public name.

    So it may where a slot is read outside any backward.
    """
    return torch._C._autograd._get_current_graph_task_keep_graph()  # type: ignore[attr-defined]


def _unpack(slot: _Slot) -> Tensor:
    """Gives backward a saved tensor, rebuilding it if need be."""
    if torch.is_grad_enabled():
        raise RuntimeError(
            "create_graph=True needs derivatives of the replay, which ReversibleCoupling does not "
            "keep: use PlainCoupling (config.reversible=False), and attn_implementation='eager'"
        )
    with slot.step.lock:
        return slot.take()
