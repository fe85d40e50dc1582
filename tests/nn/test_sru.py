"""Simple recurrent units against the oracle, and behind a past."""

import pytest
import torch
from torch import Tensor, nn

from reformer_hf.nn.past.base import NewTokens, Past
from reformer_hf.nn.sru import LowRankSRU
from reformer_hf.ops import reference

DIM, SIZE = 8, 3


def build(num_layers: int = 2) -> LowRankSRU:
    """In float64, with biases and gates that matter."""
    torch.manual_seed(0)
    module = LowRankSRU(hidden_size=DIM, size=SIZE, num_layers=num_layers).double()
    for parameter in module.parameters():
        nn.init.normal_(parameter)
    return module


def oracle(module: LowRankSRU, row: Tensor, documents: list[int]) -> Tensor:
    mixed = module.input(module.layer_norm(row))
    for unit in module.units:
        gates = dict(unit.named_children())
        weights = {name: gate.get_parameter("weight") for name, gate in gates.items()}
        biases = {name: gate.get_parameter("bias") for name, gate in gates.items()}
        mixed = reference.simple_recurrent_unit(mixed, weights, biases, documents)
    return module.output(mixed)


@pytest.mark.parametrize("num_layers", [1, 2])
def test_outputs_and_gradients_equal_the_oracle(num_layers):
    module, x = build(num_layers), torch.randn(1, 9, DIM, dtype=torch.float64, requires_grad=True)
    documents = torch.tensor([[0, 0, 1, 0, 1, 2, 2, 0, 1]])
    leaves = [x, *module.parameters()]
    results = module(x, documents), oracle(module, x[0], documents[0].tolist())[None]
    torch.testing.assert_close(*results)
    mine, theirs = (torch.autograd.grad(y.square().sum(), leaves) for y in results)
    for gradient, right in zip(mine, theirs, strict=True):
        torch.testing.assert_close(gradient, right)


@pytest.mark.parametrize("recording", [False, True])
def test_it_goes_on_behind_a_past(recording):
    """Padding is skipped, a whole pass of it too; what is taken back has never been."""
    module, past = build(), Past()
    x = torch.randn(2, 11, DIM, dtype=torch.float64)
    real = torch.ones(2, 11, dtype=torch.bool)
    real[0, :5] = real[1, [1, 4]] = False
    places = (real.cumsum(dim=1) - 1).masked_fill(~real, -1)
    past.recording, found = recording, []
    for part, where in zip(x.split([2, 5, 1, 3], 1), places.split([2, 5, 1, 3], 1), strict=True):
        new = NewTokens(where, padded=bool((where < 0).any()))
        found.append(module(part, past=past, new=new))
        if recording:
            module(torch.randn_like(part), past=past, new=NewTokens(where.abs(), padded=False))
            assert past.can_drop(part.shape[1])
            past.drop_last(part.shape[1])
    whole = module(x, (~real).long())
    torch.testing.assert_close(torch.cat(found, dim=1)[real], whole[real])


def test_states_are_float32_in_a_model_of_bfloat16():
    module, past = build().bfloat16(), Past()
    x = torch.randn(1, 4, DIM)
    output = module(x, past=past, new=NewTokens(torch.arange(4)[None], padded=False))
    assert output.dtype == torch.bfloat16 and past.states.last is not None
    assert past.states.last.dtype == torch.float32
    assert past.states.last.shape == (1, 2 * SIZE) and past.fixed_bytes == 2 * SIZE * 4


def test_a_state_that_was_not_recorded_cannot_be_taken_back():
    module, past = build(), Past()
    for _ in range(2):
        new = NewTokens(torch.arange(3)[None], padded=False)
        module(torch.randn(1, 3, DIM, dtype=torch.float64), past=past, new=new)
    assert not past.can_drop(1)


def test_vectors_of_another_width_are_refused():
    with pytest.raises(ValueError, match=rf"\(batch, seq, {DIM}\)"):
        build()(torch.randn(1, 3, DIM + 1))
