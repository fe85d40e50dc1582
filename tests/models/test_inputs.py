"""Inputs: bad ones get an error that helps; rows are laid out as documented."""

import pytest
import torch

from reformer_hf import ReformerHFForCausalLM, ReformerHFForSequenceClassification
from reformer_hf.models.inputs import lay_out_rows
from reformer_hf.models.labels import first_token_labels
from tests.models.tiny import SCOPES, random_ids, tiny_config, tiny_encoder, tiny_lm

IDS = random_ids(2, 11)
LONG = torch.long

# Arguments of a forward, and what the message must hold: argument, value, fix.
BAD_INPUTS = {
    "empty batch": ({"input_ids": torch.zeros(0, 5, dtype=LONG)}, ["input_ids", "(0, 5)", "row"]),
    "empty rows": ({"input_ids": torch.zeros(2, 0, dtype=LONG)}, ["(2, 0)", "one token"]),
    "one axis": ({"input_ids": IDS[0]}, ["(11,)", "(batch, seq)"]),
    "float ids": ({"input_ids": IDS.float()}, ["input_ids", "float32", "torch.int64"]),
    "id too high": ({"input_ids": IDS + 38}, ["input_ids", "vocab_size=40", "tokenizer"]),
    "negative id": ({"input_ids": IDS - 100}, ["input_ids", "vocab_size=40"]),
    "no input": ({}, ["exactly one", "input_ids", "inputs_embeds"]),
    "two inputs": (
        {"input_ids": IDS, "inputs_embeds": torch.zeros(2, 11, 16)},
        ["exactly one", "input_ids", "inputs_embeds"],
    ),
    "embeddings too wide": (
        {"inputs_embeds": torch.zeros(2, 11, 17)},
        ["(2, 11, 17)", "hidden_size=16"],
    ),
    "no embeddings": ({"inputs_embeds": torch.zeros(2, 0, 16)}, ["(2, 0, 16)", "one token"]),
    "mask too short": (
        {"input_ids": IDS, "attention_mask": torch.ones(2, 10)},
        ["attention_mask", "(2, 10)", "(2, 11)", "per token"],
    ),
    "mask of four axes": (
        {"input_ids": IDS, "attention_mask": torch.ones(2, 1, 11, 11)},
        ["attention_mask", "(2, 1, 11, 11)"],
    ),
    "additive mask": (
        {"input_ids": IDS, "attention_mask": torch.full((2, 11), -1e9)},
        ["attention_mask", "0 (padding)", "1 (real token)"],
    ),
    "positions too short": (
        {"input_ids": IDS, "position_ids": torch.arange(10)[None]},
        ["position_ids", "(1, 10)", "(2, 11)"],
    ),
    "positions of another batch": (
        {"input_ids": IDS, "position_ids": torch.arange(11).expand(3, -1)},
        ["position_ids", "(3, 11)", "(2, 11)"],
    ),
    "negative position": (
        {"input_ids": IDS, "position_ids": torch.arange(11)[None] - 2},
        ["position -2", "96"],
    ),
    "position too high": (
        {"input_ids": IDS, "position_ids": torch.arange(11)[None] + 90},
        ["position 100", "96", "axial_pos_shape"],
    ),
    "row too long": (
        {"input_ids": torch.ones(1, 97, dtype=LONG)},
        ["position 96", "96", "shorten"],
    ),
    "documents of another batch": (
        {"input_ids": IDS, "seq_idx": torch.zeros(3, 11, dtype=LONG)},
        ["seq_idx", "(3, 11)", "(2, 11)"],
    ),
    "float documents": ({"input_ids": IDS, "seq_idx": torch.zeros(2, 11)}, ["seq_idx", "float32"]),
    "a cache": (
        {"input_ids": IDS, "past_key_values": object()},
        ["past_key_values", "leave it out"],
    ),
    "types of tokens": (
        {"input_ids": IDS, "token_type_ids": (torch.arange(11) > 5).long().expand(2, -1)},
        ["token_type_ids", "other than 0", "return_token_type_ids=False"],
    ),
    "whole numbers as embeddings": (
        {"inputs_embeds": torch.zeros(2, 11, 16, dtype=LONG)},
        ["inputs_embeds", "int64", "input_ids"],
    ),
    "half a round": ({"input_ids": IDS, "num_hashes": 1.5}, ["num_hashes=1.5", "int"]),
    "no rounds": ({"input_ids": IDS, "num_hashes": 0}, ["num_hashes=0", "at least 1"]),
    "too few decisions": ({"input_ids": IDS, "hash_decisions": []}, ["hash_decisions", "0", "2"]),
}

BAD_LABELS = {
    "too short": (IDS[:, :5], ["labels", "(2, 5)", "(2, 11)", "-100"]),
    "of another batch": (IDS[:1], ["labels", "(1, 11)", "(2, 11)"]),
    "too high": (IDS + 38, ["labels", "vocab_size=40", "-100"]),
    "another ignored label": (torch.full_like(IDS, -1), ["labels", "-1", "-100"]),
    "floats": (IDS.float(), ["labels", "float32", "torch.int64"]),
}


@pytest.mark.parametrize("case", BAD_INPUTS)
def test_bad_input_is_refused_with_its_value_and_a_fix(case):
    inputs, words = BAD_INPUTS[case]
    for model in (tiny_lm(), tiny_encoder()):
        with pytest.raises(ValueError) as caught:
            model(**inputs)
        for word in words:
            assert word in str(caught.value)


@pytest.mark.parametrize("case", BAD_LABELS)
@pytest.mark.parametrize("chunk_size", [0, 4])
def test_bad_labels_are_refused_with_their_value_and_a_fix(case, chunk_size):
    labels, words = BAD_LABELS[case]
    with pytest.raises(ValueError) as caught:
        tiny_lm(chunk_size_lm_head=chunk_size)(IDS, labels=labels)
    for word in words:
        assert word in str(caught.value)


def test_what_is_fine_is_not_refused():
    model = tiny_lm()
    expected = model(IDS).logits
    for same in (
        {"attention_mask": torch.ones(2, 11)},
        {"attention_mask": torch.ones(2, 11, dtype=torch.bool)},
        {"position_ids": torch.arange(11)},
        {"position_ids": torch.arange(11)[None]},
        {"seq_idx": torch.full((1, 11), 7, dtype=torch.int32)},
    ):
        assert torch.equal(model(IDS, **same).logits, expected)
    assert torch.equal(model(IDS.int()).logits, expected)
    nowhere = torch.zeros_like(IDS)
    assert model(IDS, attention_mask=nowhere).logits.isfinite().all()


@pytest.mark.parametrize("scope", SCOPES)
def test_more_padding_than_positions_is_no_matter(scope):
    model = tiny_lm(attention_scope=scope).double()
    ids = torch.cat([IDS, torch.zeros(2, 100, dtype=LONG)], dim=1)
    mask = (torch.arange(111) < 11).long().expand(2, -1)
    actual = model(ids, attention_mask=mask).logits[:, :11]
    torch.testing.assert_close(actual, model(IDS).logits)
    # Positions counted from the mask are -1 at padding on the left.
    ids, mask = ids.flip(1), mask.flip(1)
    positions = mask.cumsum(dim=1) - 1
    actual = model(ids, attention_mask=mask, position_ids=positions).logits[:, 100:]
    torch.testing.assert_close(actual, model(IDS.flip(1)).logits)


def test_no_limit_without_position_embeddings():
    ids = random_ids(1, 300)
    assert tiny_lm(position_embedding_type="none")(ids).logits.shape == (1, 300, 40)


def test_packed_rows_are_refused_in_the_chunk_scope():
    model = tiny_lm(attention_scope="chunk")
    packed = {"seq_idx": torch.tensor([0] * 5 + [1] * 6)[None]}
    restarting = {"position_ids": torch.tensor([*range(5), *range(6)])}
    mask = torch.ones(2, 11, dtype=LONG)
    mask[:, -1] = 0
    for documents in (packed, restarting, {**packed, "attention_mask": mask}):
        with pytest.raises(ValueError, match="attention_scope='chunk'.*band scope"):
            model(IDS, **documents)
    # One document behind padding is not packed, nor is one that starts late.
    model(IDS, seq_idx=torch.zeros(1, 11, dtype=LONG), attention_mask=mask)
    model(IDS, position_ids=torch.arange(3, 14))


def lay_out(attention_mask=None, position_ids=None, seq_idx=None):
    embedded = torch.zeros(1, 6, 16)
    layout = lay_out_rows(tiny_config(), embedded, attention_mask, position_ids, seq_idx)
    documents = layout.documents
    return None if documents is None else documents.tolist(), layout.position_ids.tolist()


def test_documents_and_positions_of_each_kind_of_row():
    plain = torch.arange(6)[None]
    left = torch.tensor([[0, 0, 1, 1, 1, 1]])
    packed = torch.tensor([[5, 5, 2, 2, 2, 2]])
    restarting = torch.tensor([[0, 1, 0, 1, 2, 3]])
    assert lay_out() == (None, plain.tolist())
    assert lay_out(attention_mask=torch.ones(1, 6)) == (None, plain.tolist())
    assert lay_out(position_ids=plain + 3) == (None, (plain + 3).tolist())
    assert lay_out(left) == ([[1, 1, 0, 0, 0, 0]], [[0, 0, 0, 1, 2, 3]])
    assert lay_out(left.flip(1)) == ([[0, 0, 0, 0, 1, 1]], [[0, 1, 2, 3, 0, 0]])
    assert lay_out(seq_idx=packed) == ([[3, 3, 0, 0, 0, 0]], restarting.tolist())
    assert lay_out(position_ids=restarting) == ([[0, 0, 1, 1, 1, 1]], restarting.tolist())
    # With a mask, positions that restart do not pack: so it is in transformers' masking.
    assert lay_out(left, restarting) == ([[1, 1, 0, 0, 0, 0]], [[0, 0, 0, 1, 2, 3]])
    documents, positions = lay_out(left.flip(1), seq_idx=packed)
    assert documents == [[3, 3, 0, 0, 4, 4]] and positions == [[0, 1, 0, 1, 0, 0]]


def test_positions_in_steps_other_than_one_begin_documents():
    assert lay_out(position_ids=torch.tensor([[0, 1, 7, 8, 8, 9]]))[0] == [[0, 0, 1, 1, 2, 2]]


def test_first_token_labels_cover_every_border():
    labels = torch.arange(10, 16)[None]
    seq_idx = torch.tensor([[0, 0, 1, 2, 2, 2]])
    mask = torch.tensor([[0, 1, 1, 1, 1, 0]])
    assert torch.equal(first_token_labels(labels, None, None, None, True), labels)
    assert first_token_labels(labels, None, None, seq_idx, False).tolist() == [
        [-100, 11, -100, -100, 14, 15]
    ]
    assert first_token_labels(labels, mask, None, None, False).tolist() == [
        [-100, -100, 12, 13, 14, -100]
    ]
    assert first_token_labels(
        labels, None, torch.tensor([0, 1, 2, 0, 1, 2]), None, False
    ).tolist() == [[-100, 11, 12, -100, 14, 15]]


NO_TENSORS = [
    {"input_ids": IDS.tolist()},
    {"inputs_embeds": [[1.0]]},
    {"input_ids": IDS, "attention_mask": [[1] * 11] * 2},
    {"input_ids": IDS, "position_ids": [1]},
    {"input_ids": IDS, "labels": [1, 2]},
]


@pytest.mark.parametrize("inputs", NO_TENSORS, ids=lambda inputs: [*inputs][-1])
@pytest.mark.parametrize("head", [ReformerHFForCausalLM, ReformerHFForSequenceClassification])
def test_what_is_no_tensor_is_refused(head, inputs):
    with pytest.raises(TypeError, match=f"{[*inputs][-1]} is a list: give a tensor"):
        head(tiny_config())(**inputs)


@pytest.mark.parametrize("types", [None, torch.zeros_like(IDS)])
def test_token_types_that_say_nothing_are_no_matter(types):
    model = tiny_encoder()
    expected = model(IDS).last_hidden_state
    assert torch.equal(model(IDS, token_type_ids=types).last_hidden_state, expected)
