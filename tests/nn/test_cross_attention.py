"""Cross-attention against a plain computation, in memory linear in the queries."""

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from reformer_hf.nn.cross_attention import CrossAttention
from reformer_hf.nn.reversible import PlainCoupling, ReversibleCoupling
from reformer_hf.ops import full_attention as ops
from tests.nn.reversible_toys import LiveBytes

HEADS, HEAD_DIM, DIM, SOURCE_DIM = 2, 4, 6, 10


def build(dropout: float = 0.0) -> CrossAttention:
    torch.manual_seed(0)
    module = CrossAttention(
        hidden_size=DIM,
        source_size=SOURCE_DIM,
        num_heads=HEADS,
        head_dim=HEAD_DIM,
        dropout=dropout,
    )
    return module.double().eval()


def attend(module: CrossAttention, hidden: Tensor, source: Tensor, visible: Tensor | None, **kw):
    return module(hidden, module.project_source(source), visible, **kw)


def inputs(batch: int = 3, seq: int = 5, source: int = 7) -> tuple[Tensor, Tensor, Tensor]:
    """Hidden states, a source, and which of it is real: all, some, nothing."""
    visible = torch.arange(source) < torch.tensor([[source], [3], [0]])[:batch]
    hidden = torch.randn(batch, seq, DIM, dtype=torch.float64)
    return hidden, torch.randn(batch, source, SOURCE_DIM, dtype=torch.float64), visible


def oracle(module: CrossAttention, hidden: Tensor, source: Tensor, visible: Tensor) -> Tensor:
    """Row by row, query by query, over the real places alone; nothing of nothing."""
    output = torch.zeros(*hidden.shape[:2], HEADS * HEAD_DIM, dtype=hidden.dtype)
    for row in range(len(hidden)):
        real = source[row][visible[row]]
        if not len(real):
            continue
        for head in range(HEADS):
            part = slice(head * HEAD_DIM, (head + 1) * HEAD_DIM)
            key, value = real @ module.key.weight[part].T, real @ module.value.weight[part].T
            for place, query in enumerate(hidden[row] @ module.query.weight[part].T):
                weights = (key @ query / HEAD_DIM**0.5).softmax(dim=0)
                output[row, place, part] = weights @ value
    return output


@pytest.mark.parametrize("implementation", ["blockwise", "eager"])
@pytest.mark.parametrize("output_map", [True, False])
def test_equals_a_plain_computation_with_its_gradients(implementation, output_map):
    module, (hidden, source, visible) = build(), inputs()
    leaves = [hidden.requires_grad_(), source.requires_grad_(), *module.parameters()]
    weights = torch.randn(3, 5, HEADS * HEAD_DIM, dtype=torch.float64)
    output, probabilities = attend(
        module, hidden, source, visible, implementation=implementation, output_map=output_map
    )
    expected = oracle(module, hidden, source, visible)
    assert_close(output, expected)
    found = torch.autograd.grad((output * weights).sum(), leaves)
    for one, other in zip(
        found, torch.autograd.grad((expected * weights).sum(), leaves), strict=True
    ):
        assert one.isfinite().all()
        assert_close(one, other)
    if output_map:
        assert_close(
            probabilities.sum(dim=-1), visible.any(dim=1).double()[:, None, None].expand(3, 2, 5)
        )
        assert not probabilities.masked_select(~visible[:, None, None, :]).any()
    else:
        assert probabilities is None


@pytest.mark.parametrize("scores", [1, 2**5, 2**22])
def test_dropout_in_pieces_equals_its_own_expectation_and_gradient(scores, monkeypatch):
    """With one seed the output is linear in the values: its derivative gives the weights."""
    monkeypatch.setattr(ops, "PIECE_SCORES", scores)
    query, key, value = torch.randn(3, 1, 2, 6, 4, dtype=torch.float64).unbind()
    whole, probabilities = ops.cross_attention(query, key, value, output_map=True)
    leaves = [x.requires_grad_() for x in (query, key, value)]

    def run(*tensors: Tensor) -> Tensor:
        torch.manual_seed(5)
        return ops.cross_attention(*tensors, dropout=0.4)[0]

    assert torch.autograd.gradcheck(run, leaves)
    weights = torch.autograd.functional.jacobian(lambda v: run(query, key, v), value)
    kept = weights[0, :, :, 0, 0, :, :, 0] != 0
    for head in range(2):
        found = weights[0, head, :, 0, 0, head, :, 0]
        expected = torch.where(found != 0, probabilities[0, head] / 0.6, 0)
        assert_close(found, expected)
    assert 0.3 < kept[[0, 1], :, [0, 1]].double().mean() < 0.9


def test_dropout_acts_in_training_alone_and_keeps_the_mean():
    module, (hidden, source, _) = build(dropout=0.5), inputs(batch=1)
    expected, _ = attend(module, hidden, source, None)
    module.train()
    many = hidden.expand(400, -1, -1)
    samples, _ = attend(module, many, source.expand(400, -1, -1), None)
    assert samples.std(dim=0).max() > 0.1
    error = (samples.mean(dim=0) - expected[0]).abs() / (samples.std(dim=0) / 20)
    assert error.median() < 1.5 and error.max() < 6


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_the_sources_gradient_is_right_through_reversible_steps(dropout):
    """The source is a side input of several steps, whose replays draw the same dropout."""
    module = build(dropout).train()
    hidden, source, visible = inputs()
    source.requires_grad_()
    gradients = []
    for coupling in (PlainCoupling(), ReversibleCoupling()):
        torch.manual_seed(7)
        x1 = x2 = hidden.clone().requires_grad_()

        def add(stream: Tensor) -> Tensor:
            return attend(module, stream, source, visible)[0][..., :DIM]

        for _ in range(3):
            x1, x2 = x2, coupling.couple(x1, add, x2)
        loss = (x1 * x2).sum()
        gradients.append(torch.autograd.grad(loss, [source, *module.parameters()]))
    for found, expected in zip(*gradients, strict=True):
        assert_close(found, expected)


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_memory_is_linear_in_the_queries_and_the_source(dropout, monkeypatch):
    monkeypatch.setattr(ops, "PIECE_SCORES", 2**15)
    module = build(dropout).float().train()

    def peak(seq: int) -> int:
        hidden = torch.randn(1, seq, DIM, requires_grad=True)
        source = torch.randn(1, seq, SOURCE_DIM, requires_grad=True)
        visible = torch.arange(seq)[None] < seq - 5
        with LiveBytes() as live:
            attend(module, hidden, source, visible)[0].sum().backward()
        return live.peak

    small, large = peak(512), peak(2048)
    assert large < 5 * small + 2**20
    assert large < HEADS * 2048 * 2048 * 4 / 4  # a quarter of the scores alone
