"""The sparse feed-forward sub-layer: training as published, replay, and what evaluation reads."""

import pytest
import torch
from torch.nn.functional import layer_norm
from torch.testing import assert_close

from reformer_hf.nn import sparse_feed_forward
from reformer_hf.nn.reversible import PlainCoupling, ReversibleCoupling
from reformer_hf.nn.sparse_feed_forward import SparseFeedForward, default_rank, is_hard
from reformer_hf.ops import reference
from reformer_hf.ops.dropout import draw_seed
from reformer_hf.ops.sparse_feed_forward import choose, gumbel_noise

DIM, UNITS, SIZE = 6, 12, 4


def build(seed: int = 0, **fields) -> SparseFeedForward:
    torch.manual_seed(seed)
    fields = {"activation": torch.relu, "block_size": SIZE, **fields}
    module = SparseFeedForward(hidden_size=DIM, feed_forward_size=UNITS, **fields)
    for weight in module.parameters():
        torch.nn.init.normal_(weight)
    return module.double()


def oracle(module: SparseFeedForward, hidden, noise, soft):
    norm, controller = module.layer_norm, module.controller
    expand = controller.expand
    return reference.sparse_feed_forward(
        layer_norm(hidden, (DIM,), norm.weight, norm.bias, norm.eps),
        (controller.reduce.weight, expand.weight, expand.bias),
        (module.up_weight, module.up_bias),
        (module.down_weight, module.down_bias),
        SIZE,
        noise,
        soft,
    )[0]


@pytest.mark.parametrize("hard", [True, False])
def test_a_training_pass_and_its_gradients_equal_the_oracle(hard):
    module = build(hard_share=float(hard), temperature=1.5).train()
    hidden = torch.randn(1, 7, DIM).double().requires_grad_()
    torch.manual_seed(3)
    found = module(hidden)
    torch.manual_seed(3)
    noise = 1.5 * gumbel_noise(torch.empty(1, 7, UNITS // SIZE, SIZE).double(), draw_seed())
    expected = oracle(module, hidden[0], noise[0].flatten(-2), soft=not hard)[None]
    assert_close(found, expected)
    inputs = [hidden, *module.parameters()]
    mine, theirs = (torch.autograd.grad(x.sin().sum(), inputs) for x in (found, expected))
    for gradient, right in zip(mine, theirs, strict=True):
        assert_close(gradient, right)
        assert right.any()


def test_evaluation_draws_nothing_and_equals_the_oracle():
    module, hidden = build().eval(), torch.randn(1, 9, DIM).double()
    state = torch.get_rng_state()
    assert_close(module(hidden), oracle(module, hidden[0], None, soft=False)[None])
    assert torch.equal(torch.get_rng_state(), state)


def test_a_share_of_the_calls_is_hard():
    torch.manual_seed(0)
    seeds = [draw_seed() for _ in range(4000)]
    for share in (0.0, 0.3, 1.0):
        found = sum(is_hard(seed, share) for seed in seeds) / len(seeds)
        assert abs(found - share) <= 6 * (share * (1 - share) / len(seeds)) ** 0.5
    assert not is_hard(None, 1.0)


@pytest.mark.parametrize("chunk_size", [1, 3, 7, 20])
def test_chunks_change_nothing_in_evaluation(chunk_size):
    hidden = torch.randn(2, 7, DIM).double()
    assert_close(build(chunk_size=chunk_size).eval()(hidden), build().eval()(hidden))


def step(coupling, modules, x, piece_length):
    target = source = x
    for module in modules:
        target, source = source, coupling.couple(target, module, source, piece_length)
    return (target + source).square().sum()


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("piece_length", [0, 3])
def test_a_replay_keeps_the_choices_of_each_piece(monkeypatch, piece_length, training):
    """However the rounding errors fall: here every choice in a replay would be another."""
    modules = [build(seed, hard_share=0.7, dropout=0.2).train(training) for seed in range(3)]
    x = torch.randn(2, 8, DIM).double().requires_grad_()
    inputs, results = [x, *(p for m in modules for p in m.parameters())], []
    in_backward = []

    def choose_once(logits):
        choices = choose(logits)
        return (choices + 1) % SIZE if in_backward else choices

    monkeypatch.setattr(sparse_feed_forward, "choose", choose_once)
    for coupling in (PlainCoupling(), ReversibleCoupling()):
        in_backward.clear()
        torch.manual_seed(4)
        loss = step(coupling, modules, x, piece_length)
        in_backward.append(True)
        results.append([loss.detach(), *torch.autograd.grad(loss, inputs, allow_unused=True)])
    for plain, replayed in zip(*results, strict=True):
        assert (plain is None) == (replayed is None)  # a controller in evaluation
        if plain is not None:
            assert_close(replayed, plain)


def test_few_tokens_in_evaluation_read_the_chosen_weights_alone(monkeypatch):
    module, read = build().eval(), []
    inner = sparse_feed_forward.chosen_feed_forward

    def count(*arguments):
        read.append(True)
        return inner(*arguments)

    monkeypatch.setattr(sparse_feed_forward, "chosen_feed_forward", count)
    one, many = torch.randn(1, 1, DIM).double(), torch.randn(2, 4, DIM).double()
    expected = module(one)
    with torch.no_grad():
        module(many)
        module.train()(one)
        assert not read
        assert_close(module.eval()(one), expected)
        assert len(read) == 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_few_tokens_under_autocast(dtype):
    module, one = build().float().eval(), torch.randn(1, 1, DIM)
    expected = module(one)
    with torch.no_grad(), torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        assert_close(module(one).float(), expected, atol=0.2, rtol=0.1)


def test_dropout_acts_on_the_mask_and_at_the_end_in_training_only():
    hidden, module = torch.randn(1, 200, DIM).double(), build(dropout=0.5, hard_share=1.0)
    assert torch.equal(module.eval()(hidden), build().eval()(hidden))
    masks = []
    module.dropout.register_forward_hook(lambda _, inputs, output: masks.append(output))
    output = module.train()(hidden)
    assert 0.4 < (masks[0].sum(dim=-1) == 0).double().mean() < 0.6
    assert 0.4 < (output == 0).double().mean() < 0.6


def test_the_rank_is_the_number_of_blocks_and_at_most_half_the_width():
    assert default_rank(1024, 6144, 64) == 96
    assert default_rank(8, 64, 2) == 4
    assert default_rank(1, 4, 2) == 1
    assert build().controller.reduce.out_features == 3
    assert build(controller_rank=5).controller.reduce.out_features == 5


def test_a_width_that_blocks_do_not_fill_is_refused():
    with pytest.raises(ValueError, match="feed_forward_size=12 with block_size=5: give a multiple"):
        build(block_size=5)
