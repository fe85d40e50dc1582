"""Steps that are computed in pieces of the sequence, or as a sum of terms."""

import gc

import pytest
import torch
from torch import Tensor, nn

from reformer_hf.nn.reversible import Decision, PlainCoupling, ReversibleCoupling
from tests.nn.reversible_toys import DIM, FeedForward, LiveBytes

SEQ = 9


class Terms(nn.ModuleList):
    """Several feed-forward sub-layers of one source."""

    def __init__(self, count: int = 3) -> None:
        super().__init__(FeedForward().double() for _ in range(count))


def run(
    sublayers: nn.ModuleList,
    coupling: PlainCoupling,
    stream: Tensor,
    piece_length: int | tuple[int, ...],
) -> Tensor:
    """A tuple has the piece length of each term; single sub-layers have the first."""
    target = source = stream
    for sublayer in sublayers:
        terms = list(sublayer) if isinstance(sublayer, Terms) else [sublayer]
        lengths = piece_length[: len(terms)] if isinstance(piece_length, tuple) else piece_length
        target, source = source, coupling.couple(target, terms, source, lengths)
    return (target * source.cos()).sum()


def results(
    sublayers: nn.ModuleList, coupling: PlainCoupling, piece_length: int | tuple[int, ...]
) -> list[Tensor]:
    torch.manual_seed(5)
    stream = torch.linspace(-1, 1, 2 * SEQ * DIM, dtype=torch.float64).view(2, SEQ, DIM)
    stream.requires_grad_()
    loss = run(sublayers, coupling, stream, piece_length)
    wanted = [stream, *(p for p in sublayers.parameters() if p.requires_grad)]
    return [loss, *torch.autograd.grad(loss, wanted)]


def make_sublayers() -> nn.ModuleList:
    torch.manual_seed(0)
    return nn.ModuleList([FeedForward().double(), Terms(), FeedForward().double(), Terms(2)])


@pytest.mark.parametrize("piece_length", [0, 1, 2, 4, SEQ, 100, (4, 0, 2), (0, 5, 5)])
@pytest.mark.parametrize("frozen", [[], [1], [0, 3], [1, 2]])
def test_gradients_equal_plain_ones_with_dropout(piece_length, frozen):
    sublayers = make_sublayers()
    for index in frozen:
        sublayers[index].requires_grad_(False)
    found = results(sublayers, ReversibleCoupling(), piece_length)
    plain = results(sublayers, PlainCoupling(), piece_length)
    for mine, theirs in zip(found, plain, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-11, rtol=1e-11)


@pytest.mark.parametrize("piece_length", [0, 4])
def test_terms_that_save_nothing_are_taken_from_the_stream_again(piece_length):
    ends = [FeedForward(0.0).double() for _ in range(2)]
    sublayers = [ends[0], [lambda source, f=f: f * source for f in (0.5, 2.0, -1.0)], ends[1]]
    found = []
    for coupling in (ReversibleCoupling(), PlainCoupling()):
        target = source = torch.linspace(-1, 1, SEQ * DIM, dtype=torch.float64).view(1, SEQ, DIM)
        for sublayer in sublayers:
            target, source = source, coupling.couple(target, sublayer, source, piece_length)
        loss = (target * source.cos()).sum()
        found.append(torch.autograd.grad(loss, list(ends[0].parameters())))
    for mine, plain in zip(*found, strict=True):
        torch.testing.assert_close(mine, plain, atol=1e-11, rtol=1e-11)


def test_each_piece_is_replayed_once():
    sublayers = make_sublayers()
    results(sublayers, ReversibleCoupling(), (4, 0, 4))
    calls = [m.calls for m in sublayers.modules() if isinstance(m, FeedForward)]
    assert calls == [6, 6, 2, 6, 6, 6, 2]


@pytest.mark.parametrize("piece_length", [0, 4])
def test_a_retained_graph_gives_the_same_gradients_again(piece_length):
    sublayers = make_sublayers()
    stream = torch.randn(2, SEQ, DIM, dtype=torch.float64, requires_grad=True)
    loss = run(sublayers, ReversibleCoupling(), stream, piece_length)
    first = torch.autograd.grad(loss, stream, retain_graph=True)[0]
    torch.testing.assert_close(torch.autograd.grad(loss, stream)[0], first, atol=1e-12, rtol=0)


@pytest.mark.parametrize("pieces", [1, 8])
def test_backward_holds_what_one_piece_or_term_saved(pieces):
    """Many wide terms or pieces need no more memory at a time than one does."""
    gc.collect()
    wide = [nn.Sequential(nn.Linear(DIM, 512), nn.GELU(), nn.Linear(512, DIM)) for _ in range(8)]
    peaks = []
    for terms, piece_length in ((wide[:1], 0), (wide[:pieces], 64 // pieces)):
        stream = torch.randn(1, 64, DIM)
        with LiveBytes() as live:
            coupling = ReversibleCoupling()
            loss = coupling.couple(stream, terms, stream, piece_length).sum()
            del coupling
            loss.backward()
        parameters = sum(p.numel() * 4 for term in terms for p in term.parameters())
        peaks.append(live.peak - parameters)
        del loss
    assert peaks[1] <= 1.1 * peaks[0]


def test_a_sum_of_terms_decides_each_by_itself():
    decisions = [Decision(), Decision()]
    calls = []

    def term(decision: Decision, source: Tensor) -> Tensor:
        return source * decision.recall(lambda: calls.append(0) or len(calls))

    stream = torch.ones(1, 3, DIM, requires_grad=True)
    terms = [lambda source, d=d: term(d, source) for d in decisions]
    output = ReversibleCoupling().couple(stream, terms, stream)
    output.sum().backward()
    assert calls == [0, 0]
    assert output[0, 0, 0] == 1 + 1 + 2
    assert stream.grad is not None and stream.grad[0, 0, 0] == 4
