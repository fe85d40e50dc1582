"""How often a sub-layer runs, in what state, and for which backwards."""

import subprocess
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from itertools import permutations
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from reformer_hf.nn.reversible import PlainCoupling, ReversibleCoupling
from reformer_hf.nn.surroundings import Surroundings
from tests.nn.reversible_toys import (
    DIM,
    TOKENS,
    FeedForward,
    Model,
    loss_of,
    make_sublayers,
    parameters_of,
)

# --- how often a sub-layer runs


def test_training_step_runs_each_sublayer_twice() -> None:
    model = Model(num_layers=4, cross=True)
    memory = torch.randn(2, 4, DIM)
    model(TOKENS, memory=memory).backward()
    assert model.calls() == [2] * 12


def test_plain_training_step_runs_each_sublayer_once() -> None:
    model = Model()
    model(TOKENS, reversible=False).backward()
    assert model.calls() == [1] * 6


def test_gradient_of_the_last_sublayer_replays_only_that() -> None:
    sublayers = make_sublayers()
    torch.autograd.grad(loss_of(sublayers), parameters_of(sublayers[-1:]))
    assert [sublayer.calls for sublayer in sublayers] == [1, 1, 1, 2]


def test_frozen_sublayers_below_the_first_trainable_one_are_not_replayed() -> None:
    sublayers = make_sublayers()
    for sublayer in sublayers[:2]:
        sublayer.requires_grad_(False)
    loss_of(sublayers).backward()
    assert [sublayer.calls for sublayer in sublayers] == [1, 1, 2, 2]


def test_sublayers_that_saved_nothing_are_inverted_on_demand() -> None:
    class Doubled(nn.Module):
        calls = 0

        def forward(self, source: Tensor) -> Tensor:
            self.calls += 1
            return 2 * source

    sublayers = [FeedForward().double(), Doubled(), Doubled()]
    loss_of(sublayers).backward()
    assert [sublayer.calls for sublayer in sublayers] == [2, 2, 2]


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_without_gradients_it_is_plain(mode: Callable) -> None:
    model = Model().eval()
    with mode():
        assert torch.equal(model(TOKENS), model(TOKENS, reversible=False))
    assert model.calls() == [2] * 6


def test_nothing_requires_grad() -> None:
    model = Model().eval().requires_grad_(False)
    loss = model(TOKENS)
    assert not loss.requires_grad
    assert torch.equal(loss, model(TOKENS, reversible=False))


# --- state


def test_random_state_is_that_of_plain_after_forward_and_untouched_by_backward() -> None:
    model = Model()
    states = []
    for reversible in (False, True):
        torch.manual_seed(1)
        loss = model(TOKENS, reversible)
        states.append(torch.get_rng_state())
    torch.manual_seed(7)
    before = torch.get_rng_state()
    loss.backward()
    assert torch.equal(*states)
    assert torch.equal(torch.get_rng_state(), before)


def test_forward_and_backward_never_write_to_a_module(monkeypatch: pytest.MonkeyPatch) -> None:
    sublayers = [nn.Linear(DIM, DIM).double(), nn.Dropout(0.2), nn.LayerNorm(DIM).double()]

    def refuse(module: nn.Module, name: str, value: object) -> None:
        raise AssertionError(f"{type(module).__name__}.{name} was set")

    monkeypatch.setattr(nn.Module, "__setattr__", refuse)
    loss_of(sublayers).backward()


def autocast_gradients(model: Model, reversible: bool) -> list[Tensor]:
    """Forward under autocast, backward outside it, as PyTorch recommends."""
    torch.manual_seed(1)
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(TOKENS, reversible)
    return list(torch.autograd.grad(loss, list(model.parameters())))


def test_autocast_is_replayed() -> None:
    """The gradients are autocast's, not those of float32."""
    model = Model()
    torch.manual_seed(1)
    exact = torch.autograd.grad(model(TOKENS, reversible=False), list(model.parameters()))
    plain, reversible = (autocast_gradients(model, flag) for flag in (False, True))

    def distance(others: list[Tensor]) -> float:
        squares = [(a - b).square().sum() for a, b in zip(plain, others, strict=True)]
        return float(sum(squares)) ** 0.5

    assert distance(reversible) < 0.01 * distance(list(exact))


def test_a_replay_without_autocast_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    captured = Surroundings.__init__

    def forget_autocast(self: Surroundings, device: torch.device) -> None:
        captured(self, device)
        self.autocast = []

    monkeypatch.setattr(Surroundings, "__init__", forget_autocast)
    with pytest.raises(RuntimeError, match="saved other tensors in its replay"):
        autocast_gradients(Model(), reversible=True)


def test_sublayers_in_bfloat16_between_streams_in_float32() -> None:
    sublayers = [nn.Linear(DIM, DIM).bfloat16() for _ in range(4)]
    narrow = [lambda source, m=m: m(source.bfloat16()) for m in sublayers]
    found = []
    for coupling in (PlainCoupling(), ReversibleCoupling()):
        torch.manual_seed(1)
        loss = loss_of(narrow, coupling, torch.float32)
        assert loss.dtype == torch.float32
        found.append(torch.autograd.grad(loss, parameters_of(sublayers)))
    torch.testing.assert_close(found[1], found[0])


def test_fake_tensors() -> None:
    with FakeTensorMode():
        model = Model()
        loss = model(torch.zeros(2, 5, dtype=torch.long))
        loss.backward()
    assert model.calls() == [2] * 6
    assert model.head.weight.grad.shape == model.head.weight.shape


FAKE_DEVICE = """
import os
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

class NotStarted:
    def is_available(self): return False
    def is_initialized(self): return False
    def get_amp_supported_dtype(self): return []
    def get_rng_state(self, device): raise AssertionError("the device was started")

_setup_privateuseone_for_python_backend("toy", backend_module=NotStarted())
from tests.nn.reversible_toys import Model

with FakeTensorMode(), torch.device("toy"):
    model = Model()
    model(torch.zeros(2, 5, dtype=torch.long)).backward()
assert model.head.weight.grad.device.type == "toy"
assert model.calls() == [2] * 6
os._exit(0)  # the made-up device's autograd thread cannot be stopped
"""


def test_fake_tensors_on_a_device_that_is_not_there() -> None:
    """On a made-up device: PyTorch's CPU builds abort in any backward on fake CUDA tensors."""
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", FAKE_DEVICE], cwd=root, check=True, timeout=120)


# --- more than one backward


def test_retained_graph_gives_the_same_gradients_again() -> None:
    sublayers = make_sublayers()
    loss = loss_of(sublayers)
    first = torch.autograd.grad(loss, parameters_of(sublayers), retain_graph=True)
    second = torch.autograd.grad(loss, parameters_of(sublayers), retain_graph=True)
    last = torch.autograd.grad(loss, parameters_of(sublayers[:1]))
    torch.testing.assert_close(second, first, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(last, first[: len(last)], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("last", ["saves", "saves nothing"])
@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_backwards_through_different_parts_of_a_graph(order: tuple[int, ...], last: str) -> None:
    """Without `retain_graph` torch frees what a backward went through, and nothing else."""

    def gradients(coupling: PlainCoupling) -> list[Tensor]:
        torch.manual_seed(0)
        layers = [nn.Linear(DIM, DIM, dtype=torch.float64) for _ in range(3)]
        streams = [torch.randn(2, 5, DIM, dtype=torch.float64)] * 2
        runs: list[Callable[[Tensor], Tensor]] = [partial(_activated, layer) for layer in layers]
        if last == "saves nothing":
            runs.append(lambda source: source.roll(1, -2))
        for run in runs:
            streams.append(coupling.couple(streams[-2], run, streams[-1]))
        found: dict[int, Tensor] = {}
        for index in order:
            loss = (streams[index + 2] ** 2).sum()
            (found[index],) = torch.autograd.grad(loss, layers[index].weight)
        return [found[index] for index in sorted(found)]

    for mine, theirs in zip(
        gradients(ReversibleCoupling()), gradients(PlainCoupling()), strict=True
    ):
        torch.testing.assert_close(mine, theirs)


def test_a_final_stream_that_changes_between_two_backwards_is_noticed() -> None:
    layers = [nn.Linear(DIM, DIM) for _ in range(2)]
    start, coupling = torch.randn(2, 5, DIM), ReversibleCoupling()
    source = coupling.couple(start, partial(_activated, layers[0]), start)
    output = coupling.couple(start, partial(_activated, layers[1]), source)
    torch.autograd.grad(source.square().sum(), layers[0].weight)
    with torch.no_grad():
        source.mul_(2)
    with pytest.raises(RuntimeError, match="a final stream was modified in place"):
        torch.autograd.grad(output.square().sum(), layers[1].weight)


def _activated(layer: nn.Module, source: Tensor) -> Tensor:
    return layer(source).tanh()


def test_a_saved_tensor_may_be_asked_for_twice() -> None:
    class Square(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x * x

        @staticmethod
        def backward(ctx, gradient):
            return gradient * (ctx.saved_tensors[0] + ctx.saved_tensors[0])

    sublayers = make_sublayers(2)
    found = []
    for square in (torch.square, Square.apply):
        torch.manual_seed(1)
        loss = loss_of([sublayers[0], square, sublayers[1]])
        found.append(torch.autograd.grad(loss, parameters_of(sublayers)))
    torch.testing.assert_close(found[1], found[0], rtol=1e-10, atol=1e-12)
    assert [sublayer.calls for sublayer in sublayers] == [4, 4]


def test_backwards_of_one_graph_in_several_threads() -> None:
    sublayers = make_sublayers()

    def pause_in(sublayer: nn.Module) -> Callable[[Tensor], Tensor]:
        def run_slowly(source: Tensor) -> Tensor:
            time.sleep(0.01)  # lets other threads in while the random state is the forward's
            return sublayer(source)

        return run_slowly

    loss = loss_of([pause_in(sublayer) for sublayer in sublayers])
    expected = torch.autograd.grad(loss, parameters_of(sublayers), retain_graph=True)
    found: list = []

    def work() -> None:
        found.append(torch.autograd.grad(loss, parameters_of(sublayers), retain_graph=True))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    for gradients in found:
        torch.testing.assert_close(gradients, expected, rtol=1e-10, atol=1e-12)


def test_create_graph_is_refused() -> None:
    sublayers = make_sublayers()
    with pytest.raises(RuntimeError, match="create_graph=True.*PlainCoupling"):
        torch.autograd.grad(loss_of(sublayers), parameters_of(sublayers), create_graph=True)
