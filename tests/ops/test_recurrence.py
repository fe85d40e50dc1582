"""The gated recurrence against the oracle: documents, padding, a state to start from, precision."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reformer_hf.ops import reference
from reformer_hf.ops.recurrence import gated_recurrence
from tests.ops.oracle import TOLERANCE, make_documents

DIM = 3


@settings(max_examples=30)
@given(
    seq=st.integers(1, 19),
    kind=st.sampled_from(["none", "left", "right", "holes", "packed"]),
    starts=st.booleans(),
    seed=st.integers(0, 2**32),
)
def test_outputs_and_gradients_equal_the_oracle(seq, kind, starts, seed):
    generator = torch.Generator().manual_seed(seed)
    documents = make_documents(kind, seq, generator)

    def draw(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64, requires_grad=True)

    gates, inputs = draw(2, seq, DIM), draw(2, seq, DIM)
    leaves = [gates, inputs, *([draw(2, DIM)] if starts else [])]
    start = leaves[2] if starts else [None, None]
    numbers = torch.zeros(2, seq, dtype=torch.long) if documents is None else documents
    expected = torch.stack(
        [
            reference.gated_recurrence(
                gates[row].sigmoid(), inputs[row], numbers[row].tolist(), start[row]
            )
            for row in range(2)
        ]
    )
    found = gated_recurrence(gates.sigmoid(), inputs, documents, start if starts else None)
    torch.testing.assert_close(found, expected, atol=TOLERANCE, rtol=0)
    cotangent = torch.randn(expected.shape, generator=generator, dtype=torch.float64)
    mine, theirs = (
        torch.autograd.grad(result, leaves, cotangent, allow_unused=True)
        for result in (found, expected)
    )
    for gradient, right in zip(mine, theirs, strict=True):
        # A row that begins with padding alone does not read its start.
        right = torch.zeros_like(gradient) if right is None else right
        torch.testing.assert_close(gradient, right, atol=TOLERANCE, rtol=0)


def test_interleaved_documents_are_as_alone():
    inputs, gates = torch.randn(1, 40, DIM), torch.rand(1, 40, DIM)
    documents = torch.randint(0, 3, (1, 40), generator=torch.Generator().manual_seed(0))
    found = gated_recurrence(gates, inputs, documents)
    for number in range(3):
        own = documents[0] == number
        alone = gated_recurrence(gates[:, own], inputs[:, own])
        torch.testing.assert_close(found[:, own], alone)


def test_long_rows_in_float32_err_as_little_as_a_loop():
    """With gates from nearly open to nearly shut; a state is a mean of inputs."""
    generator = torch.Generator().manual_seed(0)
    gates = (4 * torch.randn(2**11, DIM, generator=generator)).sigmoid()
    inputs = torch.randn(2**11, DIM, generator=generator)
    exact = reference.gated_recurrence(gates, inputs, [0] * len(inputs))
    state, loop = torch.zeros(DIM), []
    for kept, taken in zip(gates, inputs, strict=True):
        state = kept * state + (1 - kept) * taken
        loop.append(state)
    found = gated_recurrence(gates[None], inputs[None])[0]
    rounding = 11 * torch.finfo(torch.float32).eps * inputs.abs().max()  # one for each halving
    allowed = (torch.stack(loop) - exact).abs().max() + rounding
    assert (found - exact).abs().max() <= allowed


def test_gates_that_forget_all_or_nothing():
    """Products of factors become 0; nothing becomes infinite, in the gradient either."""
    gates = torch.tensor([0.0, 1.0, 1e-30]).repeat(100).view(1, -1, 1).requires_grad_()
    inputs = torch.linspace(-3, 3, 300).view(1, -1, 1)
    found = gated_recurrence(gates, inputs)
    found.sum().backward()
    assert gates.grad is not None and gates.grad.isfinite().all()
    torch.testing.assert_close(found[:, ::3], inputs[:, ::3])  # only the own input
    torch.testing.assert_close(found[:, 1::3], inputs[:, ::3])  # only the state


def test_it_has_a_second_derivative():
    documents = torch.tensor([[0, 1, 0, 0, 1]])
    leaves = [torch.rand(1, 5, 1, dtype=torch.float64, requires_grad=True) for _ in "ab"]
    assert torch.autograd.gradgradcheck(lambda *x: gated_recurrence(*x, documents), leaves)
