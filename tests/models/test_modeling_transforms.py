"""torch.func: right for plain eager layers, refused in one line for the others."""

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, jacrev, jvp, vmap
from torch.testing import assert_close

from tests.models.tiny import ALL_OPTIONS, WITH_SRU, dropout_fields, random_ids, tiny_lm

# Of torch itself: in its first forward derivative, and where vmap is slow.
pytestmark = [
    pytest.mark.filterwarnings("ignore:`torch.jit.script`:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning"),
]
IDS = random_ids(3, 9)
KINDS = ["local", "lsh", "full", "full_shared_qk"]


def model_of(kind: str, implementation: str = "eager", **fields) -> nn.Module:
    defaults = {"reversible": False, "redraw_rotations": False, "attn_layers": [kind]}
    model = tiny_lm(**{**defaults, **fields}).double().train()
    model.set_attn_implementation(implementation)
    return model


def loss_of(model: nn.Module, weights: dict[str, Tensor], ids: Tensor) -> Tensor:
    return functional_call(model, weights, kwargs={"input_ids": ids, "labels": ids}).loss


@pytest.mark.parametrize("kind", KINDS)
def test_transforms_of_plain_eager_layers(kind):
    model = model_of(kind, **ALL_OPTIONS, **WITH_SRU).eval()  # sparse layers draw in training
    weights = dict(model.named_parameters())
    losses = [loss_of(model, weights, ids[None]) for ids in IDS]
    every = [*weights.values()]
    by_row = [torch.autograd.grad(loss, every, materialize_grads=True) for loss in losses]
    found = vmap(grad(lambda w, ids: loss_of(model, w, ids[None])), in_dims=(None, 0))(weights, IDS)
    for gradient, expected in zip(found.values(), zip(*by_row, strict=True), strict=True):
        assert_close(gradient, torch.stack(expected), rtol=1e-5, atol=1e-7)  # a float32 loss

    embedded = torch.randn(1, 4, 16, dtype=torch.float64)

    def last(x: Tensor) -> Tensor:
        return functional_call(model, weights, kwargs={"inputs_embeds": x}).logits[0, -1]

    jacobian = torch.autograd.functional.jacobian(last, embedded)
    assert_close(jacrev(last)(embedded), jacobian)
    direction = torch.randn_like(embedded)
    assert_close(jvp(last, (embedded,), (direction,))[1], (jacobian * direction).sum((1, 2, 3)))


def test_transforms_with_dropout_follow_the_seed():
    model = model_of("lsh", ff_sparsity=4, ff_sparsity_hard_share=0.5, **dropout_fields())
    weights = dict(model.named_parameters())
    results = []
    for _ in range(2):
        torch.manual_seed(3)
        results.append(grad(lambda w: loss_of(model, w, IDS))(weights))
    assert_close(*results, rtol=0, atol=0)
    randomness = {"in_dims": 0, "randomness": "different"}
    per_row = vmap(lambda ids: loss_of(model, weights, ids[None]), **randomness)(IDS)
    assert per_row.shape == (3,)


@pytest.mark.parametrize(
    ("kind", "fields"),
    [("local", {}), ("lsh", {"attention_scope": "chunk"}), ("full", {"reversible": True})],
)  # fmt: skip
def test_what_has_no_transform_says_so(kind, fields):
    model = model_of(kind, "blockwise", **fields)
    weights = dict(model.named_parameters())
    match = "torch.func does not transform.*'eager'.*reversible=False"
    assert loss_of(model, weights, IDS).requires_grad  # functional_call is none
    with pytest.raises(RuntimeError, match=match):
        grad(lambda w: loss_of(model, w, IDS))(weights)
    with pytest.raises(RuntimeError, match=match):
        vmap(lambda ids: loss_of(model, weights, ids[None]))(IDS)
