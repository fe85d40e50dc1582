"""All models of the training benchmark can be trained."""

import pytest
import torch

from scripts.benchmarks.training.peers import MODELS, build_trainee, lucid_is_installed
from scripts.benchmarks.training.run import autocast
from tests.scripts.benchmarks.tiny import SHAPE


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("variant", MODELS)
def test_every_model_trains(variant, dtype):
    if variant == "lucid" and not lucid_is_installed():
        pytest.skip("reformer-pytorch is optional")
    trainee = build_trainee(variant, SHAPE, 64)
    trainee.model.train()
    ids = torch.randint(1, 20, (2, 64))
    with autocast(dtype):
        loss = trainee.loss(ids)
    loss.backward()
    assert 2.5 < loss.item() < 3.5  # about log(20), as nothing is learned yet
    without = {name for name, p in trainee.model.named_parameters() if p.grad is None}
    # transformers' Reformer never applies the bias of its head.
    assert without == ({"lm_head.bias"} if variant == "stock" else set())
