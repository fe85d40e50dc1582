"""What holds for every task head: padding, gradients, files, outputs, refusals."""

import pytest
import torch
from torch import Tensor
from torch.nn.functional import pad
from torch.testing import assert_close

from reformer_hf import ReformerHFForCausalLM
from tests.models.heads import CAUSAL_TOO, HEADS, scores
from tests.models.tiny import SCOPES, dropout_fields, loss_and_gradients, random_ids, tiny_lm

every_head = pytest.mark.parametrize("name", HEADS)
KINDS = [*((name, False) for name in HEADS), *((name, True) for name in CAUSAL_TOO)]
every_kind = pytest.mark.parametrize(("name", "causal"), KINDS)


def build(name: str, causal: bool = False, **fields):
    return HEADS[name].build(is_decoder=causal or None, **fields)


def pad_batch(batches: list[dict[str, Tensor]], side: str, width: int) -> dict[str, Tensor]:
    """Put batches of one row each into one, with padding up to `width`."""
    padded = []
    for batch in batches:
        ids = batch["input_ids"]
        missing = width - ids.shape[-1]
        room = (missing, 0) if side == "left" else (0, missing)
        row = {"input_ids": pad(ids, room), "attention_mask": pad(torch.ones_like(ids), room)}
        for key, labels in batch.items():
            if key.endswith("positions"):
                row[key] = labels + room[0]
            elif key == "labels":
                per_token = labels.shape == ids.shape
                row[key] = pad(labels, room, value=-100) if per_token else labels
        padded.append(row)
    return {key: torch.cat([row[key] for row in padded]) for key in padded[0]}


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("scope", SCOPES)
@every_kind
def test_padding_and_batch_mates_change_nothing(name, causal, scope, side):
    model = build(name, causal, attention_scope=scope).double()
    lengths = (13, 7, 10)
    batches = [HEADS[name].batch(1, seq, seed=seq) for seq in lengths]
    with torch.no_grad():
        alone = [model(**batch) for batch in batches]
        together = model(**pad_batch(batches, side, width=17))
    weights = torch.ones(3, dtype=torch.float64)
    if name.startswith(("masked", "token")):
        weights *= torch.tensor([int((batch["labels"] != -100).sum()) for batch in batches])
    losses = torch.stack([output.loss for output in alone]).double()
    # transformers' own losses per token are computed in float32.
    assert_close(together.loss.double(), losses @ weights / weights.sum(), rtol=1e-6, atol=0)
    per_token = name.startswith(("masked", "token", "question"))
    for row, (output, length) in enumerate(zip(alone, lengths, strict=True)):
        found = scores(together)[row]
        if per_token:
            found = found[17 - length :] if side == "left" else found[:length]
        assert_close(found, scores(output)[0])


@every_kind
def test_it_learns_and_loads_by_its_auto_class(name, causal, tmp_path):
    head, model = HEADS[name], build(name, causal)
    batch = head.batch(4, 11)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    model.train()
    first = model(**batch).loss.item()
    for _ in range(25):
        optimizer.zero_grad()
        loss = model(**batch).loss
        loss.backward()
        optimizer.step()
    assert loss.item() < first / 2
    assert all(parameter.grad is not None for parameter in model.parameters())

    model.eval().save_pretrained(tmp_path)
    loaded, report = head.auto.from_pretrained(tmp_path, output_loading_info=True)
    assert type(loaded) is head.model and not loaded.training
    assert not any(report.values())
    assert loaded.config.to_diff_dict() == model.config.to_diff_dict() | {"dtype": "float32"}
    with torch.no_grad():
        before, after = model(**batch), loaded(**batch)
    assert torch.equal(scores(after), scores(before))
    assert torch.equal(after.loss, before.loss)


@pytest.mark.parametrize("scope", SCOPES)
@every_kind
def test_reversible_gradients_equal_plain_ones(name, causal, scope):
    layers = ["local", "lsh", "full", "full_shared_qk"]
    results = []
    for reversible in (True, False):
        fields = {"attn_layers": layers, "attention_scope": scope, **dropout_fields()}
        model = build(name, causal, reversible=reversible, **fields).double().train()
        torch.manual_seed(5)
        results.append(loss_and_gradients(model, **HEADS[name].batch(2, 21)))
    (loss, found), (plain_loss, plain) = results
    assert torch.equal(loss, plain_loss)
    assert found.keys() == plain.keys() == dict(model.named_parameters()).keys()
    for key in plain:
        assert_close(found[key], plain[key], rtol=1e-6, atol=1e-10)


@every_head
def test_causal_models_and_heads_load_each_others_weights(name, tmp_path):
    head, causal = HEADS[name], tiny_lm()
    causal.save_pretrained(tmp_path / "causal")
    masked = name.startswith("masked")
    fields = {"is_decoder": False} if masked else {}
    loaded, report = head.auto.from_pretrained(
        tmp_path / "causal", output_loading_info=True, **fields, **head.fields
    )
    new = {key for key in loaded.state_dict() if not key.startswith(("reformer.", "lm_head."))}
    assert report["missing_keys"] == new and not report["unexpected_keys"]
    assert not report["mismatched_keys"]
    for key, weight in causal.state_dict().items():
        if key in loaded.state_dict():
            assert torch.equal(loaded.state_dict()[key], weight)

    loaded.save_pretrained(tmp_path / "head")
    fields = {"is_decoder": True} if masked else {}
    back, report = ReformerHFForCausalLM.from_pretrained(
        tmp_path / "head", output_loading_info=True, **fields
    )
    new = set() if masked else {"lm_head.bias", "lm_head.decoder.weight"}
    assert report["missing_keys"] == new and not report["unexpected_keys"]
    for key, weight in causal.reformer.state_dict().items():
        assert torch.equal(back.reformer.state_dict()[key], weight)


@every_head
def test_hidden_states_and_attention_maps_pass_through(name):
    head, model = HEADS[name], build(name, redraw_rotations=False)
    batch = head.batch(2, 9)
    rows = 2 * head.choices
    expected = model(**batch)
    assert expected.hidden_states is None and expected.attentions is None
    output = model(**batch, output_hidden_states=True, output_attentions=True)
    assert [tuple(state.shape) for state in output.hidden_states] == [(rows, 9, 32)] * 3
    assert [tuple(dense.shape) for dense in output.attentions] == [(rows, 2, 9, 9)] * 2
    assert_close(scores(output), scores(expected))
    model.train()
    asked = model(**batch, output_hidden_states=True)
    assert_close(asked.loss, expected.loss)
    assert [tuple(state.shape) for state in asked.hidden_states] == [(rows, 9, 32)] * 3


@every_head
def test_outputs_as_a_tuple(name):
    model, batch = build(name), HEADS[name].batch(2, 9)
    expected = model(**batch)
    found = model(**batch, return_dict=False)
    assert type(found) is tuple
    assert torch.equal(found[0], expected.loss) and torch.equal(found[1], expected[1])


@every_head
def test_embedded_tokens_and_other_arguments_reach_the_model(name):
    model, batch = build(name, redraw_rotations=False), HEADS[name].batch(2, 9)
    ids = batch.pop("input_ids")
    embedded = model.get_input_embeddings()(ids)
    assert_close(model(inputs_embeds=embedded, **batch).loss, model(ids, **batch).loss)
    two, three = (scores(model(ids, num_hashes=number)) for number in (2, 3))
    assert torch.equal(two, scores(model(ids))) and not torch.equal(three, two)
    positions = torch.arange(5, 14).expand(ids.shape)
    assert not torch.equal(scores(model(ids, position_ids=positions)), two)


@every_head
def test_misspelt_arguments_and_caches_are_refused(name):
    model, ids = build(name, name in CAUSAL_TOO), HEADS[name].ids(2, 9)
    with pytest.raises(TypeError, match="atention_mask"):
        model(ids, atention_mask=torch.ones_like(ids))
    with pytest.raises(ValueError, match="use_cache=True"):
        model(ids, use_cache=True)
    assert model(ids, use_cache=False) is not None
    with pytest.raises(ValueError, match="exactly one of input_ids"):
        model()


@every_head
def test_a_forward_does_not_change_the_configuration(name):
    model = build(name).train()
    before = model.config.to_dict()
    model(**HEADS[name].batch(2, 9)).loss.backward()
    assert model.config.to_dict() == before


@pytest.mark.parametrize("name", [name for name in HEADS if not name.startswith(("masked", "tok"))])
def test_packed_rows_and_rows_of_padding_are_refused_where_a_row_has_one_answer(name):
    model, ids = build(name), HEADS[name].ids(2, 9)
    documents = (torch.arange(9) > 4).long().expand(ids.shape)
    for packed in ({"seq_idx": documents}, {"position_ids": torch.arange(9) % 5 + 0 * ids}):
        with pytest.raises(ValueError, match="packed rows"):
            model(ids, **packed)
    mask = torch.ones_like(ids)
    mask[-1] = 0
    with pytest.raises(ValueError, match="no real token in row"):
        model(ids, attention_mask=mask)


@pytest.mark.parametrize("name", ["masked language model", "token classification"])
def test_packed_rows_equal_their_documents_alone(name):
    model = build(name).double()
    ids = random_ids(1, 12)
    packed = model(ids, seq_idx=torch.tensor([[0] * 5 + [1] * 7])).logits
    alone = [model(part).logits for part in (ids[:, :5], ids[:, 5:])]
    assert_close(packed, torch.cat(alone, dim=1))


@every_head
def test_low_precision(name):
    model, batch = build(name), HEADS[name].batch(2, 9)
    expected = model(**batch)
    low = model.bfloat16()(**batch)
    assert scores(low).dtype == torch.bfloat16 and low.loss.dtype == torch.float32
    assert (low.loss - expected.loss).abs() < 0.3 * expected.loss.abs().clamp(min=1)
