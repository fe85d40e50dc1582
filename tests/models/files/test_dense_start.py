"""A sparse model that starts from a dense one."""

import pytest
import torch
from torch.testing import assert_close

from reformer_hf.models.files.dense_start import start_from_dense
from reformer_hf.ops.sparse_feed_forward import one_hot_mask
from tests.models.seq2seq import tiny_seq2seq
from tests.models.tiny import random_ids, tiny_lm


def test_all_units_together_give_what_the_dense_model_gives(monkeypatch):
    dense, sparse = tiny_lm().double(), tiny_lm(seed=1, ff_sparsity=4).double()
    kept = start_from_dense(sparse, dense)
    assert kept == [name for name, _ in sparse.named_parameters() if ".controller." in name]
    monkeypatch.setattr(
        "reformer_hf.nn.sparse_feed_forward.one_hot_mask",
        lambda *arguments: torch.ones_like(one_hot_mask(*arguments)),
    )
    ids = random_ids(2, 15)
    assert_close(sparse(ids).logits, dense(ids).logits)


def test_an_encoder_decoder_starts_from_one():
    sparse, dense = tiny_seq2seq(ff_sparsity=4), tiny_seq2seq()
    assert all(".controller." in name for name in start_from_dense(sparse, dense))
    state, other = sparse.state_dict(), dense.state_dict()
    for name in (name for name in state if name.endswith("feed_forward.down_weight")):
        dense_name = name.removesuffix("down_weight") + "output.dense.weight"
        assert torch.equal(state[name], other[dense_name].t())


@pytest.mark.parametrize("fields", [{"feed_forward_size": 32}, {"num_hidden_layers": 1}])
def test_models_that_differ_in_more_are_refused(fields):
    layers = {"attn_layers": ["local"]} if "num_hidden_layers" in fields else fields
    with pytest.raises(ValueError, match="differ in more than ff_sparsity, such as .'reformer"):
        start_from_dense(tiny_lm(ff_sparsity=4), tiny_lm(**layers))


@pytest.mark.parametrize("sparsity, name", [(0, "sparse"), (4, "dense")])
def test_two_models_of_one_kind_are_refused(sparsity, name):
    with pytest.raises(ValueError, match=f"model '{name}' has .* ff_sparsity "):
        start_from_dense(tiny_lm(ff_sparsity=sparsity), tiny_lm(ff_sparsity=sparsity))
