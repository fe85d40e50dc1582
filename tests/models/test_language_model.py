"""The output layer: sparse ones, and what a pass draws where a dense one stands beside it."""

from functools import partial

import pytest
import torch
from torch.testing import assert_close

from reformer_hf import ReformerHFForCausalLM
from reformer_hf.ops import reference
from tests.models.seq2seq import padded_source, random_labels, tiny_seq2seq
from tests.models.tiny import gradients, loss_and_gradients, random_ids, tiny_lm

HALF = {"lm_head_sparsity": 3, "lm_head_sparse_share": 0.5}  # of a vocabulary of 40


def test_logits_are_the_oracle_s_and_those_beyond_the_vocabulary_are_cut_off():
    model = tiny_lm(lm_head_sparsity=3).double()
    ids, head = random_ids(1, 5), model.lm_head
    output = model(ids, output_hidden_states=True)
    layer, states = head.decoder, output.hidden_states[-1][0]
    assert layer.weight.shape == (14, 32) and head.dense is None
    zeros = torch.zeros(42)
    expected = reference.multiplicative_dense(states, layer.gates, layer.weight, zeros)
    assert_close(output.logits[0], expected[:, :40] + head.bias)


def test_an_encoder_decoder_has_one_too():
    model = tiny_seq2seq(decoder_attn_layers=["local"], **HALF).train()
    _, found = loss_and_gradients(model, **padded_source(), labels=random_labels())
    assert found.keys() == dict(model.named_parameters()).keys()


@pytest.mark.parametrize("chunk_size", [0, 5])
def test_each_training_pass_draws_one_of_both_layers(chunk_size, monkeypatch):
    """For all pieces of the sequence; the other one gets gradients of 0."""
    model = tiny_lm(chunk_size_lm_head=chunk_size, attn_layers=["local"], **HALF).double()
    ids, head, drawn = random_ids(2, 13), model.lm_head, set()
    sparse_loss = model(ids, labels=ids).loss.item()
    with monkeypatch.context() as patch:
        patch.setattr(head, "draw", lambda: partial(head, sparse=False))
        dense_loss = model(ids, labels=ids).loss.item()
    assert abs(sparse_loss - dense_loss) > 1e-3
    model.train()
    for seed in range(5):
        torch.manual_seed(seed)
        loss, found = loss_and_gradients(model, input_ids=ids, labels=ids)
        is_sparse = bool(found["lm_head.decoder.gates"].any())
        assert loss.item() == pytest.approx(sparse_loss if is_sparse else dense_loss, rel=1e-5)
        assert bool(found["lm_head.decoder.weight"].any()) is is_sparse
        assert bool(found["lm_head.dense.weight"].any()) is not is_sparse
        assert found["lm_head.bias"].any()
        drawn.add(is_sparse)
    assert drawn == {True, False}
    assert gradients(model).keys() == dict(model.named_parameters()).keys()


def test_outside_training_the_output_is_sparse_and_draws_nothing():
    model = tiny_lm(**HALF)
    ids, state = random_ids(1, 6), torch.get_rng_state()
    with torch.no_grad():
        model.lm_head.dense.weight.fill_(torch.nan)
    assert model(ids, labels=ids).loss.isfinite()
    assert torch.equal(torch.get_rng_state(), state)


def test_a_loss_of_one_s_own_trains_both_layers():
    model = tiny_lm(attn_layers=["local"], **HALF).train()
    for _ in range(10):
        model(random_ids(1, 6)).logits.square().sum().backward()
    found = gradients(model)
    assert found["lm_head.decoder.weight"].any() and found["lm_head.dense.weight"].any()


def test_a_share_of_the_passes_is_sparse():
    head = tiny_lm(lm_head_sparsity=4, lm_head_sparse_share=0.8).train().lm_head
    drawn = [head.draw().keywords["sparse"] for _ in range(500)]
    assert sum(drawn) == pytest.approx(400, abs=50)


def test_it_is_saved_and_loaded(tmp_path):
    model, ids = tiny_lm(**HALF, attention_sparsity=2), random_ids(1, 9)
    model.save_pretrained(tmp_path)
    loaded = ReformerHFForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(loaded(ids).logits, model(ids).logits)
    assert torch.equal(loaded.lm_head.dense.weight, model.lm_head.dense.weight)


def test_it_cannot_be_resized():
    model = tiny_lm(lm_head_sparsity=4)
    assert model.resize_token_embeddings(40) is model.get_input_embeddings()
    assert model.resize_token_embeddings(37, 8) is model.get_input_embeddings()
    with pytest.raises(ValueError, match="lm_head_sparsity=4 with vocab_size=40: .* resized"):
        model.resize_token_embeddings(41)


def test_modules_start_as_published_whatever_the_initializer_range():
    model = tiny_lm(**HALF, attention_sparsity=4, initializer_range=1e-4)
    attention = model.reformer.encoder.layers[0].attention.self_attention
    for gates in (model.lm_head.decoder.gates, attention.shared_projection.gates):
        assert gates.std().item() == pytest.approx(0.5, rel=0.3)
    assert attention.query.weight.std() > 0.1 and attention.shared_projection.weight.std() > 0.1
    assert model.lm_head.dense.weight.std() < 1e-3
