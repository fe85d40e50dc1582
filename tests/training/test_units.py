"""The report of used and dead units."""

import pytest
import torch

from reformer_hf.training import unit_use
from tests.models.tiny import random_ids, tiny_lm


def test_it_counts_what_the_tokens_choose():
    model = tiny_lm(ff_sparsity=4).train()
    forced = model.reformer.encoder.layers[1].feed_forward.controller.expand
    with torch.no_grad():
        forced.bias[2::4] = 1e4  # the third unit of each block
    found = unit_use(model, [{"input_ids": random_ids(2, 9)}, {"input_ids": random_ids(1, 5)}])
    names = [f"reformer.encoder.layers.{index}.feed_forward" for index in range(2)]
    assert [use.layer for use in found] == names
    first, second = found
    assert 0.25 < first.used < 1 and first.used == (first.load > 0).double().mean()
    blocks = first.load.view(-1, 4).sum(dim=1)
    torch.testing.assert_close(blocks, torch.full_like(blocks, 4))
    assert second.used == 0.25 and second.load.tolist() == [0, 0, 4, 0] * 6
    assert model.training and not forced._forward_hooks


def test_what_there_is_nothing_to_count_of_is_refused():
    with pytest.raises(ValueError, match="set ff_sparsity"):
        unit_use(tiny_lm(), [])
    with pytest.raises(ValueError, match="feed_forward saw no token: give at least one batch"):
        unit_use(tiny_lm(ff_sparsity=4), [])
