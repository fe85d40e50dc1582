"""Reversible layers in the real model: right gradients, and a replay that really happens."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from tests.models.tiny import (
    SCOPES,
    SPARSE_PROJECTIONS,
    WITH_NGRAMS,
    WITH_SRU,
    dropout_fields,
    gradients,
    loss_and_gradients,
    random_ids,
    tiny_lm,
)

KINDS = ["local", "lsh", "full", "full_shared_qk"]


def assert_same_gradients(actual: dict, expected: dict) -> None:
    assert actual.keys() == expected.keys()
    for name, gradient in expected.items():
        assert_close(
            actual[name], gradient, rtol=1e-7, atol=1e-11, msg=lambda m, n=name: f"{n} {m}"
        )


def both_ways(prepare=lambda model: None, inputs=None, **fields) -> list[dict]:
    """Gradients with and without reversible layers, from the same weights and random numbers."""
    results = []
    for reversible in (True, False):
        model = tiny_lm(reversible=reversible, **fields).double().train()
        prepare(model)
        ids = random_ids(2, 21)
        torch.manual_seed(7)
        results.append(loss_and_gradients(model, **(inputs or {"input_ids": ids, "labels": ids})))
    (loss, found), (plain_loss, plain_found) = results
    assert torch.equal(loss, plain_loss)
    return [found, plain_found]


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("chunk_size", [0, 5])
def test_gradients_equal_plain_ones_with_dropout(scope, chunk_size):
    found, expected = both_ways(
        attn_layers=KINDS,
        attention_scope=scope,
        chunk_size_feed_forward=chunk_size,
        **dropout_fields(),
    )
    assert len(found) == len(list(tiny_lm(attn_layers=KINDS).parameters()))
    assert_same_gradients(found, expected)


@pytest.mark.parametrize(
    "documents",
    [
        {"attention_mask": (torch.arange(21) >= torch.tensor([[6], [0]])).long()},
        {"seq_idx": (torch.arange(21) > 8).long()[None]},
    ],
)
def test_gradients_equal_plain_ones_with_documents(documents):
    ids = random_ids(2, 21)
    inputs = {"input_ids": ids, "labels": ids, **documents}
    options = {**WITH_NGRAMS, **WITH_SRU, **SPARSE_PROJECTIONS, "chunk_size_feed_forward": 5}
    fields = {"attn_layers": KINDS, **options, **dropout_fields()}
    assert_same_gradients(*both_ways(inputs=inputs, **fields))


def freeze_embeddings(model: nn.Module) -> None:
    model.reformer.embeddings.requires_grad_(False)


def freeze_all_but_the_first_layer(model: nn.Module) -> None:
    model.requires_grad_(False)
    model.reformer.encoder.layers[0].requires_grad_(True)


def freeze_all_but_the_last_layer(model: nn.Module) -> None:
    model.requires_grad_(False)
    model.reformer.encoder.layers[-1].requires_grad_(True)


def freeze_a_middle_layer(model: nn.Module) -> None:
    model.reformer.encoder.layers[1].requires_grad_(False)


@pytest.mark.parametrize(
    "freeze",
    [
        freeze_embeddings,
        freeze_all_but_the_first_layer,
        freeze_all_but_the_last_layer,
        freeze_a_middle_layer,
    ],
)
def test_gradients_equal_plain_ones_with_frozen_parts(freeze):
    found, expected = both_ways(freeze, attn_layers=["lsh", "local", "lsh"], **dropout_fields())
    assert found
    assert_same_gradients(found, expected)


def test_gradients_in_evaluation_mode():
    """Saliency: the gradient of an output to the embedded input, without training mode."""
    found = []
    for reversible in (True, False):
        model = tiny_lm(reversible=reversible, **dropout_fields()).double()
        embedded = model.get_input_embeddings()(random_ids(1, 15)).detach().requires_grad_()
        score = model(inputs_embeds=embedded).logits[0, -1, 3]
        found.append(torch.autograd.grad(score, embedded)[0])
        assert not model.training
    assert_close(*found)
    assert found[0].any()


class CallCounter:
    """Counts the forward calls of every sub-layer of a model."""

    def __init__(self, model: nn.Module) -> None:
        self.calls: dict[str, int] = {}
        for index, layer in enumerate(model.reformer.encoder.layers):
            for name in ("attention", "feed_forward"):
                self.watch(f"{index}.{name}", getattr(layer, name))

    def watch(self, name: str, module: nn.Module) -> None:
        self.calls[name] = 0

        def count(*_) -> None:
            self.calls[name] += 1

        module.register_forward_hook(count)

    def take(self) -> set[int]:
        """How often the sub-layers were called since the last time."""
        taken = set(self.calls.values())
        self.calls = dict.fromkeys(self.calls, 0)
        return taken


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("use_cache", [True, False])
def test_each_sublayer_is_replayed_once_in_backward(scope, use_cache):
    model = tiny_lm(attn_layers=KINDS, attention_scope=scope, use_cache=use_cache).train()
    counter, ids = CallCounter(model), random_ids(2, 21)
    for training in (True, False):
        model.train(training)
        loss = model(ids, labels=ids).loss
        assert counter.take() == {1}
        loss.backward()
        assert counter.take() == {1}


def test_no_replay_where_none_is_due():
    model = tiny_lm(attn_layers=KINDS).train()
    counter, ids = CallCounter(model), random_ids(2, 21)
    with torch.no_grad():
        model(ids, labels=ids)
    assert counter.take() == {1}
    model(ids, labels=ids, output_attentions=True).loss.backward()
    assert counter.take() == {1}  # the maps hold what a replay would save
    plain = tiny_lm(attn_layers=KINDS, reversible=False).train()
    counter = CallCounter(plain)
    plain(ids, labels=ids).loss.backward()
    assert counter.take() == {1}


def test_buckets_are_remembered_not_hashed_again(monkeypatch):
    model = tiny_lm(attn_layers=["lsh", "lsh"]).train()
    attention = model.reformer.encoder.layers[0].attention.self_attention
    calls = []
    hashing = attention.hash
    monkeypatch.setattr(attention, "hash", lambda *inputs: calls.append(1) or hashing(*inputs))
    ids = random_ids(2, 21)
    model(ids, labels=ids).loss.backward()
    assert len(calls) == 1


def bytes_saved(model: nn.Module) -> int:
    """Bytes that autograd keeps of a forward pass, apart from what a replay would rebuild."""
    total, ids = 0, random_ids(2, 32)

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        nonlocal total
        total += 0 if isinstance(tensor, nn.Parameter) else tensor.nbytes
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model(ids, labels=ids)
    return total


def test_what_is_kept_for_backward_does_not_grow_with_depth():
    saved = {
        (reversible, depth): bytes_saved(
            tiny_lm(reversible=reversible, attn_layers=["lsh"] * depth)
        )
        for reversible in (True, False)
        for depth in (1, 4)
    }
    assert saved[True, 1] == saved[True, 4] < saved[False, 1]
    assert saved[False, 4] > 3 * (saved[False, 1] - saved[True, 1])


@pytest.mark.parametrize("reversible", [True, False])
def test_activation_checkpointing_changes_no_gradient(reversible):
    model = tiny_lm(reversible=reversible, attn_layers=KINDS, **dropout_fields()).double().train()
    ids = random_ids(2, 21)
    torch.manual_seed(7)
    expected = loss_and_gradients(model, input_ids=ids, labels=ids)[1]
    counter = CallCounter(model)
    model.activation_checkpointing_enable()
    torch.manual_seed(7)
    found = loss_and_gradients(model, input_ids=ids, labels=ids)[1]
    assert_same_gradients(found, expected)
    assert max(counter.take()) == 2  # checkpointing stops once it has what it needs
    with pytest.warns(FutureWarning, match="activation_checkpointing_enable"):
        model.gradient_checkpointing_enable()
    torch.manual_seed(7)
    assert_same_gradients(loss_and_gradients(model, input_ids=ids, labels=ids)[1], expected)


def test_two_passes_before_one_backward():
    model = tiny_lm(**dropout_fields()).double().train()
    first, second = random_ids(2, 21), random_ids(2, 9, seed=1)
    torch.manual_seed(7)
    loss = model(first, labels=first).loss + model(second, labels=second).loss
    model.zero_grad()
    loss.backward()
    found = gradients(model)
    torch.manual_seed(7)
    model.zero_grad()
    for ids in (first, second):
        model(ids, labels=ids).loss.backward()
    assert_same_gradients(found, gradients(model))
