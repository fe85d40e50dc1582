"""Activation checkpointing: which layers it takes, and that it changes no number."""

import pytest
import torch
from torch import nn

from reformer_hf.models import modeling_reformer_hf
from tests.models.seq2seq import FORMS, padded_source, random_labels, tiny_seq2seq
from tests.models.test_modeling_training import byte_lm, trainer_of
from tests.models.tiny import WITH_NGRAMS, dropout_fields, loss_and_gradients, random_ids, tiny_lm

LAYERS = ["local", "lsh", "full", "full_shared_qk", "lsh"]
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")


def runs_of_layers(model: nn.Module, **inputs) -> tuple[list[int], dict]:
    """How often each layer's attention ran in a step, and the gradients."""
    parts = [layer.attention for layer in model.reformer.encoder.layers]
    runs = [0] * len(parts)

    def count(module: nn.Module, _) -> None:
        runs[parts.index(module)] += 1

    handles = [part.register_forward_pre_hook(count) for part in parts]
    ids = random_ids(2, 21)
    torch.manual_seed(7)
    found = loss_and_gradients(model, input_ids=ids, labels=ids, **inputs)[1]
    for handle in handles:
        handle.remove()
    return runs, found


@pytest.mark.parametrize("maps", [False, True])
@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [2, 2, 2, 2, 2]),
        ({"every_n_layers": 2}, [2, 1, 2, 1, 2]),
        ({"every_n_layers": 9}, [2, 1, 1, 1, 1]),
        ({"activation_checkpointing_kwargs": {"use_reentrant": True}}, [2, 2, 2, 2, 2]),
    ],
)
def test_chosen_layers_run_again_and_nothing_else_changes(options, expected, maps):
    fields = {"attn_layers": LAYERS, **WITH_NGRAMS, **dropout_fields()}
    model = tiny_lm(reversible=False, **fields).double().train()
    runs, gradients = runs_of_layers(model, output_attentions=maps)
    assert runs == [1] * 5
    model.activation_checkpointing_enable(**options)
    runs, found = runs_of_layers(model, output_attentions=maps)
    assert runs == expected
    torch.testing.assert_close(found, gradients, rtol=1e-9, atol=1e-12)
    model.activation_checkpointing_disable()
    assert runs_of_layers(model, output_attentions=maps)[0] == [1] * 5
    assert not model.is_activation_checkpointing


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("reentrant", [False, True])
def test_a_decoder_gives_its_source_the_same_gradients(form, reentrant):
    model = tiny_seq2seq(reversible=False, decoder_form=form).double().train()
    inputs = {**padded_source(), "labels": random_labels()}
    torch.manual_seed(7)
    expected = loss_and_gradients(model, **inputs)
    model.activation_checkpointing_enable(
        activation_checkpointing_kwargs={"use_reentrant": reentrant}
    )
    torch.manual_seed(7)
    torch.testing.assert_close(loss_and_gradients(model, **inputs), expected)


def test_the_trainers_options_arrive(tmp_path):
    model = byte_lm(reversible=False, attn_layers=LAYERS)
    options = {"every_n_layers": 3, "use_reentrant": False}
    trainer = trainer_of(
        model, tmp_path, activation_checkpointing=True, activation_checkpointing_kwargs=options
    )
    trainer.train()
    flags = [layer.gradient_checkpointing for layer in model.reformer.encoder.layers]
    assert flags == [True, False, False, True, False]


def test_reversible_layers_say_that_they_need_none(monkeypatch):
    warnings: list[str] = []
    monkeypatch.setattr(modeling_reformer_hf.logger, "warning_once", warnings.append)
    model = tiny_lm(attn_layers=LAYERS).double().train()
    model.activation_checkpointing_enable()
    assert len(warnings) == 1 and "reversible=False" in warnings[0]
    assert model.is_activation_checkpointing
    assert runs_of_layers(model)[0] == [2] * 5  # by the replay alone


def test_no_layer_at_all_is_refused():
    with pytest.raises(ValueError, match="every_n_layers=0"):
        tiny_lm().activation_checkpointing_enable(every_n_layers=0)


def test_a_cached_pass_is_not_checkpointed():
    model = tiny_lm(reversible=False, attn_layers=LAYERS).train()
    expected = model(random_ids(2, 9), use_cache=True).logits
    model.activation_checkpointing_enable()
    outputs = model(random_ids(2, 9), use_cache=True)
    assert outputs.past_key_values.get_seq_length() == 9
    torch.testing.assert_close(outputs.logits, expected)
