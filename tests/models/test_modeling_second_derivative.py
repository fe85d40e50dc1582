"""A second derivative, as of a gradient penalty: right, or refused."""

import pytest
import torch
from torch import Tensor, nn

from tests.models.tiny import dropout_fields, random_ids, tiny_lm

KINDS = ["local", "lsh", "full", "full_shared_qk"]
EMBEDDED = torch.randn(2, 9, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def plain_model(implementation: str, **fields) -> nn.Module:
    defaults = {"reversible": False, "redraw_rotations": False, "hidden_act": "gelu"}
    # In chunks, or transformers would compute the loss in float32.
    model = tiny_lm(**{**defaults, "chunk_size_lm_head": 4, **fields})
    model.set_attn_implementation(implementation)
    return model.double().train()


def penalty(model: nn.Module, whole: bool = False) -> Tensor:
    """The square of the gradient by the embedded tokens."""
    torch.manual_seed(3)  # of dropout
    embedded = EMBEDDED.clone().requires_grad_()
    loss = model(inputs_embeds=embedded, labels=random_ids(2, 9)).loss
    if whole:
        loss.backward(create_graph=True)
        return embedded.grad.square().sum()
    return torch.autograd.grad(loss, embedded, create_graph=True)[0].square().sum()


@pytest.mark.parametrize("fields", [{}, dropout_fields()])
@pytest.mark.parametrize("kind", KINDS)
def test_eager_layers_have_one(kind, fields):
    model = plain_model("eager", attn_layers=[kind], **fields)
    by_weight = [
        model.get_parameter(f"reformer.encoder.layers.0.{name}.weight")
        for name in ("attention.self_attention.value", "feed_forward.dense.dense")
    ]
    found = torch.autograd.grad(penalty(model), by_weight)
    for weight, gradient in zip(by_weight, found, strict=True):
        direction, step = torch.randn_like(weight), 1e-5
        sides = []
        for sign in (1, -1):
            with torch.no_grad():
                weight.add_(direction, alpha=sign * step)
            sides.append(penalty(model).item())
            with torch.no_grad():
                weight.sub_(direction, alpha=sign * step)
        expected = (sides[0] - sides[1]) / (2 * step)
        assert (gradient * direction).sum().item() == pytest.approx(expected, rel=1e-5, abs=1e-7)


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize(
    "fields",
    [
        *[{"attn_layers": [kind]} for kind in ("local", "lsh")],
        {"attn_layers": ["lsh"], **dropout_fields()},
        {"attn_layers": ["lsh"], "attention_scope": "chunk"},
        {"reversible": True},
    ],
)
def test_default_layers_refuse_it(fields, whole):
    model = plain_model("blockwise", **{"attn_layers": ["local", "lsh"], **fields})
    with pytest.raises(RuntimeError, match="create_graph=True.*reversible=False"):
        penalty(model, whole)
