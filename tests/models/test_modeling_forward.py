"""The forward pass: any length, options, outputs, hidden states, attention maps."""

import pytest
import torch
from torch.testing import assert_close
from transformers.modeling_outputs import BaseModelOutputWithPast

from reformer_hf.models.self_attention import LayerInputs
from reformer_hf.nn.reversible import Decision
from tests.models.tiny import (
    SCOPES,
    WITH_SRU,
    dropout_fields,
    gradients,
    loss_and_gradients,
    random_ids,
    tiny_encoder,
    tiny_lm,
)

MIXED = {"attn_layers": ["local", "lsh", "full", "full_shared_qk"]}


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("causal", [True, None])
def test_any_length_works_in_training_and_evaluation(scope, causal):
    model = tiny_encoder(attention_scope=scope, is_decoder=causal, **MIXED, **dropout_fields())
    for length in range(1, 3 * 4 + 2):
        ids = random_ids(2, length)
        for training in (True, False):
            model.train(training)
            output = model(ids).last_hidden_state
            assert output.shape == (2, length, 32)
            output.square().sum().backward()
            assert output.isfinite().all()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


@pytest.mark.parametrize("layout", ["axial", "learned", "none"])
def test_every_position_up_to_the_limit_is_used(layout):
    fields = {"position_embedding_type": layout, "max_position_embeddings": 96}
    model = tiny_lm(**fields)
    ids = random_ids(1, 96)
    model(ids).logits.square().sum().backward()
    tables = [
        (name, parameter.grad)
        for name, parameter in model.named_parameters()
        if "position_embeddings" in name
    ]
    assert len(tables) == {"axial": 2, "learned": 1, "none": 0}[layout]
    for _, gradient in tables:
        assert (gradient.flatten(0, -2).abs().sum(dim=-1) > 0).all()


@pytest.mark.parametrize("scope", SCOPES)
def test_evaluation_is_repeatable_and_leaves_the_random_state_alone(scope):
    model = tiny_lm(attention_scope=scope, **dropout_fields())
    ids = random_ids(2, 21)
    state = torch.get_rng_state()
    first, second = model(ids).logits, model(ids).logits
    assert torch.equal(first, second)
    assert torch.equal(torch.get_rng_state(), state)


def test_embedded_tokens_give_what_their_ids_give():
    model, ids = tiny_lm(), random_ids(2, 21)
    embedded = model.get_input_embeddings()(ids)
    expected, actual = model(ids, labels=ids), model(inputs_embeds=embedded, labels=ids)
    assert torch.equal(actual.logits, expected.logits)
    assert torch.equal(actual.loss, expected.loss)


def test_unknown_arguments_are_named_and_those_of_transformers_accepted():
    model, ids = tiny_lm(), random_ids(1, 5)
    for misspelt in ("atention_mask", "num_hash", "input_id"):
        with pytest.raises(TypeError, match=f"'{misspelt}'"):
            model(ids, **{misspelt: None})
        with pytest.raises(TypeError, match=f"'{misspelt}'"):
            model.reformer(ids, **{misspelt: None})
    expected = model(ids).logits
    accepted = model(ids, cu_seq_lens_q=None, max_length_q=5, is_causal=True, use_cache=True)
    assert torch.equal(accepted.logits, expected)


def test_tuples_on_request():
    model, ids = tiny_lm(), random_ids(1, 5)
    expected = model(ids, labels=ids)
    loss, logits = model(ids, labels=ids, return_dict=False)
    assert torch.equal(loss, expected.loss) and torch.equal(logits, expected.logits)
    (hidden,) = model.reformer(ids, return_dict=False)
    assert torch.equal(hidden, model.reformer(ids).last_hidden_state)
    model.config.return_dict = False
    assert isinstance(model(ids), tuple)
    assert isinstance(model.reformer(ids, return_dict=True), BaseModelOutputWithPast)


@pytest.mark.parametrize("scope", SCOPES)
def test_rounds_of_a_pass_replace_those_of_the_configuration(scope):
    ids = random_ids(2, 21)
    model = tiny_lm(attention_scope=scope, redraw_rotations=False)
    more = tiny_lm(attention_scope=scope, redraw_rotations=False, num_hashes=5)
    for training in (False, True):
        model.train(training), more.train(training)
        expected, expected_gradients = loss_and_gradients(more, input_ids=ids, labels=ids)
        actual, actual_gradients = loss_and_gradients(
            model, input_ids=ids, labels=ids, num_hashes=5
        )
        assert torch.equal(actual, expected)
        assert not torch.equal(model(ids).logits, model(ids, num_hashes=5).logits)
        for name, gradient in expected_gradients.items():
            assert torch.equal(actual_gradients[name], gradient), name


def test_decisions_of_one_pass_can_be_given_to_another():
    model, ids = tiny_lm(), random_ids(2, 21)
    decisions = [Decision() for _ in range(2)]
    first = model(ids, hash_decisions=decisions).logits
    kept = decisions[1].recall(lambda: pytest.fail("the LSH layer did not decide"))
    assert kept.shape == (2, 2, 2, 21) and kept.max() < 4
    model.config.hash_seed = 1
    assert not torch.equal(model(ids).logits, first)
    assert torch.equal(model(ids, hash_decisions=decisions).logits, first)
    assert decisions[1].recall(lambda: pytest.fail("decided again")) is kept


def test_hidden_states_are_both_streams_before_each_layer_and_the_last():
    model, ids = tiny_encoder(is_decoder=True, **WITH_SRU), random_ids(2, 9)
    output = model(ids, output_hidden_states=True)
    assert len(output.hidden_states) == 3
    first, second, last = output.hidden_states
    embedded = model.embeddings(model.get_input_embeddings()(ids), torch.arange(9).expand(2, -1))
    assert torch.equal(first, torch.cat([embedded, embedded], dim=-1))
    layer = model.encoder.layers[0]
    attended, _ = layer.attention(embedded, LayerInputs())
    upper = embedded + attended
    lower = embedded + layer.feed_forward(upper) + layer.sru(upper)
    assert_close(second, torch.cat([upper, lower], dim=-1))
    assert torch.equal(last, output.last_hidden_state)
    assert model(ids).hidden_states is None
    model.config.output_hidden_states = True
    assert len(model(ids).hidden_states) == 3


@pytest.mark.parametrize("reversible", [True, False])
def test_hidden_states_carry_gradients(reversible):
    model = tiny_lm(reversible=reversible, attn_layers=["local", "lsh", "local"]).double()
    ids = random_ids(1, 9)
    states = model(ids, output_hidden_states=True).hidden_states
    (states[1].square().sum() + states[2].sin().sum()).backward()
    found = gradients(model)
    assert "reformer.encoder.layers.1.attention.self_attention.value.weight" in found
    # A layer behind the states asked for has no part in them.
    behind = found.get("reformer.encoder.layers.2.feed_forward.dense.dense.weight")
    assert behind is None or not behind.any()
    name, parameter = next(iter(model.named_parameters()))

    def value(step: float) -> torch.Tensor:
        with torch.no_grad():
            parameter[ids[0, 0], 0] += step
            states = model(ids, output_hidden_states=True).hidden_states
            parameter[ids[0, 0], 0] -= step
        return states[1].square().sum() + states[2].sin().sum()

    slope = (value(1e-6) - value(-1e-6)) / 2e-6
    assert_close(found[name][ids[0, 0], 0], slope, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("scope", SCOPES)
def test_attention_maps_sum_to_one_and_hide_later_places(scope):
    model = tiny_lm(attention_scope=scope, **MIXED)
    output = model(random_ids(2, 19), output_attentions=True)
    assert len(output.attentions) == 4
    for dense in output.attentions:
        assert dense.shape == (2, 2, 19, 19)
        assert_close(dense.sum(dim=-1), torch.ones(2, 2, 19))
        assert not dense.triu(1).any()
    assert model(random_ids(2, 19)).attentions is None


@pytest.mark.parametrize(
    # Only `eager` drops the same probabilities when it makes a map.
    "fields",
    [MIXED, dropout_fields() | {"attn_implementation": "eager"}, {"attention_scope": "chunk"}],
)
def test_asking_for_maps_changes_neither_outputs_nor_gradients(fields):
    model = tiny_lm(**fields).double().train()
    ids = random_ids(2, 19)
    results = []
    for output_attentions in (False, True):
        torch.manual_seed(5)
        results.append(
            loss_and_gradients(
                model, input_ids=ids, labels=ids, output_attentions=output_attentions
            )
        )
    (loss, found), (map_loss, map_found) = results
    assert_close(map_loss, loss)
    for name, gradient in found.items():
        assert_close(map_found[name], gradient, rtol=1e-6, atol=1e-9)
