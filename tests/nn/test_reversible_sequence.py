"""The reversible sequence with attention layers: gradients, buckets, masks, caches, precision."""

import copy

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from reformer_hf.nn import LocalAttention, LSHAttention, ReversibleSequence
from reformer_hf.nn.reversible import ReversibleCoupling
from tests.nn.reversible_toys import LiveBytes

DIM = 8


def feed_forward() -> nn.Module:
    return nn.Sequential(nn.Linear(DIM, 16), nn.GELU(), nn.Dropout(0.2), nn.Linear(16, DIM))


def lsh(**options) -> LSHAttention:
    return LSHAttention(DIM, 2, chunk_length=4, num_hashes=2, num_buckets=4, **options)


def build(reversible: bool = True) -> ReversibleSequence:
    """Two blocks in training mode, of float64."""
    torch.manual_seed(0)
    local = LocalAttention(DIM, 2, chunk_length=4, dropout=0.2)
    sublayers = [lsh(dropout=0.2), feed_forward(), local, feed_forward()]
    return ReversibleSequence(DIM, sublayers, reversible).double()


def test_gradients_equal_those_with_all_activations_kept():
    x = torch.randn(2, 30, DIM).double()
    mask = torch.rand(2, 30) < 0.8
    seq_idx = torch.arange(30).expand(2, -1) // 13
    found = []
    for model in (build(), build(reversible=False)):
        torch.manual_seed(1)
        stream = x.clone().requires_grad_()
        output = model(stream, mask, seq_idx=seq_idx)
        torch.rand(1)  # backward comes under another random state
        gradients = torch.autograd.grad(output.square().sum(), [stream, *model.parameters()])
        found.append((output, *gradients))
    for replayed, kept in zip(*found, strict=True):
        assert_close(replayed, kept)
    assert found[0][0].shape == x.shape


def test_backward_through_a_pass_with_a_cache_leaves_the_cache_alone():
    model, x = build().eval(), torch.randn(1, 9, DIM).double()
    cache = model.new_cache()
    model(x[:, :5], cache=cache)
    last = x[:, 5:].clone().requires_grad_()
    model(last, cache=cache).square().sum().backward()
    assert last.grad is not None and last.grad.abs().min() > 0
    assert [part and part.length for part in cache] == [9, None, 9, None]


def test_a_replay_uses_the_buckets_of_its_forward(monkeypatch):
    """However the rounding errors fall: here every hash after the first pass is wrong."""
    model, x = build(), torch.randn(2, 30, DIM).double()
    attention = model.sublayers[0].attention
    hash_rightly, hashed = attention.hash, []

    def hash_once(*arguments):
        hashed.append(1)
        buckets = hash_rightly(*arguments)
        return buckets if len(hashed) == 1 else torch.zeros_like(buckets)

    monkeypatch.setattr(attention, "hash", hash_once)
    model(x).sum().backward()
    assert hashed == [1]


def test_layers_deep_inside_a_sublayer_keep_their_buckets_apart():
    """Two LSH layers in one sub-layer, with coupling done by hand."""
    torch.manual_seed(0)
    sublayer = nn.Sequential(lsh(), nn.Tanh(), lsh(layer_index=1)).double()
    x = torch.randn(1, 40, DIM).double().requires_grad_()
    inputs = [x, *sublayer.parameters()]
    state = torch.get_rng_state()
    expected = torch.autograd.grad((x + sublayer(x)).square().sum(), inputs)
    torch.set_rng_state(state)
    hashed = []
    for layer in (sublayer[0], sublayer[2]):
        layer.attention.register_forward_hook(lambda *_: hashed.append(1))
    output = ReversibleCoupling().couple(x, sublayer, x)
    found = torch.autograd.grad(output.square().sum(), inputs)
    for gradient, right in zip(found, expected, strict=True):
        assert_close(gradient, right)
    assert len(hashed) == 4  # forward and replay


@pytest.mark.parametrize("reversible", [True, False])
def test_what_is_kept_for_backward_hardly_grows_with_depth(reversible):
    x, kept = torch.randn(1, 1024, DIM), []
    for depth in (1, 3):
        sublayers = [module for _ in range(depth) for module in (lsh(), feed_forward())]
        model = ReversibleSequence(DIM, sublayers, reversible)
        with LiveBytes() as live:
            output = model(x)
        kept.append(live.now)
        del output
    streams_per_sublayer = (kept[1] - kept[0]) / 4 / x.nbytes
    # Replayed: the bucket ids alone.
    assert streams_per_sublayer < 0.2 if reversible else streams_per_sublayer > 4


def test_a_cache_gives_what_one_pass_gives():
    model = build().eval()
    x, mask = torch.randn(2, 30, DIM).double(), torch.ones(2, 30, dtype=torch.bool)
    mask[0, :5] = False
    cache, outputs = model.new_cache(), []
    for block, real in zip(x.split([9, 1, 20], 1), mask.split([9, 1, 20], 1), strict=True):
        outputs.append(model(block, real, cache=cache))
    assert_close(torch.cat(outputs, dim=1)[mask], model(x, mask)[mask])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_narrow_models_have_wide_streams(dtype):
    model = ReversibleSequence(DIM, [LocalAttention(DIM, 2), feed_forward()]).to(dtype).eval()
    x = torch.randn(1, 20, DIM).to(dtype).requires_grad_()
    output = model(x)
    assert output.dtype == dtype
    right = copy.deepcopy(model).double()(x.double())
    assert (output - right).abs().max() < 4 * torch.finfo(dtype).eps * right.abs().max()
    output.sum().backward()
    assert x.grad is not None and x.grad.isfinite().all()


def test_autocast_narrows_the_products_only():
    model, x = build().float(), torch.randn(1, 20, DIM)
    with torch.autocast("cpu", torch.bfloat16):
        output = model(x)
    assert output.dtype == torch.float32
    output.sum().backward()


def test_a_saved_sequence_comes_back():
    model, x = build().eval(), torch.randn(1, 20, DIM).double()
    other = build().eval()
    for weight in other.parameters():
        nn.init.normal_(weight)
    assert not torch.equal(other(x), model(x))
    other.load_state_dict(model.state_dict())
    assert torch.equal(other(x), model(x))
