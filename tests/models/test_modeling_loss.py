"""The loss: whole or in chunks, its divisor, which labels count, which logits come back."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.testing import assert_close

from tests.models.tiny import (
    SCOPES,
    dropout_fields,
    gradients,
    loss_and_gradients,
    random_ids,
    tiny_lm,
)


def expected_loss(logits: Tensor, labels: Tensor, divisor: float | None = None) -> Tensor:
    """Cross-entropy of each place's logits and the label after it, in a plain loop."""
    total, count = logits.new_zeros(()), 0
    for row_logits, row_labels in zip(logits, labels, strict=True):
        for place in range(len(row_labels) - 1):
            label = int(row_labels[place + 1])
            if label != -100:
                total = total - row_logits[place].log_softmax(-1)[label]
                count += 1
    return total / (count if divisor is None else divisor)


def some_labels(ids: Tensor) -> Tensor:
    """Labels with a few places left out."""
    return ids.masked_fill(torch.rand(ids.shape) < 0.3, -100)


@pytest.mark.parametrize("chunk_size", [0, 1, 4, 100])
@pytest.mark.parametrize("num_items", [None, 7, torch.tensor(7), torch.tensor(7.0)])
def test_the_loss_is_shifted_cross_entropy_over_the_number_of_items(chunk_size, num_items):
    model = tiny_lm(chunk_size_lm_head=chunk_size).double()
    ids = random_ids(2, 13)
    labels = some_labels(ids)
    loss = model(ids, labels=labels, num_items_in_batch=num_items).loss
    expected = expected_loss(model(ids).logits, labels, num_items and float(num_items))
    # Without chunks it is transformers' own loss, which is computed in float32.
    tolerance = {"rtol": 1e-12, "atol": 0} if chunk_size else {"rtol": 1e-5, "atol": 1e-6}
    assert_close(loss.double(), expected, **tolerance)


@pytest.mark.parametrize("chunk_size", [0, 4])
@pytest.mark.parametrize("num_items", [None, 7])
def test_targets_of_the_places_themselves_reach_to_the_last_place(chunk_size, num_items):
    model = tiny_lm(chunk_size_lm_head=chunk_size)
    ids = random_ids(2, 13)
    whole = {"input_ids": ids, "labels": some_labels(ids), "num_items_in_batch": num_items}
    # All but the last token, with the last token's label too.
    shifted = {"input_ids": ids[:, :-1], "shift_labels": whole["labels"][:, 1:]}
    loss, expected = loss_and_gradients(model, **whole)
    for labels in (None, ids[:, :-1]):  # Trainer wants labels beside them, which are not read
        inputs = shifted | {"labels": labels, "num_items_in_batch": num_items}
        shifted_loss, found = loss_and_gradients(model, **inputs)
        assert_close(shifted_loss, loss)
        assert_close(found, expected)
    with pytest.raises(ValueError, match=r"shape \(2, 11\), the input has \(2, 12\)"):
        model(ids[:, :-1], shift_labels=ids[:, 2:])


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("chunk_size", [1, 5, 13, 64])
def test_a_chunked_loss_has_the_gradients_of_a_whole_one(scope, chunk_size):
    ids = random_ids(3, 13)
    labels = some_labels(ids)
    model = tiny_lm(attention_scope=scope, **dropout_fields()).double().train()
    # That of the last hidden state is drawn for each chunk: other numbers with other chunks.
    model.reformer.encoder.dropout.p = 0.0
    results = []
    for size in (0, chunk_size):
        model.config.chunk_size_lm_head = size
        torch.manual_seed(3)
        results.append(loss_and_gradients(model, input_ids=ids, labels=labels))
    (loss, whole), (chunked_loss, chunked) = results
    assert_close(chunked_loss.float(), loss)
    assert len(whole) == len(list(model.parameters()))
    for name, gradient in whole.items():
        assert_close(chunked[name], gradient, rtol=1e-4, atol=1e-7)


def test_logits_are_left_out_only_in_training_with_a_chunked_loss():
    ids = random_ids(2, 13)
    for chunk_size in (0, 4):
        model = tiny_lm(chunk_size_lm_head=chunk_size)
        whole = model(ids).logits
        for training in (False, True):
            model.train(training)
            assert model(ids).logits is not None
            logits = model(ids, labels=ids).logits
            if training and chunk_size:
                assert logits is None
            elif not training:
                assert_close(logits, whole)


def test_no_chunk_holds_more_logits_than_asked_for():
    model = tiny_lm(chunk_size_lm_head=4).train()
    shapes = []
    model.lm_head.register_forward_hook(lambda module, inputs, output: shapes.append(output.shape))
    model(random_ids(2, 13), labels=random_ids(2, 13)).loss.backward()
    assert {shape[1] for shape in shapes} == {4, 1}
    assert len(shapes) == 2 * math.ceil(13 / 4)  # forward, and again in backward


@pytest.mark.parametrize("chunk_size", [0, 4])
@pytest.mark.parametrize("with_labels", [False, True])
def test_logits_to_keep(chunk_size, with_labels):
    model, ids = tiny_lm(chunk_size_lm_head=chunk_size), random_ids(2, 13)
    whole = model(ids)
    places = torch.tensor([0, 5, 12])
    options = {"labels": ids} if with_labels else {}
    loss = model(ids, labels=ids).loss
    for keep, expected in (
        (0, whole.logits),
        (1, whole.logits[:, -1:]),
        (5, whole.logits[:, -5:]),
        (places, whole.logits[:, places]),
    ):
        output = model(ids, logits_to_keep=keep, **options)
        assert_close(output.logits, expected)
        if with_labels:
            assert_close(output.loss, loss)  # the loss is of all places


def test_the_head_computes_only_the_logits_to_keep():
    model = tiny_lm()
    shapes = []
    model.lm_head.register_forward_hook(lambda module, inputs, output: shapes.append(output.shape))
    model(random_ids(2, 13), logits_to_keep=1)
    assert shapes == [(2, 1, 40)]


@pytest.mark.parametrize("chunk_size", [0, 4])
def test_the_first_token_of_each_packed_document_has_no_loss(chunk_size):
    model = tiny_lm(chunk_size_lm_head=chunk_size)
    ids = random_ids(2, 13)
    seq_idx = torch.tensor([[0] * 5 + [1] * 8, [3] * 2 + [4] * 1 + [9] * 10])
    labels = ids.clone()
    labels[0, 5] = labels[1, 2] = labels[1, 3] = -100
    expected = expected_loss(model(ids, seq_idx=seq_idx).logits, labels)
    assert_close(model(ids, labels=ids, seq_idx=seq_idx).loss, expected)
    restarting = torch.tensor([[*range(5), *range(8)], [0, 1, 0, *range(10)]])
    assert_close(model(ids, labels=ids, position_ids=restarting).loss, expected)


@pytest.mark.parametrize("chunk_size", [0, 4])
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("scope", SCOPES)
def test_padding_neither_predicts_nor_is_predicted_across_its_border(chunk_size, side, scope):
    model = tiny_lm(chunk_size_lm_head=chunk_size, attention_scope=scope)
    ids, mask = random_ids(2, 13), torch.ones(2, 13, dtype=torch.long)
    border = 4 if side == "left" else 9
    if side == "left":
        mask[1, :4] = 0
    else:
        mask[1, 9:] = 0
    labels = ids.clone()
    labels[1, border] = -100  # its neighbour stands on the other side of the border
    expected = expected_loss(model(ids, attention_mask=mask).logits, labels)
    assert_close(model(ids, attention_mask=mask, labels=ids).loss, expected)
    # The usual labels, none at padding: the loss is that of the rows alone.
    unpadded = ids[1:, 4:] if side == "left" else ids[1:, :9]
    alone = [model(row, labels=row).loss for row in (ids[:1], unpadded)]
    usual = ids.masked_fill(mask == 0, -100)
    both = model(ids, attention_mask=mask, labels=usual).loss
    assert_close(both, (12 * alone[0] + 8 * alone[1]) / 20)


def test_labels_are_not_changed():
    model, labels = tiny_lm(), random_ids(2, 6)
    before = labels.clone()
    model(labels, labels=labels, seq_idx=torch.tensor([[0, 0, 1, 1, 2, 2]])).loss.backward()
    assert torch.equal(labels, before)


def test_without_any_label_a_given_divisor_gives_zero():
    for chunk_size in (0, 4):
        model = tiny_lm(chunk_size_lm_head=chunk_size)
        ids = random_ids(2, 6)
        labels = torch.full_like(ids, -100)
        loss = model(ids, labels=labels, num_items_in_batch=5).loss
        assert loss == 0
        loss.backward()
        assert all(not gradient.any() for gradient in gradients(model).values())


def test_the_head_bias_takes_part():
    model, ids = tiny_lm(), random_ids(2, 6)
    before = model(ids).logits
    with torch.no_grad():
        model.lm_head.bias += torch.arange(40.0)
    assert_close(model(ids).logits, before + torch.arange(40.0))
    model(ids, labels=ids).loss.backward()
    logits = model(ids).logits[:, :-1].flatten(0, 1).detach().requires_grad_()
    cross_entropy(logits, ids[:, 1:].flatten()).backward()
    assert_close(model.lm_head.bias.grad, logits.grad.sum(dim=0))
