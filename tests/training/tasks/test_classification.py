"""What a classifier's run keeps of the logits."""

import pytest
import torch

from reformer_hf.models.labels import row_loss
from reformer_hf.training.tasks.classification import choose_predictions, loss_of_numbers


def test_only_what_metrics_need_is_kept():
    logits = torch.randn(2, 5, 4)
    best = choose_predictions((logits, None), torch.zeros(2, 5, dtype=torch.long))
    assert torch.equal(best, logits.argmax(dim=-1))
    for scores, labels in ((torch.randn(2, 3), torch.zeros(2, 3)), (torch.randn(2, 1),) * 2):
        assert choose_predictions(scores, labels) is scores


@pytest.mark.parametrize(
    ("kind", "shape"), [("regression", (3,)), ("multi_label_classification", (3, 2))]
)
def test_a_blank_row_has_no_loss_and_no_gradient(kind, shape):
    logits = torch.randn(5, *shape[1:] or (1,), requires_grad=True)
    labels = torch.full((5, *shape[1:]), torch.nan)
    labels[[0, 1, 3]] = torch.rand(shape)
    found = loss_of_numbers({"logits": logits}, labels, torch.tensor(7), kind=kind)
    expected = row_loss(logits[[0, 1, 3]], labels[[0, 1, 3]], kind, 7)
    assert torch.equal(found, expected)
    nothing = loss_of_numbers({"logits": logits}, labels.fill_(torch.nan), 7, kind=kind)
    (gradient,) = torch.autograd.grad(nothing, logits)  # DDP waits for one of each process
    assert nothing == 0 and not gradient.any()
