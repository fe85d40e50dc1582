"""Pieces of a stream: torch's numbers and gradients, in the memory of one stream."""

import gc

import pytest
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from reformer_hf.nn import stream_pieces
from reformer_hf.nn.stream_pieces import GrowingSum, accumulate, cut, cut_gathering
from reformer_hf.ops.losses import chunked_cross_entropy
from tests.nn.reversible_toys import LiveBytes

STREAM = 1000 * 8 * 4
"""Bytes of the streams whose memory is counted."""


def grown(stream: Tensor, source: Tensor, piece_length: int, terms: int = 2) -> Tensor:
    total = GrowingSum(stream)
    for term in range(terms):
        start = 0
        for piece in cut_gathering(source, piece_length):
            total.add(piece * (piece + term), start)
            start += piece.shape[-2]
    return total.result()


@pytest.mark.parametrize("piece_length", [0, 1, 2, 5, 9])
def test_values_and_gradients_are_those_of_the_whole(piece_length):
    stream, source = (torch.randn(2, 5, 3, dtype=torch.float64, requires_grad=True) for _ in "ab")
    whole = stream + source * source + source * (source + 1)
    weights = torch.randn_like(whole)
    expected = torch.autograd.grad((whole * weights).sum(), [stream, source])
    found = grown(stream, source, piece_length)
    torch.testing.assert_close(found, whole)
    for mine, theirs in zip(
        torch.autograd.grad((found * weights).sum(), [stream, source]), expected, strict=True
    ):
        torch.testing.assert_close(mine, theirs)


def test_only_what_requires_a_gradient_has_a_history():
    stream, source = torch.randn(1, 4, 2), torch.randn(1, 4, 2, requires_grad=True)
    assert not grown(stream, source.detach(), 2).requires_grad
    grown(stream, source, 2).sum().backward()
    assert source.grad is not None and stream.grad is None


def test_the_summand_is_not_changed():
    stream, source = torch.ones(1, 4, 2), torch.ones(1, 4, 2)
    assert grown(stream, source, 3).eq(1 + 1 + 2).all()
    assert stream.eq(1).all()


def test_a_backward_after_one_that_was_broken_off_starts_anew():
    fails = True

    def hook(gradient: Tensor) -> None:
        if fails:
            raise KeyboardInterrupt

    source = torch.randn(1, 6, 2, requires_grad=True)
    pieces = list(cut_gathering(source, 2))
    pieces[0].register_hook(hook)
    total = sum((piece * weight).sum() for weight, piece in enumerate(pieces, start=1))
    assert isinstance(total, Tensor)
    with pytest.raises(KeyboardInterrupt):
        total.backward(retain_graph=True)
    fails = False
    for _ in range(2):
        source.grad = None
        total.backward(retain_graph=True)
        assert source.grad is not None
        assert source.grad[0, :, 0].tolist() == [1, 1, 2, 2, 3, 3]


def test_what_another_backward_wrote_is_not_taken_for_the_whole():
    """One is broken off, or runs in another thread."""
    stream = torch.zeros(1, 3, 2)
    gathered = stream_pieces._Gathered(stream, 1)

    def write(part: int, task: int) -> Tensor | None:
        return gathered.write(stream.shape, part, torch.full((1, 1, 2), 10.0 * task + part), task)

    for part, task in ((2, 1), (2, 2), (1, 1), (0, 2)):
        assert write(part, task) is None
    for part, task, expected in ((0, 1, [10, 11, 12]), (1, 2, [20, 21, 22])):
        found = write(part, task)
        assert found is not None and found[0, :, 0].tolist() == expected


def test_backward_holds_the_gradients_of_the_streams_and_of_a_piece():
    gc.collect()
    stream, source = (torch.randn(1, 1000, 8, requires_grad=True) for _ in "ab")
    found = grown(stream, source, 10, terms=1)
    cotangent = torch.ones_like(found)
    with LiveBytes() as live:
        found.backward(cotangent)
    assert live.peak <= 2.2 * STREAM  # the gradient of the other stream is kept as a copy


def test_forward_holds_the_sum_and_a_piece():
    stream, source = torch.randn(1, 1000, 8), torch.randn(1, 1000, 8)
    with LiveBytes() as live:
        grown(stream, source, 10)
    assert live.peak <= 1.1 * STREAM


@pytest.mark.parametrize("factor", [1, -1])
def test_numbers_of_another_dtype_are_cast_a_piece_at_a_time(monkeypatch, factor):
    monkeypatch.setattr(stream_pieces, "CAST_PLACES", 64)
    target, addend = torch.randn(2, 500, 8), torch.randn(2, 500, 8).bfloat16()
    expected = target + factor * addend.float()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        accumulate(target, target, addend, factor)
    assert torch.equal(target, expected)
    assert max(event.cpu_memory_usage for event in profiled.events()) <= 0.1 * STREAM


def test_a_whole_stream_is_not_made_a_view():
    stream = torch.randn(1, 4, 2, requires_grad=True)
    assert cut(stream, 0)[0] is stream
    assert next(cut_gathering(stream, 4)) is stream


def test_a_loss_in_chunks_gathers_the_gradients_of_its_streams():
    """A plain split holds all pieces' gradients until it joins them."""
    labels = torch.zeros(1, 1000, dtype=torch.long)
    peaks, gradients = [], []
    for chosen in (None, cut_gathering):
        stream = torch.linspace(-1, 1, 8000).view(1, 1000, 8).requires_grad_()
        loss = chunked_cross_entropy(stream, labels, lambda piece: piece, 10, cut=chosen)
        with LiveBytes() as live:
            (gradient,) = torch.autograd.grad(loss, stream)
            peaks.append(live.peak)
        gradients.append(gradient)
    torch.testing.assert_close(gradients[0], gradients[1], rtol=0, atol=0)
    assert peaks[1] < 1.3 * STREAM < 1.9 * STREAM < peaks[0]
