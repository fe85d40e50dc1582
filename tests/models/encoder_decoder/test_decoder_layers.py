"""Reversible encoder and decoder: right gradients on both sides, memory flat in depth."""

import gc

import pytest
import torch
from peft import LoraConfig, TaskType, get_peft_model
from torch import nn
from torch.testing import assert_close

from tests.models.seq2seq import FORMS, KINDS, padded_source, random_labels, tiny_seq2seq
from tests.models.tiny import (
    ALL_OPTIONS,
    WITH_SRU,
    dropout_fields,
    gradients,
    loss_and_gradients,
    random_ids,
)
from tests.nn.reversible_toys import LiveBytes

BATCH = {**padded_source(), "labels": random_labels()}


def both_ways(prepare=lambda model: model, **fields) -> tuple[dict, dict]:
    """Gradients with and without reversible layers, from the same weights and random numbers."""
    results = []
    for reversible in (True, False):
        model = prepare(tiny_seq2seq(reversible=reversible, **fields).double().train())
        torch.manual_seed(7)
        results.append(loss_and_gradients(model, **BATCH))
    (loss, found), (plain_loss, expected) = results
    assert torch.equal(loss, plain_loss)
    return found, expected


def assert_same_gradients(found: dict, expected: dict) -> None:
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        assert_close(found[name], gradient, rtol=1e-7, atol=1e-11, msg=lambda m, n=name: f"{n} {m}")


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("depth", [3, 4])  # after an odd number of blocks the streams are swapped
def test_gradients_equal_plain_ones_with_dropout(form, depth):
    layers = {"encoder_attn_layers": KINDS, "decoder_attn_layers": KINDS[:depth]}
    options = ALL_OPTIONS | WITH_SRU if depth == 4 else {}
    found, expected = both_ways(decoder_form=form, **layers, **options, **dropout_fields())
    assert_same_gradients(found, expected)
    assert all(gradient.any() for gradient in found.values())


@pytest.mark.parametrize("form", FORMS)
def test_recurrent_units_stand_in_the_decoder_alone(form):
    model = tiny_seq2seq(decoder_form=form, **WITH_SRU).reformer
    assert all(layer.sru is None for layer in model.encoder.encoder.layers)
    assert all(layer.sru is not None for layer in model.decoder.encoder.layers)


def test_gradients_with_heads_in_groups_and_everything_in_pieces():
    pieces = {"chunk_size_attention_heads": 1, "chunk_size_feed_forward": 2}
    found, expected = both_ways(**pieces, chunk_size_lm_head=2, **dropout_fields())
    assert_same_gradients(found, expected)


def freeze_encoder(model: nn.Module) -> nn.Module:
    model.reformer.encoder.requires_grad_(False)
    return model


def freeze_decoder(model: nn.Module) -> nn.Module:
    """All gradients flow through a decoder without parameters of its own."""
    model.requires_grad_(False)
    model.reformer.encoder.requires_grad_(True)
    return model


def freeze_all_but_cross_attention(model: nn.Module) -> nn.Module:
    model.requires_grad_(False)
    for layer in model.reformer.decoder.encoder.layers:
        layer.cross_attention.requires_grad_(True)
    return model


def freeze_all_but_the_first_layers(model: nn.Module) -> nn.Module:
    model.requires_grad_(False)
    model.reformer.encoder.encoder.layers[0].requires_grad_(True)
    model.reformer.decoder.encoder.layers[0].requires_grad_(True)
    return model


def freeze_embeddings(model: nn.Module) -> nn.Module:
    model.get_input_embeddings().requires_grad_(False)
    return model


@pytest.mark.parametrize(
    "freeze",
    [
        freeze_encoder,
        freeze_decoder,
        freeze_all_but_cross_attention,
        freeze_all_but_the_first_layers,
        freeze_embeddings,
    ],
)
def test_gradients_with_frozen_parts(freeze):
    found, expected = both_ways(freeze, **dropout_fields())
    assert found
    assert_same_gradients(found, expected)


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing.:FutureWarning")  # read by PEFT
@pytest.mark.parametrize("form", FORMS)
def test_gradients_with_lora(form):
    def adapt(model: nn.Module) -> nn.Module:
        torch.manual_seed(3)
        lora = LoraConfig(
            task_type=TaskType.SEQ_2_SEQ_LM,
            r=2,
            lora_dropout=0.1,
            target_modules=["query", "key", "value", "query_key"],
            init_lora_weights=False,
        )
        return get_peft_model(model, lora).double()

    found, expected = both_ways(adapt, decoder_form=form, **dropout_fields())
    assert all("lora" in name for name in found)
    assert any("cross_attention" in name for name in found) == (form == "cross_attention")
    assert_same_gradients(found, expected)


@pytest.mark.parametrize("reversible", [True, False])
def test_activation_checkpointing_changes_no_gradient(reversible):
    model = tiny_seq2seq(reversible=reversible, **dropout_fields()).double().train()
    results = []
    for _ in range(2):
        torch.manual_seed(7)
        results.append(loss_and_gradients(model, **BATCH)[1])
        model.activation_checkpointing_enable()
    assert_same_gradients(results[1], results[0])


def test_each_sublayer_is_replayed_once_in_backward():
    model, calls = tiny_seq2seq().train(), {}
    for name, module in model.named_modules():
        if name.endswith((".attention", ".layers.1.cross_attention", ".feed_forward")):
            calls[name] = 0

            def count(*_, name=name) -> None:
                calls[name] += 1

            module.register_forward_hook(count)
    loss = model(**BATCH).loss
    assert set(calls.values()) == {1}
    loss.backward()
    assert set(calls.values()) == {2}


def test_two_passes_before_one_backward():
    model = tiny_seq2seq(**dropout_fields()).double().train()
    other = {"input_ids": random_ids(2, 9, seed=4), "labels": random_ids(2, 4, seed=5)}
    torch.manual_seed(7)
    (model(**BATCH).loss + model(**other).loss).backward()
    found = gradients(model)
    torch.manual_seed(7)
    model.zero_grad()
    for batch in (BATCH, other):
        model(**batch).loss.backward()
    assert_same_gradients(found, gradients(model))


def held_and_peak(depth: int, reversible: bool, form: str) -> tuple[int, int]:
    """Bytes made by a forward and alive after it, and the peak of a step without the gradients."""
    layers = ["full", "local", "lsh", "full"] * (depth // 4)
    model = tiny_seq2seq(
        encoder_attn_layers=layers,
        decoder_attn_layers=layers,
        decoder_form=form,
        reversible=reversible,
    ).train()
    batch = {"input_ids": random_ids(2, 96, low=3), "labels": random_ids(2, 90, low=3)}
    if form == "packed":
        batch = {name: ids[:, :45] for name, ids in batch.items()}
    gc.collect()
    with LiveBytes() as live:
        loss = model(**batch).loss
        held = live.now
        loss.backward()
    return held, live.peak - sum(p.numel() * p.element_size() for p in model.parameters())


@pytest.mark.parametrize("form", FORMS)
def test_memory_does_not_grow_with_depth(form):
    """Not the keys and values of the source either, which each decoder layer has its own of."""
    (held_4, peak_4), (held_12, peak_12) = (held_and_peak(n, True, form) for n in (4, 12))
    buckets = 4 * 2 * 2 * 2 * 96 * 2  # of four LSH layers more: remembered, in two bytes each
    assert held_12 - held_4 <= buckets
    assert peak_12 - peak_4 <= buckets
    plain_4, plain_12 = (held_and_peak(n, False, form)[0] for n in (4, 12))
    assert plain_12 > 2.5 * plain_4 > 5 * held_4
