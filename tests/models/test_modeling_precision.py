"""Precision: float32 streams in models of lower precision, autocast, devices."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.testing import assert_close

from tests.models.tiny import (
    ROTARY_CONVOLUTION,
    SCOPES,
    WITH_NGRAMS,
    dropout_fields,
    gradients,
    loss_and_gradients,
    random_ids,
    tiny_lm,
)

KINDS = ["local", "lsh", "full", "full_shared_qk"]
IDS = random_ids(2, 21)


def stream_dtypes(model: nn.Module, ids: Tensor = IDS) -> set[torch.dtype]:
    """The dtypes of both streams before and after each layer."""
    dtypes = set()

    def record(module: nn.Module, inputs: tuple, outputs: tuple) -> None:
        dtypes.update(stream.dtype for stream in (*inputs[:2], *outputs[:2]))

    hooks = [layer.register_forward_hook(record) for layer in model.reformer.encoder.layers]
    model(ids)
    for hook in hooks:
        hook.remove()
    return dtypes


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("positions", ["axial", "learned", "rotary", "none"])
def test_streams_are_float32_or_wider(dtype, positions):
    model = tiny_lm(position_embedding_type=positions, attn_layers=KINDS).to(dtype)
    expected = torch.float64 if dtype == torch.float64 else torch.float32
    assert stream_dtypes(model) == {expected}
    assert model(IDS).logits.dtype == dtype


def matmul_dtypes(run: Callable[[], object]) -> set[torch.dtype]:
    """The dtypes that the matrix products of a computation take."""
    dtypes = set()

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            if func in (torch.ops.aten.mm.default, torch.ops.aten.addmm.default):
                dtypes.update(arg.dtype for arg in args if isinstance(arg, Tensor))
            return func(*args, **(kwargs or {}))

    with Watch():
        run()
    return dtypes


def test_autocast_reaches_the_projections_and_not_the_streams():
    model = tiny_lm(attn_layers=KINDS)

    def forward() -> None:
        with torch.autocast("cpu", torch.bfloat16):
            assert stream_dtypes(model) == {torch.float32}

    assert matmul_dtypes(forward) == {torch.bfloat16}
    assert matmul_dtypes(lambda: model(IDS)) == {torch.float32}


def under_autocast(model: nn.Module) -> tuple[Tensor, dict[str, Tensor]]:
    model.zero_grad()
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(IDS, labels=IDS).loss
    loss.backward()  # outside, as Trainer does: the replay restores it
    return loss.detach(), gradients(model)


@pytest.mark.parametrize("scope", SCOPES)
def test_gradients_under_autocast_equal_plain_ones(scope):
    results = []
    for reversible in (True, False):
        fields = {"attention_scope": scope, **ROTARY_CONVOLUTION, **dropout_fields()}
        model = tiny_lm(reversible=reversible, attn_layers=KINDS, **fields).train()
        add_in_steps(model)
        torch.manual_seed(7)
        results.append(under_autocast(model))
    (loss, found), (plain_loss, expected) = results
    assert torch.equal(loss, plain_loss)
    for name, gradient in expected.items():
        assert gradient.dtype == torch.float32
        assert_close(found[name], gradient, rtol=0, atol=gradient.abs().max().item() * 1e-5)


def add_in_steps(model: nn.Module) -> None:
    """Round what goes into the streams to multiples of 2^-12, so that sums of it are exact.

    Then the rebuilt streams are those of forward bit for bit. Otherwise they differ by float32
    rounding, and a cast to bfloat16 rounds the other way now and then: by how much that moves
    gradients depends on the processor.
    """

    def in_steps(module: nn.Module, inputs: tuple, output: Tensor | tuple) -> Tensor | tuple:
        added = output if isinstance(output, Tensor) else output[0]
        wide = added.float()
        wide = wide + ((wide * 2**12).round() / 2**12 - wide).detach()
        return wide if isinstance(output, Tensor) else (wide, *output[1:])

    model.reformer.embeddings.register_forward_hook(in_steps)
    for layer in model.reformer.encoder.layers:
        layer.attention.register_forward_hook(in_steps)
        layer.feed_forward.register_forward_hook(in_steps)


def relative_error(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    difference = sum((found[name].double() - expected[name]).square().sum() for name in expected)
    return float((difference / sum(g.square().sum() for g in expected.values())).sqrt())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("scope", SCOPES)
def test_low_precision_parameters_train_with_the_error_of_their_rounding(dtype, scope):
    """No LSH layer here: in low precision some bucket ids flip, and then outputs jump."""
    fields = {"attn_layers": ["local", "full", "full_shared_qk"], "attention_scope": scope}
    if scope == "band":
        fields |= ROTARY_CONVOLUTION
    low = tiny_lm(**fields).to(dtype).train()
    exact = tiny_lm(**fields).to(dtype).double().train()  # the same rounded weights
    loss, found = loss_and_gradients(low, input_ids=IDS, labels=IDS)
    expected_loss, expected = loss_and_gradients(exact, input_ids=IDS, labels=IDS)
    assert loss.dtype == torch.float32 and {g.dtype for g in found.values()} == {dtype}
    epsilon = torch.finfo(dtype).eps
    assert abs(loss - expected_loss) < 4 * epsilon * expected_loss
    assert relative_error(found, expected) < 16 * epsilon
    plain = tiny_lm(reversible=False, **fields).to(dtype).train()
    plain_error = relative_error(loss_and_gradients(plain, input_ids=IDS, labels=IDS)[1], expected)
    assert relative_error(found, expected) < 1.5 * plain_error


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_lsh_layers_run_in_low_precision(dtype):
    fields = {"attn_layers": ["lsh", "lsh"], "deduplicate_rounds": True, **WITH_NGRAMS}
    model = tiny_lm(**fields).to(dtype).train()
    loss, found = loss_and_gradients(model, input_ids=IDS, labels=IDS)
    assert loss.isfinite() and all(gradient.isfinite().all() for gradient in found.values())
    assert all(gradient.any() for gradient in found.values())


FAKE = torch.device("meta")
"""A device other than the CPU for fake tensors; operations that mix the two raise.

It is the meta device, because autograd wants a device that torch was built for.
"""

ROW_KINDS = {
    "plain": lambda device: {},
    "padded": lambda device: {"attention_mask": torch.ones(2, 21, device=device)},
    "packed": lambda device: {"seq_idx": torch.zeros(2, 21, device=device).long()},
    "restarting": lambda device: {"position_ids": torch.zeros(2, 21, device=device).long()},
}


@pytest.mark.parametrize(
    ("scope", "rows", "implementation"),
    [
        ("chunk", "plain", "auto"),
        ("chunk", "padded", "auto"),
        *(("band", rows, "auto") for rows in ROW_KINDS),
        ("chunk", "padded", "triton"),
        ("band", "packed", "triton"),
    ],
)
def test_nothing_strays_from_the_device(scope, rows, implementation):
    with FakeTensorMode():
        with FAKE:
            model = tiny_lm(
                attention_scope=scope,
                attn_layers=["local", "lsh", "full_shared_qk"],
                deduplicate_rounds=implementation != "triton",
                num_buckets=[2, 4],
                chunk_size_lm_head=11,
                **dropout_fields(),
            ).train()
            model.set_attn_implementation(implementation)
            ids = torch.zeros(2, 21, dtype=torch.long)
            inputs = ROW_KINDS[rows](FAKE)
        # Outside, a tensor made without a device would be on the CPU.
        loss, found = loss_and_gradients(model, input_ids=ids, labels=ids, **inputs)
        assert {tensor.device.type for tensor in (loss, *found.values())} == {"meta"}
        assert len(found) == len(list(model.parameters()))
        with pytest.raises(RuntimeError, match="device"):
            model.lm_head.bias + torch.zeros(1)
        # Found without looking at the device's numbers, where an index error would be obscure.
        with pytest.raises(ValueError, match="position 96 is outside"):
            model(torch.zeros(1, 97, dtype=torch.long, device=FAKE))
