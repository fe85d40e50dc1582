"""The optimizer of the Accelerate loop."""

import pytest
from transformers.optimization import Adafactor

from reformer_hf.training.loop_arguments import LoopArguments
from reformer_hf.training.loop_run import make_optimizer
from tests.models.tiny import tiny_lm


@pytest.mark.parametrize(("given", "used"), [(0.9, None), (0.5, 0.5)])
def test_adafactor_has_momentum_if_it_is_asked_for(given, used):
    arguments = LoopArguments(optim="adafactor", adam_beta1=given)
    optimizer = make_optimizer(tiny_lm(), arguments)
    assert isinstance(optimizer, Adafactor)
    assert [group["beta1"] for group in optimizer.param_groups] == [used] * 2


def test_biases_and_norms_do_not_decay():
    optimizer = make_optimizer(tiny_lm(), LoopArguments(weight_decay=0.1))
    for group in optimizer.param_groups:
        assert {parameter.ndim > 1 for parameter in group["params"]} == {group["weight_decay"] > 0}
