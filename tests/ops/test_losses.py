"""Chunked cross-entropy: equal to torch's, in less memory."""

import pytest
import torch
from torch.nn.functional import cross_entropy, linear
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from reformer_hf.ops.losses import chunked_cross_entropy

BATCH, SEQ, DIM, VOCAB = 2, 7, 4, 11


def make_problem(dtype=torch.float64):
    hidden = torch.randn(BATCH, SEQ, DIM, dtype=dtype, requires_grad=True)
    weight = torch.randn(VOCAB, DIM, dtype=dtype, requires_grad=True)
    labels = torch.randint(VOCAB, (BATCH, SEQ))
    labels[0, :3] = -100  # a whole chunk without a label in one row
    labels[1, 5] = -100
    return hidden, weight, labels


@pytest.mark.parametrize("chunk_size", [1, 2, 3, 7, 100])
@pytest.mark.parametrize("num_items", [None, 3, "tensor"])
def test_loss_and_gradients_equal_torchs(chunk_size, num_items):
    hidden, weight, labels = make_problem()
    if num_items == "tensor":
        num_items = torch.tensor(5)
    divisor = (labels != -100).sum() if num_items is None else num_items
    total = cross_entropy(linear(hidden, weight).flatten(0, 1), labels.flatten(), reduction="sum")
    loss = chunked_cross_entropy(
        hidden, labels, lambda h: linear(h, weight), chunk_size, num_items=num_items
    )
    torch.testing.assert_close(loss, total / divisor)
    found, expected = (torch.autograd.grad(x, (hidden, weight)) for x in (loss, total / divisor))
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, theirs)


def test_another_ignore_index():
    hidden, weight, labels = make_problem()
    labels[labels == -100] = 4
    loss = chunked_cross_entropy(hidden, labels, lambda h: linear(h, weight), 3, ignore_index=4)
    logits = linear(hidden, weight).flatten(0, 1)
    torch.testing.assert_close(loss, cross_entropy(logits, labels.flatten(), ignore_index=4))


def test_half_precision_is_summed_in_float32():
    hidden, weight, labels = make_problem(torch.bfloat16)
    loss = chunked_cross_entropy(hidden, labels, lambda h: linear(h, weight), 3)
    assert loss.dtype == torch.float32
    logits = linear(hidden, weight).float().flatten(0, 1)
    torch.testing.assert_close(loss, cross_entropy(logits, labels.flatten()))
    (gradient,) = torch.autograd.grad(loss, hidden)
    assert gradient.dtype == torch.bfloat16


def test_frozen_hidden_states_still_train_the_projection():
    hidden, weight, labels = make_problem()
    loss = chunked_cross_entropy(hidden.detach(), labels, lambda h: linear(h, weight), 2)
    expected = cross_entropy(linear(hidden.detach(), weight).flatten(0, 1), labels.flatten())
    for mine, theirs in zip(
        torch.autograd.grad(loss, weight), torch.autograd.grad(expected, weight), strict=True
    ):
        torch.testing.assert_close(mine, theirs)


class LargestTensor(TorchDispatchMode):
    """Records the number of elements of the largest tensor that any operation makes."""

    def __init__(self):
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        results = func(*args, **(kwargs or {}))
        sizes = [x.numel() for x in tree_leaves(results) if isinstance(x, torch.Tensor)]
        self.elements = max([self.elements, *sizes])
        return results


def test_the_logits_of_the_sequence_never_exist():
    hidden, weight, labels = make_problem()
    chunk_size = 2
    with LargestTensor() as chunked:
        chunked_cross_entropy(hidden, labels, lambda h: linear(h, weight), chunk_size).backward()
    assert chunked.elements == max(BATCH * chunk_size * VOCAB, hidden.numel(), weight.numel())
    with LargestTensor() as whole:
        chunked_cross_entropy(hidden, labels, lambda h: linear(h, weight), SEQ).backward()
    assert whole.elements == BATCH * SEQ * VOCAB


def test_logits_are_not_kept_for_backward():
    hidden, weight, labels = make_problem()
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x) or x, lambda x: x):
        chunked_cross_entropy(hidden, labels, lambda h: linear(h, weight), 2)
    assert kept and all(VOCAB not in tensor.shape for tensor in kept)


def test_an_empty_chunk_is_refused():
    hidden, weight, labels = make_problem()
    with pytest.raises(ValueError, match="chunk_size=0"):
        chunked_cross_entropy(hidden, labels, lambda h: linear(h, weight), 0)
