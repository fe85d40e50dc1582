"""What a replay repeats, costs, leaves behind and refuses."""

import gc
import threading
import time
import weakref
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from reformer_hf.nn.reversible import PlainCoupling, ReversibleCoupling
from reformer_hf.nn.surroundings import Surroundings
from tests.nn.reversible_toys import DIM, Attention, FeedForward, LiveBytes, Model, run_stack

TOKENS = torch.randint(0, 11, (2, 5), generator=torch.Generator().manual_seed(0))


@pytest.fixture
def no_gc() -> Iterator[None]:
    """Whatever is freed in the test is freed by reference counting."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def stack(num_sublayers: int = 4) -> list[nn.Module]:
    kinds = (Attention, FeedForward)
    return [kinds[index % 2]().double() for index in range(num_sublayers)]


def run(sublayers: list, coupling: PlainCoupling | None = None, dtype=torch.float64) -> Tensor:
    """A loss of both streams."""
    stream = torch.randn(2, 5, DIM, dtype=dtype)
    target, source = run_stack(coupling or ReversibleCoupling(), stream, sublayers)
    return (target * source.cos()).sum()


def parameters(sublayers: list[nn.Module]) -> list[Tensor]:
    return [p for sublayer in sublayers for p in sublayer.parameters()]


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
    sublayers = stack()
    torch.autograd.grad(run(sublayers), parameters(sublayers[-1:]))
    assert [sublayer.calls for sublayer in sublayers] == [1, 1, 1, 2]


def test_frozen_sublayers_below_the_first_trainable_one_are_not_replayed() -> None:
    sublayers = stack()
    for sublayer in sublayers[:2]:
        sublayer.requires_grad_(False)
    run(sublayers).backward()
    assert [sublayer.calls for sublayer in sublayers] == [1, 1, 2, 2]


def test_sublayers_that_saved_nothing_are_inverted_on_demand() -> None:
    class Doubled(nn.Module):
        calls = 0

        def forward(self, source: Tensor) -> Tensor:
            self.calls += 1
            return 2 * source

    sublayers = [FeedForward().double(), Doubled(), Doubled()]
    run(sublayers).backward()
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
    run(sublayers).backward()


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
        loss = run(narrow, coupling, torch.float32)
        assert loss.dtype == torch.float32
        found.append(torch.autograd.grad(loss, parameters(sublayers)))
    torch.testing.assert_close(found[1], found[0])


def test_fake_tensors() -> None:
    with FakeTensorMode():
        model = Model()
        loss = model(torch.zeros(2, 5, dtype=torch.long))
        loss.backward()
    assert model.calls() == [2] * 6
    assert model.head.weight.grad.shape == model.head.weight.shape


# --- memory


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


def test_backward_frees_the_steps_while_the_outputs_live_on(no_gc: None) -> None:
    sublayers = stack()
    stream = torch.randn(2, 5, DIM, dtype=torch.float64)
    step = weakref.WeakSet()
    coupling = ReversibleCoupling()
    target, source = run_stack(coupling, stream, sublayers)
    step.add(coupling._last)
    del coupling
    assert len(step) == 1
    (target * source).sum().backward()
    assert len(step) == 0


# --- more than one backward


def test_retained_graph_gives_the_same_gradients_again() -> None:
    sublayers = stack()
    loss = run(sublayers)
    first = torch.autograd.grad(loss, parameters(sublayers), retain_graph=True)
    second = torch.autograd.grad(loss, parameters(sublayers), retain_graph=True)
    last = torch.autograd.grad(loss, parameters(sublayers[:1]))
    torch.testing.assert_close(second, first, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(last, first[: len(last)], rtol=1e-12, atol=1e-12)


def test_a_saved_tensor_may_be_asked_for_twice() -> None:
    class Square(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x * x

        @staticmethod
        def backward(ctx, gradient):
            return gradient * (ctx.saved_tensors[0] + ctx.saved_tensors[0])

    sublayers = stack(2)
    found = []
    for square in (torch.square, Square.apply):
        torch.manual_seed(1)
        loss = run([sublayers[0], square, sublayers[1]])
        found.append(torch.autograd.grad(loss, parameters(sublayers)))
    torch.testing.assert_close(found[1], found[0], rtol=1e-10, atol=1e-12)
    assert [sublayer.calls for sublayer in sublayers] == [4, 4]


def test_backwards_of_one_graph_in_several_threads() -> None:
    sublayers = stack()

    def pause_in(sublayer: nn.Module) -> Callable[[Tensor], Tensor]:
        def run_slowly(source: Tensor) -> Tensor:
            time.sleep(0.01)  # lets other threads in while the random state is the forward's
            return sublayer(source)

        return run_slowly

    loss = run([pause_in(sublayer) for sublayer in sublayers])
    expected = torch.autograd.grad(loss, parameters(sublayers), retain_graph=True)
    found: list = []

    def work() -> None:
        found.append(torch.autograd.grad(loss, parameters(sublayers), retain_graph=True))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    for gradients in found:
        torch.testing.assert_close(gradients, expected, rtol=1e-10, atol=1e-12)


def test_create_graph_is_refused() -> None:
    sublayers = stack()
    with pytest.raises(RuntimeError, match="create_graph=True.*PlainCoupling"):
        torch.autograd.grad(run(sublayers), parameters(sublayers), create_graph=True)


# --- what is refused


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_narrow_streams_are_refused(dtype: torch.dtype) -> None:
    with pytest.raises(ValueError, match=f"dtype is {dtype}.*float32"):
        run([nn.Identity()], dtype=dtype)


def test_streams_out_of_turn_are_refused() -> None:
    x1, x2 = torch.randn(2, 1, 3, DIM, requires_grad=True)
    coupling = ReversibleCoupling()
    x1 = coupling.couple(x1, torch.tanh, x2)
    with pytest.raises(ValueError, match="source and the output of the last couple"):
        coupling.couple(x1, torch.tanh, x2)


@pytest.mark.parametrize(
    "change", [lambda stream: stream + 1, lambda stream: stream.add_(1)], ids=["copy", "in place"]
)
@pytest.mark.parametrize("which", ["target", "source"])
def test_streams_changed_between_the_steps_are_refused(
    change: Callable[[Tensor], Tensor], which: str
) -> None:
    streams = dict(zip(("source", "target"), torch.randn(2, 1, 3, DIM).unbind(), strict=True))
    parameter = nn.Linear(DIM, DIM)
    coupling = ReversibleCoupling()
    output = coupling.couple(streams["target"], parameter, streams["source"])
    streams = {"target": streams["source"], "source": output}
    streams[which] = change(streams[which])
    with pytest.raises(ValueError, match="not changed in between"):
        coupling.couple(streams["target"], parameter, streams["source"])


def test_final_streams_changed_in_place_are_noticed() -> None:
    target, source = run_stack(ReversibleCoupling(), torch.randn(1, 3, DIM), [FeedForward()] * 2)
    loss = (target + source).sum()
    with torch.no_grad():
        source.mul_(2)
    with pytest.raises(RuntimeError, match="final stream was modified in place"):
        loss.backward()


def test_a_sublayer_that_saves_something_else_is_noticed() -> None:
    lengths = iter([3, 4])

    def sublayer(source: Tensor) -> Tensor:
        return source + torch.ones(next(lengths), requires_grad=True).exp().sum()

    with pytest.raises(RuntimeError, match=r"<locals>\.sublayer saved other tensors"):
        run([sublayer]).backward()


def test_requires_grad_changed_before_backward_is_noticed() -> None:
    sublayers = stack()
    loss = run(sublayers)
    sublayers[2].requires_grad_(False)
    with pytest.raises(RuntimeError, match="Attention saved other tensors.*requires_grad"):
        loss.backward()


def test_train_mode_changed_before_backward_is_noticed() -> None:
    sublayers = stack()
    loss = run(sublayers)
    for sublayer in sublayers:
        sublayer.eval()
    with pytest.raises(RuntimeError, match="FeedForward saved other tensors.*train/eval"):
        loss.backward()


def test_a_parameter_changed_before_backward_is_noticed() -> None:
    """As plain autograd does; here it would spoil the gradients of all sub-layers below."""
    sublayers = stack()
    loss = run(sublayers)
    with torch.no_grad():
        sublayers[1][1].weight.mul_(2)
    with pytest.raises(RuntimeError, match="FeedForward uses a tensor that was modified in place"):
        loss.backward()


def test_differentiation_within_a_forward_is_refused() -> None:
    def sublayer(source: Tensor) -> Tensor:
        weight = torch.ones((), dtype=source.dtype, requires_grad=True)
        return source * torch.autograd.grad(weight.exp(), weight)[0]

    with pytest.raises(RuntimeError, match="sublayer was differentiated within its own forward"):
        run([sublayer])
