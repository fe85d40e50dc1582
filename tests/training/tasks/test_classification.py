"""What a classifier's run keeps of the logits."""

import torch

from reformer_hf.training.tasks.classification import choose_predictions


def test_only_what_metrics_need_is_kept():
    logits = torch.randn(2, 5, 4)
    best = choose_predictions((logits, None), torch.zeros(2, 5, dtype=torch.long))
    assert torch.equal(best, logits.argmax(dim=-1))
    for scores, labels in ((torch.randn(2, 3), torch.zeros(2, 3)), (torch.randn(2, 1),) * 2):
        assert choose_predictions(scores, labels) is scores
