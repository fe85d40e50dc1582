"""Memory: flat in depth, and freed by reference counting alone."""

import gc
import weakref
from collections.abc import Iterator

import pytest
import torch

from reformer_hf.nn.reversible import ReversibleCoupling
from tests.nn.reversible_toys import DIM, TOKENS, LiveBytes, Model, make_sublayers, run_stack


@pytest.fixture
def no_gc() -> Iterator[None]:
    """Whatever is freed in the test is freed by reference counting."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def peak_bytes(num_layers: int, reversible: bool) -> tuple[int, int]:
    """Bytes made by forward and alive after it, and the peak of the whole training step."""
    model = Model(num_layers)
    tokens = torch.randint(0, 11, (1, 256))
    with LiveBytes() as live:
        loss = model(tokens, reversible)
        held = live.now
        loss.backward()
    return held, live.peak - sum(p.numel() * p.element_size() for p in model.parameters())


def test_memory_does_not_grow_with_depth(no_gc: None) -> None:
    (held_2, peak_2), (held_8, peak_8) = (peak_bytes(n, reversible=True) for n in (2, 8))
    assert held_8 == held_2
    assert peak_8 <= peak_2
    stream = 256 * DIM * 4
    assert held_2 < 8 * stream  # two streams, and what embedding, norm and head keep
    (plain_2, _), (plain_8, _) = (peak_bytes(n, reversible=False) for n in (2, 8))
    assert plain_8 > 3 * plain_2 > 9 * held_2


def test_a_retained_graph_keeps_no_more_than_one_step(no_gc: None) -> None:
    found = []
    for num_layers in (2, 8):
        model = Model(num_layers)
        with LiveBytes() as live:
            loss = model(torch.randint(0, 11, (1, 256)))
            loss.backward(retain_graph=True)
            model.zero_grad()
            found.append(live.now)
    assert found[1] == found[0]


@pytest.mark.parametrize("retained", [False, True])
def test_the_last_streams_are_let_go_of_once_they_are_copied(no_gc: None, retained: bool) -> None:
    """A retained graph needs them again."""
    alive = []

    def last(source: torch.Tensor) -> torch.Tensor:
        inner = 2 * source
        if inner.requires_grad:
            inner.register_hook(lambda _: alive.append([ref() is not None for ref in ends]))
        return inner.square()  # whose backward asks for what the step saved

    stream = torch.randn(2, 5, DIM, requires_grad=True)
    coupling = ReversibleCoupling()
    middle = coupling.couple(stream, torch.tanh, stream)
    loss = coupling.couple(stream, last, middle).sum()
    assert coupling._ends is not None
    ends = [weakref.ref(end) for end in coupling._ends.streams]
    del coupling, middle
    loss.backward(retain_graph=retained)
    assert alive == [[True, retained]]  # the source is read, the output was copied


@pytest.mark.parametrize("backward", [True, False])
def test_everything_is_freed_without_garbage_collection(no_gc: None, backward: bool) -> None:
    model = Model()
    with LiveBytes() as live:
        loss = model(TOKENS)
        if backward:
            loss.backward()
        del loss
        model.zero_grad()
    assert live.now == 0


@pytest.mark.parametrize("backward", [True, False])
def test_what_a_budget_keeps_is_freed_without_garbage_collection(
    no_gc: None, backward: bool
) -> None:
    """Also of a branch that backward never visits."""

    def with_idle_branch(source: torch.Tensor) -> torch.Tensor:
        weights = source.softmax(-1)
        weights.square().exp()
        return weights * source

    stream = torch.randn(2, 5, DIM, dtype=torch.float64, requires_grad=True)
    with LiveBytes() as live:
        loss = run_stack(ReversibleCoupling(budget=2**20), stream, [with_idle_branch] * 3)[1].sum()
        if backward:
            loss.backward()
        del loss
        stream.grad = None
    assert live.now == 0


def test_backward_frees_the_steps_while_the_outputs_live_on(no_gc: None) -> None:
    sublayers = make_sublayers()
    stream = torch.randn(2, 5, DIM, dtype=torch.float64)
    coupling = ReversibleCoupling()
    target, source = run_stack(coupling, stream, sublayers)
    last_step = weakref.ref(coupling._last)
    del coupling
    assert last_step() is not None
    (target * source).sum().backward()
    assert last_step() is None
