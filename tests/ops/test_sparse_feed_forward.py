"""Sparse feed-forward layers against the oracle, and the chosen units against the mask."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reformer_hf.ops import reference
from reformer_hf.ops.sparse_feed_forward import (
    Units,
    choose,
    chosen_feed_forward,
    gumbel_noise,
    masked_feed_forward,
    one_hot_mask,
    straight_through,
)
from tests.ops.oracle import TOLERANCE


def draw_weights(dim: int, units: int, generator: torch.Generator) -> Units:
    def draw(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64, requires_grad=True)

    return Units(draw(units, dim), draw(units), draw(units, dim), draw(dim))


@pytest.mark.parametrize("kind", ["evaluation", "hard", "soft"])
@settings(max_examples=10)
@given(
    seq=st.integers(1, 5),
    dim=st.integers(1, 4),
    blocks=st.integers(1, 4),
    size=st.integers(1, 4),
    seed=st.integers(0, 2**32),
)
def test_outputs_choices_and_gradients_equal_the_oracle(kind, seq, dim, blocks, size, seed):
    generator = torch.Generator().manual_seed(seed)
    units = draw_weights(dim, blocks * size, generator)
    vectors, reduce = draw_weights(dim, seq, generator)[0], draw_weights(dim, 2, generator)[0]
    expand, bias, *_ = draw_weights(2, blocks * size, generator)
    logits = (vectors @ reduce.T @ expand.T + bias).unflatten(-1, (blocks, size))
    noise = None if kind == "evaluation" else gumbel_noise(logits, seed)
    choices = choose(logits if noise is None else logits + noise)
    soft = logits.softmax(dim=-1)
    mask = {
        "evaluation": one_hot_mask(choices, size, soft.dtype),
        "hard": straight_through(choices, soft),
        "soft": soft,
    }[kind]
    found = masked_feed_forward(vectors, mask, units, torch.relu)
    expected, chosen = reference.sparse_feed_forward(
        vectors,
        (reduce, expand, bias),
        units[:2],
        units[2:],
        size,
        None if noise is None else noise.flatten(-2),
        kind == "soft",
    )
    assert choices.tolist() == chosen
    torch.testing.assert_close(found, expected, atol=TOLERANCE, rtol=0)
    cotangent = torch.randn(expected.shape, generator=generator, dtype=torch.float64)
    inputs = [vectors, *units] + ([] if kind == "evaluation" else [reduce, expand, bias])
    mine, theirs = (torch.autograd.grad(result, inputs, cotangent) for result in (found, expected))
    for gradient, right in zip(mine, theirs, strict=True):
        torch.testing.assert_close(gradient, right, atol=TOLERANCE, rtol=0)


@settings(max_examples=40)
@given(
    lead=st.sampled_from([(), (1,), (3,), (2, 1), (2, 3)]),
    dim=st.integers(1, 5),
    blocks=st.integers(1, 4),
    size=st.integers(1, 5),
    activation=st.sampled_from([torch.relu, torch.nn.functional.gelu, torch.tanh]),
    data=st.data(),
)
def test_the_chosen_units_give_what_the_mask_gives(lead, dim, blocks, size, activation, data):
    numbers = torch.empty(*lead, blocks)
    drawn = st.lists(st.integers(0, size - 1), min_size=numbers.numel(), max_size=numbers.numel())
    choices = torch.tensor(data.draw(drawn), dtype=torch.uint8).view(numbers.shape)
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 2**32)))
    units = draw_weights(dim, blocks * size, generator)
    vectors = torch.randn(*lead, dim, generator=generator, dtype=torch.float64)
    mask = one_hot_mask(choices, size, torch.float64)
    torch.testing.assert_close(
        chosen_feed_forward(vectors, choices, units, activation),
        masked_feed_forward(vectors, mask, units, activation),
        atol=TOLERANCE,
        rtol=0,
    )


def test_only_the_weights_of_chosen_units_are_read():
    units = draw_weights(3, 8, torch.Generator().manual_seed(0))
    choices = torch.tensor([[1, 3]])
    poisoned = Units(*(weight.detach().clone() for weight in units))
    others = [unit for unit in range(8) if unit not in (1, 7)]
    for weight in poisoned[:3]:
        weight[others] = torch.nan
    vectors = torch.randn(1, 3).double()
    found = chosen_feed_forward(vectors, choices, poisoned, torch.relu)
    assert torch.equal(found, chosen_feed_forward(vectors, choices, units, torch.relu))


def test_blocks_of_any_size_are_chosen_from():
    logits = torch.zeros(2, 1, 300)
    logits[0, 0, 299] = logits[1, 0, 7] = 1
    choices = choose(logits)
    assert choices.tolist() == [[299], [7]]
    assert torch.equal(one_hot_mask(choices, 300, torch.float32), logits)


def test_noise_makes_the_argmax_a_draw_from_the_softmax():
    logits = torch.tensor([0.0, 1.0, 2.0]).expand(20_000, 1, 3)
    state = torch.get_rng_state()
    choices = choose(logits + gumbel_noise(logits, 5))
    assert torch.equal(torch.get_rng_state(), state)
    shares = one_hot_mask(choices, 3, torch.float32).mean(dim=(0, 1))
    # Six standard errors.
    torch.testing.assert_close(shares, logits[0, 0].softmax(-1), atol=0.022, rtol=0)


def test_noise_of_narrow_logits_is_float32():
    assert gumbel_noise(torch.zeros(2, dtype=torch.bfloat16), 0).dtype == torch.float32
    assert gumbel_noise(torch.zeros(2, dtype=torch.float64), None).dtype == torch.float64
