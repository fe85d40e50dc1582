"""Padding on either side, batch-mates and packing: no effect on real tokens."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from tests.models.tiny import (
    ALL_OPTIONS,
    ROTARY_CONVOLUTION,
    SCOPES,
    SPARSE_PROJECTIONS,
    WITH_NGRAMS,
    WITH_SRU,
    gradients,
    random_ids,
    tiny_encoder,
    tiny_lm,
)

MIXED = {"attn_layers": ["local", "lsh", "full_shared_qk", "lsh"]}


def build_models(band: dict, chunk: dict) -> dict:
    """Causal and bidirectional models of either scope, with these fields.

    Causal ones with options have recurrent units, too.
    """
    models = {}
    for scope, fields in (("band", band), ("chunk", chunk)):
        for causal in (True, None):
            units = WITH_SRU if causal and fields != MIXED else {}
            model = tiny_encoder(attention_scope=scope, is_decoder=causal, **fields, **units)
            models[scope, causal] = model.double()
    return models


MODELS = build_models(MIXED, MIXED)
SPARSE = MIXED | SPARSE_PROJECTIONS
OPTIONS = build_models(SPARSE | WITH_NGRAMS, SPARSE | ROTARY_CONVOLUTION)
ROWS = st.lists(st.integers(1, 19), min_size=1, max_size=4)
EVERY_MODEL = st.sampled_from([*MODELS.values(), *OPTIONS.values()])


def pad(rows: list[Tensor], lefts: list[int], length: int) -> tuple[Tensor, Tensor]:
    """Put each row of ids at a place of a padded batch; returns ids and mask."""
    ids = torch.randint(0, 40, (len(rows), length))  # padding may hold anything
    mask = torch.zeros_like(ids)
    for index, (row, left) in enumerate(zip(rows, lefts, strict=True)):
        ids[index, left : left + len(row)] = row
        mask[index, left : left + len(row)] = 1
    return ids, mask


@settings(max_examples=20)
@given(model=EVERY_MODEL, lengths=ROWS, data=st.data())
def test_a_padded_batch_gives_what_each_row_gives_alone(model, lengths, data):
    rows = [random_ids(length, seed=index) for index, length in enumerate(lengths)]
    width = max(lengths) + data.draw(st.integers(0, 9), label="padding")
    lefts = [data.draw(st.integers(0, width - length), label="left") for length in lengths]
    ids, mask = pad(rows, lefts, width)
    batch = model(ids, attention_mask=mask).last_hidden_state
    for row, left, output in zip(rows, lefts, batch, strict=True):
        alone = model(row[None]).last_hidden_state[0]
        assert_close(output[left : left + len(row)], alone)


@pytest.mark.parametrize("scope", SCOPES)
def test_padding_within_a_row_is_as_if_it_were_not_there(scope):
    model = OPTIONS[scope, True]
    ids, mask = random_ids(2, 17), torch.ones(2, 17, dtype=torch.long)
    mask[0, [2, 6, 7]] = mask[1, [0, 9, 16]] = 0
    batch = model(ids, attention_mask=mask).last_hidden_state
    for row, real, output in zip(ids, mask.bool(), batch, strict=True):
        assert_close(output[real], model(row[real][None]).last_hidden_state[0])


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_changes_no_gradient(scope, side):
    model = OPTIONS[scope, True]
    rows = [random_ids(length, seed=length) for length in (3, 10, 17)]
    weights = [torch.randn(len(row), 32).double() for row in rows]
    model.zero_grad()
    for row, weight in zip(rows, weights, strict=True):
        (model(row[None]).last_hidden_state[0] * weight).sum().backward()
    alone = gradients(model)
    model.zero_grad()
    lefts = [21 - len(row) if side == "left" else 0 for row in rows]
    ids, mask = pad(rows, lefts, 21)
    output = model(ids, attention_mask=mask).last_hidden_state
    for row, left, weight, states in zip(rows, lefts, weights, output, strict=True):
        (states[left : left + len(row)] * weight).sum().backward(retain_graph=True)
    for name, gradient in gradients(model).items():
        assert_close(gradient, alone[name], rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("causal", [True, None])
@settings(max_examples=10)
@given(plain=st.booleans(), lengths=ROWS, by_positions=st.booleans(), spare=st.integers(0, 5))
def test_packed_documents_give_what_separate_rows_give(causal, plain, lengths, by_positions, spare):
    model = (MODELS if plain else OPTIONS)["band", causal]
    rows = [random_ids(length, seed=index) for index, length in enumerate(lengths)]
    packed = torch.cat(rows)[None]
    if by_positions:
        documents = {"position_ids": torch.cat([torch.arange(n) for n in lengths])[None]}
    else:
        numbers = torch.repeat_interleave(torch.tensor(lengths))
        documents = {"seq_idx": 50 - 3 * numbers[None]}  # any numbers will do
        if spare:
            packed = torch.cat([packed, random_ids(1, spare)], dim=1)
            documents["seq_idx"] = torch.nn.functional.pad(documents["seq_idx"], (0, spare))
            mask = torch.ones_like(packed)
            mask[:, -spare:] = 0
            documents["attention_mask"] = mask
    output = model(packed, **documents).last_hidden_state[0]
    parts = output[: sum(lengths)].split(lengths)
    for row, part in zip(rows, parts, strict=True):
        assert_close(part, model(row[None]).last_hidden_state[0])


def test_packed_rows_may_differ_in_their_documents():
    model = OPTIONS["band", True]
    ids = random_ids(2, 12)
    seq_idx = torch.tensor([[0] * 5 + [1] * 7, [0] * 9 + [1] * 3])
    output = model(ids, seq_idx=seq_idx).last_hidden_state
    for row, border in enumerate((5, 9)):
        for part in (slice(None, border), slice(border, None)):
            alone = model(ids[row : row + 1, part]).last_hidden_state[0]
            assert_close(output[row, part], alone)


def test_a_whole_packed_row_can_be_longer_than_the_position_limit():
    model = MODELS["band", True]
    ids = random_ids(1, 150)
    seq_idx = torch.tensor([[0] * 80 + [1] * 70])
    output = model(ids, seq_idx=seq_idx).last_hidden_state[0]
    assert_close(output[80:], model(ids[:, 80:]).last_hidden_state[0])


@pytest.mark.parametrize("scope", SCOPES)
def test_one_row_of_a_batch_never_sees_another(scope):
    # Without n-grams, which vectors do not have.
    model = build_models(SPARSE | ALL_OPTIONS, SPARSE | ROTARY_CONVOLUTION)[scope, True]
    embedded = torch.randn(3, 13, 16).double().requires_grad_()
    model(inputs_embeds=embedded).last_hidden_state[1].sin().sum().backward()
    assert embedded.grad[1].abs().min() > 0
    assert not embedded.grad[0].any() and not embedded.grad[2].any()


def test_the_mask_reaches_the_loss_of_left_padded_rows():
    model = tiny_lm().double()
    row = random_ids(1, 9)
    ids, mask = pad([row[0]], [4], 13)
    labels = ids.masked_fill(mask == 0, -100)
    padded = model(ids, attention_mask=mask, labels=labels).loss
    assert_close(padded, model(row, labels=row).loss)
