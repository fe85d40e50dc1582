"""A projection that normalises its stream piece by piece is the one that does so at once."""

import pytest
import torch
from torch.testing import assert_close

from reformer_hf.nn import normalised_projection
from reformer_hf.nn.attention import LocalSelfAttention
from reformer_hf.nn.layer_norm import StreamLayerNorm, cast_for_products
from reformer_hf.nn.normalised_projection import project_normalised
from tests.nn.reversible_toys import LiveBytes

BATCH, TOKENS, DIM, OUT = 2, 11, 16, 6


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch):
    monkeypatch.setattr(normalised_projection, "CPU_PLACES", 8)  # 4 of each row, the last 3


def make_inputs(dtype, stream_dtype=None):
    torch.manual_seed(0)
    norm = StreamLayerNorm(DIM, eps=1e-5).to(dtype)
    torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(norm.bias)
    stream = 3 + torch.randn(BATCH, TOKENS, DIM, dtype=stream_dtype or dtype)
    return stream.requires_grad_(), norm, torch.randn(OUT, DIM, dtype=dtype, requires_grad=True)


def at_once(stream, norm, weight):
    return torch.nn.functional.linear(cast_for_products(norm(stream)), weight)


def results_of(project, inputs, autocast=False):
    stream, norm, weight = inputs
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        product = project(stream, norm, weight)
    torch.manual_seed(1)
    wanted = [x for x in (stream, norm.weight, norm.bias, weight) if x.requires_grad]
    return product, *torch.autograd.grad(product, wanted, torch.randn_like(product))


def test_values_and_gradients():
    inputs = make_inputs(torch.float64)
    assert_close(results_of(project_normalised, inputs), results_of(at_once, inputs))


def test_a_norm_without_addends():
    stream, norm, weight = make_inputs(torch.float64)
    norm.bias = None
    product = project_normalised(stream, norm, weight)
    expected = at_once(stream, norm, weight)
    assert_close(product, expected)
    gradients = [torch.autograd.grad(x.sum(), (stream, norm.weight)) for x in (product, expected)]
    assert_close(*gradients)


@pytest.mark.parametrize("frozen", range(4))
def test_gradients_where_something_is_frozen(frozen):
    stream, norm, weight = inputs = make_inputs(torch.float64)
    (stream, norm.weight, norm.bias, weight)[frozen].requires_grad_(False)
    assert_close(results_of(project_normalised, inputs), results_of(at_once, inputs))


@pytest.mark.parametrize(
    ("dtype", "autocast"), [(torch.bfloat16, False), (torch.float16, False), (torch.float32, True)]
)
def test_a_wide_stream_in_a_narrow_model(dtype, autocast):
    inputs = make_inputs(dtype, torch.float32)
    found, expected = (
        results_of(project, inputs, autocast) for project in (project_normalised, at_once)
    )
    assert [x.dtype for x in found] == [x.dtype for x in expected]
    assert torch.equal(found[0], expected[0])
    for mine, theirs in zip(found, expected, strict=True):
        assert_close(mine, theirs, rtol=0.04, atol=0.04 * theirs.abs().max().item())


def test_backward_under_autocast_is_no_other():
    inputs = make_inputs(torch.float32)
    expected = results_of(at_once, inputs)
    stream, norm, weight = inputs
    product = project_normalised(stream, norm, weight)
    torch.manual_seed(1)
    with torch.autocast("cpu", torch.bfloat16):
        found = torch.autograd.grad(
            product, (stream, norm.weight, norm.bias, weight), torch.randn_like(product)
        )
    assert_close(found, expected[1:])


def test_nothing_new_is_kept():
    """Beside the parameters autograd keeps what it was given, no normalised copy."""
    stream, norm, weight = make_inputs(torch.float32)
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(saved.append, lambda x: x):
        project_normalised(stream, norm, weight)
    large = [x for x in saved if x.numel() >= stream.numel()]
    assert [x.data_ptr() for x in large] == [stream.data_ptr()]


@pytest.mark.parametrize("places", [64, 10**6])
def test_products_are_not_held_twice(places, monkeypatch):
    """Pieces that are joined at the end are, and glibc does not take back what they had."""
    monkeypatch.setattr(normalised_projection, "CPU_PLACES", places)
    stream, norm, _ = make_inputs(torch.float32)
    weight = torch.randn(8 * DIM, DIM)
    stream = stream.repeat(1, 100, 1)
    with LiveBytes() as live:
        product = project_normalised(stream, norm, weight)
    assert live.peak < 1.5 * product.nbytes


def test_it_has_a_first_derivative_only():
    stream, norm, weight = make_inputs(torch.float32)
    product = project_normalised(stream, norm, weight)
    with pytest.raises(RuntimeError, match="create_graph=True"):
        torch.autograd.grad(product.sum(), stream, create_graph=True)


@pytest.mark.parametrize(
    ("heads", "fields"),
    [(None, {}), (slice(0, 1), {"conv_kernel": 2}), (slice(0, 1), {"sparsity": 2})],
    ids=["all heads", "convolution", "sparse projections"],
)
def test_where_a_norm_may_not_come_late(heads, fields):
    attention = LocalSelfAttention(
        hidden_size=DIM,
        num_heads=2,
        head_dim=8,
        chunk_length=4,
        num_chunks_before=1,
        **fields,
    )
    with pytest.raises(ValueError, match="norm with heads="):
        attention(torch.randn(1, 5, DIM), heads=heads, norm=StreamLayerNorm(DIM))
