"""The layers to take away against the oracle: masks, documents, caches, rotations, training."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.testing import assert_close
from torch.utils.checkpoint import checkpoint

from reformer_hf.nn import LocalAttention, LSHAttention
from reformer_hf.ops import reference
from tests.nn.attention_oracle import DIM, HEAD_DIM, HEADS, WINDOW, lsh_oracle, qkv_oracle

SIZES = {"dim": DIM, "heads": HEADS, "head_dim": HEAD_DIM, "bias": True, **WINDOW}
ROUNDS = 2
LSH = {"num_buckets": [2, 4], "num_hashes": ROUNDS, "hash_seed": 5}  # the oracle's seed


def build(kind: type, **options):
    """A layer in float64 and evaluation, with weights large enough to matter."""
    torch.manual_seed(0)
    layer = kind(**SIZES, **(LSH if kind is LSHAttention else {}), **options).double().eval()
    for weight in layer.parameters():
        nn.init.normal_(weight)
    return layer


def options_of(kind: type, scope: str = "band") -> dict:
    """Rotary positions, a convolution, and a local round or norms where there can be any."""
    own = {"use_qk_norm": True}
    if kind is LSHAttention:
        own = dict.fromkeys(["local_round", "next_values"], scope == "band")
    return {"rope_theta": 50.0, "conv_kernel": 3, **own}


def oracle(layer, row: Tensor, documents: list[int]) -> Tensor:
    """The layer's output for one row without padding."""
    seq, after = len(row), 0 if layer.causal else 3
    if isinstance(layer, LSHAttention):
        heads, _ = lsh_oracle(layer.attention, row, documents, ROUNDS, layer.rope_theta)
    else:
        counts = reference.band_counts([[0] * seq], documents, 3, after)
        if layer.attention.window.scope == "chunk":
            counts = reference.local_chunk_counts(seq, 3, 1, after // 3, layer.causal)
        angles = {"documents": documents, "theta": layer.rope_theta}
        heads, _ = qkv_oracle(layer.attention, row, counts, **angles)
    return heads @ layer.output.weight.T + layer.output.bias


def draw_mask(kind: str, batch: int, seq: int) -> Tensor:
    """True at real tokens."""
    count = torch.randint(seq + 1, (batch, 1))
    places = torch.arange(seq)
    masks = {
        "left": places >= count,
        "right": places < count,
        "holes": torch.rand(batch, seq) < 0.6,
    }
    return masks.get(kind, torch.ones(batch, seq, dtype=torch.bool))


kinds = pytest.mark.parametrize("kind", [LSHAttention, LocalAttention])
paddings = st.sampled_from(["none", "left", "right", "holes"])


@kinds
@pytest.mark.parametrize("scope", ["band", "chunk"])
@settings(max_examples=20)
@given(
    seq=st.integers(1, 14),
    causal=st.booleans(),
    padding=paddings,
    packed=st.booleans(),
    dtype=st.sampled_from([torch.bool, torch.int64, torch.uint8, torch.uint16]),
    plain=st.booleans(),
    seed=st.integers(0, 100),
)
def test_real_tokens_see_each_other_as_the_oracle_says(
    kind, scope, seq, causal, padding, packed, dtype, plain, seed
):
    options = {} if plain else options_of(kind, scope)
    layer = build(kind, scope=scope, causal=causal, **options)
    torch.manual_seed(seed)
    x, mask = torch.randn(2, seq, DIM).double(), draw_mask(padding, 2, seq)
    x[~mask] = float("nan")
    seq_idx = torch.randint(-2, 1, (2, seq)) if packed and scope == "band" else None
    output = layer(x, None if padding == "none" else mask.to(dtype), seq_idx=seq_idx)
    assert torch.equal(output[~mask], torch.zeros_like(output[~mask]))
    for index, real in enumerate(mask):
        row, found = x[index][real], output[index][real]
        if len(row):
            numbers = [0] * len(row) if seq_idx is None else (seq_idx[index][real] + 2).tolist()
            assert_close(found, oracle(layer, row, numbers))


@kinds
def test_gradients_equal_those_of_the_oracle_and_padding_has_none(kind):
    layer = build(kind, **options_of(kind))
    x, mask = torch.randn(1, 9, DIM).double(), torch.ones(1, 9, dtype=torch.bool)
    mask[0, [0, 4]] = False
    x.requires_grad_()
    inputs = [x, *layer.parameters()]
    weights = torch.randn(1, 9, DIM).double()
    found = torch.autograd.grad((layer(x, mask) * weights).sum(), inputs)
    loss = (oracle(layer, x[0, mask[0]], [0] * 7) * weights[0, mask[0]]).sum()
    for gradient, right in zip(found, torch.autograd.grad(loss, inputs), strict=True):
        assert_close(gradient, right)
    assert not found[0][~mask].any()


@kinds
@settings(max_examples=20)
@given(
    blocks=st.lists(st.integers(1, 9), min_size=1, max_size=6),
    padding=paddings,
    plain=st.booleans(),
    seed=st.integers(0, 100),
)
def test_a_cache_gives_what_one_pass_over_all_gives(kind, blocks, padding, plain, seed):
    layer = build(kind, **({} if plain else options_of(kind)))
    torch.manual_seed(seed)
    seq = sum(blocks)
    x, mask = torch.randn(2, seq, DIM).double(), draw_mask(padding, 2, seq)
    cache, outputs = layer.new_cache(), []
    for block, real in zip(x.split(blocks, dim=1), mask.split(blocks, dim=1), strict=True):
        outputs.append(layer(block, None if real.all() else real, cache=cache))
    assert_close(torch.cat(outputs, dim=1), layer(x, mask))
    assert cache.length == seq


@kinds
def test_in_the_chunk_scope_a_cached_step_gives_what_the_last_token_sees(kind):
    layer = build(kind, scope="chunk")
    x = torch.randn(2, 17, DIM).double()
    cache = layer.new_cache()
    layer(x[:, :5], cache=cache)
    for end in range(6, 18):
        output = layer(x[:, end - 1 : end], cache=cache)
        assert_close(output, layer(x[:, :end])[:, -1:])


@kinds
def test_a_copy_of_a_cache_goes_its_own_way(kind):
    layer = build(kind)
    x = torch.randn(2, 12, DIM).double()
    cache = layer.new_cache()
    layer(x[:, :8], cache=cache)
    layer(x[:, :3], cache=copy.deepcopy(cache))
    assert_close(layer(x[:, 8:], cache=cache), layer(x)[:, 8:])


def test_training_draws_rotations_from_the_default_generator_and_evaluation_none():
    layer, x = build(LSHAttention), torch.randn(1, 60, DIM).double()
    evaluated, state = layer(x), torch.get_rng_state()
    assert torch.equal(layer(x), evaluated)
    layer.train()
    first, second = layer(x), layer(x)
    assert not torch.equal(first, second) and not torch.equal(first, evaluated)
    torch.set_rng_state(state)
    assert torch.equal(layer(x), first) and torch.equal(layer(x), second)
    cache = layer.new_cache()
    assert torch.equal(layer(x, cache=cache), evaluated)
    layer.redraw_rotations = False
    state = torch.get_rng_state()
    assert torch.equal(layer(x), evaluated)
    assert torch.equal(layer.eval()(x), evaluated) and torch.equal(torch.get_rng_state(), state)


def test_evaluation_hashes_by_seed_and_layer():
    x = torch.randn(1, 60, DIM).double()
    layers = [build(LSHAttention), build(LSHAttention, layer_index=1)]
    layers.append(build(LSHAttention))
    layers[2].hash_seed = 6
    first, by_layer, by_seed = (layer(x) for layer in layers)
    assert not torch.equal(first, by_layer) and not torch.equal(first, by_seed)
    assert torch.equal(build(LSHAttention)(x), first)


@kinds
@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointing_repeats_rotations_and_dropout(kind, reentrant):
    """The layer draws in forward; what is drawn again in backward must be the same."""
    model = nn.Sequential(
        nn.Linear(DIM, DIM), build(kind, dropout=0.3), nn.Dropout(0.3), build(kind)
    ).double()
    model.train()
    x = torch.randn(2, 40, DIM).double().requires_grad_()
    inputs, state = [x, *model.parameters()], torch.get_rng_state()
    expected = torch.autograd.grad(model(x).square().sum(), inputs)
    torch.set_rng_state(state)
    checkpoint(model, x, use_reentrant=reentrant).square().sum().backward()
    for tensor, right in zip(inputs, expected, strict=True):
        assert_close(tensor.grad, right)


@kinds
@pytest.mark.parametrize("causal", [False, True])
def test_defaults_serve_any_length_and_every_parameter_gets_a_gradient(kind, causal):
    """Without one, DDP would wait for it for ever."""
    layer = kind(16, 4, causal, bias=True)
    for seq in (1, 63, 200):
        layer.zero_grad()
        x = torch.randn(seq, 2, 16).transpose(0, 1)  # not contiguous
        output = layer(x)
        assert output.shape == x.shape and output.isfinite().all()
        output.sum().backward()
        if seq > 1:  # a lone token looks at itself only, so that its query does not matter
            assert all(weight.grad.abs().sum() > 0 for weight in layer.parameters())
        assert all(weight.grad is not None for weight in layer.parameters())


@kinds
def test_a_causal_layer_does_not_look_ahead_and_another_does(kind):
    x = torch.randn(1, 12, DIM).double()
    changed = x.clone()
    changed[:, 8:] += 1
    for causal in (True, False):
        layer = build(kind, causal=causal)
        same = torch.equal(layer(x)[:, :8], layer(changed)[:, :8])
        assert same == causal


@kinds
def test_a_saved_layer_comes_back(kind):
    layer, x = build(kind), torch.randn(1, 20, DIM).double()
    names = ["query_key"] if kind is LSHAttention else ["query", "key"]
    weights = {f"attention.{name}.weight" for name in [*names, "value"]}
    assert set(layer.state_dict()) == weights | {"output.weight", "output.bias"}
    other = kind(**SIZES, **(LSH if kind is LSHAttention else {})).double().eval()
    assert not torch.equal(other(x), layer(x))
    other.load_state_dict(layer.state_dict())
    assert torch.equal(other(x), layer(x)) and torch.equal(copy.deepcopy(layer)(x), layer(x))


@kinds
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_errs_no_more_than_its_rounding(kind, dtype):
    """A bucket may flip where the projections are rounded; most tokens must come out alike."""
    torch.manual_seed(0)
    layer = kind(32, 4, **({"hash_length": 64} if kind is LSHAttention else {})).eval().to(dtype)
    x, mask = torch.randn(2, 50, 32).to(dtype), draw_mask("left", 2, 50)
    output = layer(x, mask)
    right = copy.deepcopy(layer).double()(x.double(), mask)
    assert output.dtype == dtype
    error = (output.double() - right).norm(dim=-1)[mask] / right.norm(dim=-1)[mask]
    flips = 0.1 if kind is LSHAttention else 0.0
    assert (error > 8 * torch.finfo(dtype).eps).double().mean() <= flips
    x.requires_grad_()
    layer(x, mask).float().sum().backward()
    assert x.grad is not None and x.grad.isfinite().all()


@pytest.mark.parametrize("implementation", ["eager", "flex_attention"])
@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_implementations_agree(implementation):
    x, mask = torch.randn(2, 30, DIM).double(), draw_mask("left", 2, 30)
    with torch.no_grad():
        for kind in (LSHAttention, LocalAttention):
            other = build(kind, implementation=implementation)
            assert_close(other(x, mask), build(kind)(x, mask))


def test_the_bucket_count_follows_the_hash_length():
    buckets = [LSHAttention(8, 2, hash_length=n).attention.num_buckets for n in (256, 8192, 65536)]
    assert buckets == [4, 128, [32, 32]]
    assert LSHAttention(8, 2, num_buckets=6, hash_length=256).attention.num_buckets == 6


def recall_batch(rows: int) -> tuple[Tensor, Tensor]:
    """16 keys in random order, each with one of 4 values; filler; the keys once more, as questions.

    A question stands at least 224 tokens behind its answer.
    """
    keys, values = torch.rand(rows, 16).argsort(dim=1), torch.randint(4, (rows, 16))
    asked = torch.rand(rows, 16).argsort(dim=1)
    answers = torch.empty_like(values).scatter(1, keys, values).gather(1, asked)
    filler = torch.randint(80, 82, (rows, 224))
    return torch.cat([4 * keys + values, filler, 64 + asked], dim=1), answers


@pytest.mark.parametrize(("kind", "learns"), [(LSHAttention, True), (LocalAttention, False)])
def test_one_layer_learns_to_recall_what_stands_far_away(kind, learns):
    """By chance a quarter is right. Local attention does not reach so far."""
    options = {"hash_length": 256} if kind is LSHAttention else {}
    layer = kind(32, 2, chunk_length=32, **options)
    model = nn.Sequential(nn.Embedding(82, 32), layer, nn.Linear(32, 4))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.015)
    for _ in range(120 if learns else 20):
        tokens, answers = recall_batch(8)
        loss = nn.functional.cross_entropy(model(tokens)[:, -16:].flatten(0, 1), answers.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    tokens, answers = recall_batch(32)
    with torch.no_grad():
        right = (model.eval()(tokens)[:, -16:].argmax(dim=-1) == answers).double().mean()
    assert right > 0.5 if learns else right < 0.35
