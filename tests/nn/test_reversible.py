"""Reversible coupling gives plain autograd's gradients, whatever is frozen, asked for or shared."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from reformer_hf.nn.reversible import Decision, PlainCoupling, ReversibleCoupling
from tests.nn.reversible_toys import (
    DIM,
    TOKENS,
    Attention,
    FeedForward,
    LowRankAdapter,
    Model,
    run_stack,
)


def gradients(model: Model, reversible: bool, **kwargs) -> dict[str, Tensor]:
    """Gradients of all trainable parameters, from the same random state each time."""
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    torch.manual_seed(1)
    loss = model(TOKENS, reversible, **kwargs)
    return dict(zip(parameters, torch.autograd.grad(loss, parameters.values()), strict=True))


def assert_equals_plain(model: Model, **kwargs) -> None:
    plain, reversible = (gradients(model, flag, **kwargs) for flag in (False, True))
    assert all(gradient.count_nonzero() for gradient in plain.values())
    torch.testing.assert_close(reversible, plain, rtol=1e-10, atol=1e-12)


def assert_stack_equals_plain(
    sublayers: list[Callable[[Tensor], Tensor]],
    wanted: list[Tensor],
    loss: Callable[[Tensor, Tensor], Tensor] = lambda x1, x2: (x1 * x2.cos()).sum(),
    stream: Tensor | None = None,
) -> None:
    """Compares the gradients of a stack of sub-layers, of what a loss takes from both streams."""
    stream = torch.randn(2, 5, DIM, dtype=torch.float64) if stream is None else stream
    found = []
    for coupling in (PlainCoupling(), ReversibleCoupling()):
        torch.manual_seed(1)
        value = loss(*run_stack(coupling, stream, sublayers))
        found.append(torch.autograd.grad(value, wanted, allow_unused=True))
    torch.testing.assert_close(found[1], found[0], rtol=1e-10, atol=1e-12)


def test_gradients_with_dropout() -> None:
    assert_equals_plain(Model().double())


def test_gradients_in_float32_err_no_more_than_plain_does() -> None:
    model = Model(num_layers=6)
    exact = gradients(model.double(), reversible=False)
    plain, reversible = (gradients(model.float(), flag) for flag in (False, True))
    for name, truth in exact.items():
        rounding = 12 * torch.finfo(torch.float32).eps * truth.abs().max()
        allowed = 2 * (plain[name] - truth).abs().max() + rounding
        assert (reversible[name] - truth).abs().max() <= allowed, name


def test_gradients_in_eval_mode() -> None:
    assert_equals_plain(Model().double().eval())


def test_loss_is_the_same() -> None:
    model = Model()
    losses = []
    for reversible in (False, True):
        torch.manual_seed(1)
        losses.append(model(TOKENS, reversible))
    assert torch.equal(*losses)


@pytest.mark.parametrize("first_backward_first", [True, False])
def test_two_forwards_before_the_backwards(first_backward_first: bool) -> None:
    model = Model().double()
    found = []
    for reversible in (False, True):
        torch.manual_seed(1)
        losses = [model(TOKENS, reversible), model(TOKENS.flip(1), reversible)]
        model.zero_grad()
        for loss in losses if first_backward_first else losses[::-1]:
            loss.backward()
        found.append([p.grad.clone() for p in model.parameters()])
    torch.testing.assert_close(found[1], found[0], rtol=1e-10, atol=1e-12)


def test_two_forwards_in_one_loss() -> None:
    model = Model().double()
    found = []
    for reversible in (False, True):
        torch.manual_seed(1)
        loss = model(TOKENS, reversible) * model(TOKENS.flip(1), reversible)
        found.append(torch.autograd.grad(loss, list(model.parameters())))
    torch.testing.assert_close(found[1], found[0], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    "frozen",
    [
        ["embedding"],
        ["layers.1"],
        ["layers.1.attention", "layers.2.feed_forward"],
        ["embedding", "layers.0"],
        ["embedding", "layers.0", "layers.1.attention"],
        ["embedding", "layers"],
        ["layers"],
        ["layers.2", "layer_norm", "head"],
    ],
    ids=", ".join,
)
def test_frozen_modules(frozen: list[str]) -> None:
    model = Model().double()
    for name in frozen:
        model.get_submodule(name).requires_grad_(False)
    assert_equals_plain(model)


def test_low_rank_adapters_on_a_frozen_model() -> None:
    model = Model().double().requires_grad_(False)
    for layer in model.layers:
        layer.attention.query = LowRankAdapter(layer.attention.query).double()
    assert_equals_plain(model)


def test_inputs_that_require_grad_before_frozen_layers() -> None:
    stream = torch.randn(2, 5, DIM, dtype=torch.float64, requires_grad=True)
    sublayers = [Attention().double(), FeedForward().double(), Attention().double()]
    for sublayer in sublayers:
        sublayer.requires_grad_(False)
    assert_stack_equals_plain(sublayers, [stream], stream=stream)


def test_streams_modified_in_place_before_the_first_step() -> None:
    stream = torch.randn(2, 5, DIM, dtype=torch.float64).mul_(2)
    assert stream._version > 0
    sublayers = [Attention().double(), FeedForward().double()]
    assert_stack_equals_plain(sublayers, list(sublayers[0].parameters()), stream=stream)


@pytest.mark.parametrize("index", range(6))
def test_autograd_grad_of_one_sublayer(index: int) -> None:
    sublayers = [kind().double() for _ in range(3) for kind in (Attention, FeedForward)]
    assert_stack_equals_plain(sublayers, list(sublayers[index].parameters()))


@pytest.mark.parametrize("which", [0, 1])
def test_loss_of_one_stream(which: int) -> None:
    sublayers = [kind().double() for _ in range(2) for kind in (Attention, FeedForward)]
    parameters = [p for sublayer in sublayers for p in sublayer.parameters()]
    assert_stack_equals_plain(sublayers, parameters, lambda *streams: streams[which].cos().sum())


def test_blocks_of_three_sublayers_with_a_side_input() -> None:
    model = Model(cross=True).double()
    encoder = nn.Linear(DIM, DIM).double()
    inputs = torch.randn(2, 4, DIM, dtype=torch.float64)
    parameters = [*encoder.parameters(), *model.parameters()]
    found = []
    for reversible in (False, True):
        torch.manual_seed(1)
        loss = model(TOKENS, reversible, memory=encoder(inputs).tanh())
        found.append(torch.autograd.grad(loss, parameters))
    assert found[0][0].count_nonzero()
    torch.testing.assert_close(found[1], found[0], rtol=1e-10, atol=1e-12)


SUBLAYERS: dict[str, Callable[[], nn.Module]] = {
    "attention": Attention,
    "feed_forward": FeedForward,
    "adapter": lambda: LowRankAdapter(nn.Linear(DIM, DIM)),
    "dropout": lambda: nn.Dropout(0.3),
    "tanh": nn.Tanh,  # saves its output
    "identity": nn.Identity,  # saves nothing
    "bias": lambda: nn.Linear(DIM, DIM).requires_grad_(False),
}


@given(data=st.data())
def test_any_list_of_sublayers_any_of_them_frozen(data: st.DataObject) -> None:
    names = data.draw(st.lists(st.sampled_from(sorted(SUBLAYERS)), min_size=1, max_size=6))
    sublayers = [SUBLAYERS[name]().double() for name in names]
    for sublayer in sublayers:
        if data.draw(st.booleans(), label="frozen"):
            sublayer.requires_grad_(False)
    stream = torch.randn(1, 3, DIM, dtype=torch.float64)
    stream.requires_grad_(data.draw(st.booleans(), label="stream requires grad"))
    which = data.draw(st.sampled_from(["both", "target", "source"]), label="streams in the loss")

    def loss(x1: Tensor, x2: Tensor) -> Tensor:
        return {"both": x1.sin() * x2.cos(), "target": x1.sin(), "source": x2.sin()}[which].sum()

    parameters = [p for sublayer in sublayers for p in sublayer.parameters()]
    wanted = [tensor for tensor in [stream, *parameters] if tensor.requires_grad]
    if loss(*run_stack(PlainCoupling(), stream, sublayers)).requires_grad:
        assert_stack_equals_plain(sublayers, wanted, loss, stream)


def test_streams_passed_on_as_views() -> None:
    """FSDP2 does so between layers."""

    class Pass(torch.autograd.Function):
        @staticmethod
        def forward(ctx, *tensors):
            return tensors

        @staticmethod
        def backward(ctx, *gradients):
            return gradients

    model = Model().double()
    expected = gradients(model, reversible=False)
    for layer in model.layers:
        layer.register_forward_hook(lambda module, args, result: Pass.apply(*result))
    torch.testing.assert_close(gradients(model, reversible=True), expected, rtol=1e-10, atol=1e-12)


def test_activation_checkpointing_within_a_sublayer() -> None:
    inner = [Attention().double(), FeedForward().double()]
    sublayers = [lambda source, m=m: checkpoint(m, source, use_reentrant=False) for m in inner]
    assert_stack_equals_plain(sublayers, [p for m in inner for p in m.parameters()])


@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")  # dynamo itself looks at it
@pytest.mark.parametrize("whole_model", [True, False])
def test_compiled_models_and_sublayers(whole_model: bool) -> None:
    model = Model(num_layers=2, dropout=0.0).double()
    expected = gradients(model, reversible=False)
    torch.compiler.reset()
    for module in [model] if whole_model else [layer.attention for layer in model.layers]:
        module.compile(backend="aot_eager")
    torch.testing.assert_close(gradients(model, reversible=True), expected, rtol=1e-10, atol=1e-12)


def test_decision_is_made_once() -> None:
    choices = iter([3, 4])
    decision: Decision[int] = Decision()
    assert [decision.recall(lambda: next(choices)) for _ in range(3)] == [3, 3, 3]
    nothing: Decision[None] = Decision()
    calls = []
    assert [nothing.recall(lambda: calls.append(1)) for _ in range(2)] == [None, None]
    assert calls == [1]


def test_replay_repeats_the_decision_of_its_forward() -> None:
    """Here every new decision falls differently, as a nearly tied argmax might."""
    weight = torch.randn(4, DIM, DIM, dtype=torch.float64, requires_grad=True)

    def gradient(coupling: PlainCoupling) -> Tensor:
        choices = iter(range(4))

        def sublayer() -> Callable[[Tensor], Tensor]:
            decision: Decision[int] = Decision()
            return lambda source: source @ weight[decision.recall(lambda: next(choices))]

        stream = torch.ones(1, 2, DIM, dtype=torch.float64)
        streams = run_stack(coupling, stream, [sublayer(), sublayer()])
        return torch.autograd.grad((streams[0] * streams[1].cos()).sum(), weight)[0]

    torch.testing.assert_close(gradient(ReversibleCoupling()), gradient(PlainCoupling()))
