"""Encoder-decoders and task heads: autocast, bfloat16 parameters, devices."""

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.testing import assert_close

from tests.models.heads import HEADS
from tests.models.seq2seq import FORMS, padded_source, random_labels, tiny_seq2seq
from tests.models.tiny import dropout_fields, gradients

FAKE = torch.device("meta")
"""A device other than the CPU for fake tensors; see `test_modeling_precision`."""


def under_autocast(model: nn.Module, inputs: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
    torch.manual_seed(7)
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(**inputs).loss
    loss.backward()  # outside, as Trainer does
    return loss.detach(), gradients(model)


def assert_equals_plain(build, inputs: dict[str, Tensor]) -> None:
    """Reversible and plain models of bfloat16 products agree to a few of its last places."""
    (loss, found), (plain_loss, expected) = (
        under_autocast(build(reversible=reversible, **dropout_fields()).train(), inputs)
        for reversible in (True, False)
    )
    assert loss.dtype == torch.float32 and torch.equal(loss, plain_loss)
    for name, gradient in expected.items():
        scale = gradient.abs().max().item()
        assert_close(found[name], gradient, rtol=0, atol=scale * 2**-6, msg=name)


@pytest.mark.parametrize("form", FORMS)
def test_an_encoder_decoder_under_autocast(form):
    inputs = {**padded_source(), "labels": random_labels()}
    assert_equals_plain(lambda **fields: tiny_seq2seq(decoder_form=form, **fields), inputs)


@pytest.mark.parametrize("head", HEADS)
def test_heads_under_autocast(head):
    assert_equals_plain(HEADS[head].build, HEADS[head].batch(2, 13))


@pytest.mark.parametrize("how", ["parameters", "autocast"])
@pytest.mark.parametrize("form", FORMS)
def test_an_encoder_decoder_generates_in_bfloat16(form, how):
    """With and without a cache the same tokens, but for ties of so short numbers."""
    model = tiny_seq2seq(decoder_form=form)
    source = padded_source()
    options = {"max_new_tokens": 6, "num_beams": 2, "do_sample": False}
    if how == "parameters":
        model.bfloat16()
    with torch.autocast("cpu", torch.bfloat16, enabled=how == "autocast"):
        found = model.generate(**source, **options)
        logits = model(**source, labels=random_labels()).logits
    assert found.shape[0] == 3 and 2 <= found.shape[1] <= 7
    assert logits.isfinite().all()
    exact = tiny_seq2seq(decoder_form=form)(**source, labels=random_labels()).logits
    assert (logits.float() - exact).abs().mean() < 0.1 * exact.std()


@pytest.mark.parametrize("form", FORMS)
def test_nothing_of_an_encoder_decoder_strays_from_the_device(form):
    with FakeTensorMode():
        with FAKE:
            model = tiny_seq2seq(decoder_form=form, **dropout_fields()).train()
            ids = torch.zeros(2, 11, dtype=torch.long)
            mask, labels = torch.ones_like(ids), torch.zeros(2, 6, dtype=torch.long)
        loss = model(input_ids=ids, attention_mask=mask, labels=labels).loss
        loss.backward()
        assert {t.device.type for t in (loss, *gradients(model).values())} == {"meta"}


@pytest.mark.parametrize("head", HEADS)
def test_nothing_of_a_head_strays_from_the_device(head):
    with FakeTensorMode():
        with FAKE:
            model = HEADS[head].build(**dropout_fields()).train()
        batch = {
            name: torch.zeros(value.shape, dtype=value.dtype, device=FAKE)
            for name, value in HEADS[head].batch(2, 13).items()
        }
        mask = torch.ones(batch["input_ids"].shape, device=FAKE)
        loss = model(**batch, attention_mask=mask).loss
        loss.backward()
        assert {t.device.type for t in (loss, *gradients(model).values())} == {"meta"}
