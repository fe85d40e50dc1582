"""Inputs that would be ignored or mean something else: refused, warned of, or read as meant."""

import json

import pytest
import torch

from reformer_hf import ReformerHFConfig
from reformer_hf.models.labels import logger
from tests.models.tiny import random_ids, tiny_config, tiny_lm

IDS = random_ids(2, 11)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"is_causal": False}, ["is_causal=False", "is_decoder"]),
        ({"cu_seq_lens_q": torch.tensor([0, 4, 11])}, ["cu_seq_lens_q", "seq_idx"]),
        ({"cu_seq_lens_k": torch.tensor([0, 4, 11])}, ["cu_seq_lens_k", "seq_idx"]),
    ],
)
def test_an_argument_that_would_be_ignored_is_refused(arguments, words):
    with pytest.raises(ValueError) as error:
        tiny_lm()(IDS, **arguments)
    assert all(word in str(error.value) for word in words)


def test_lengths_of_a_packed_row_are_fine_beside_its_documents():
    seq_idx = torch.tensor([[0] * 4 + [1] * 7]).expand(2, -1)
    tiny_lm()(IDS, seq_idx=seq_idx, cu_seq_lens_q=torch.tensor([0, 4, 11]))


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int16])
def test_ids_of_another_integer_type_are_refused(dtype):
    with pytest.raises(ValueError, match="input_ids has dtype"):
        tiny_lm()(IDS.clamp(0, 1).to(dtype))


@pytest.mark.parametrize("chunk_size", [0, 4])
def test_int32_ids_and_labels_are_read(chunk_size):
    model = tiny_lm(chunk_size_lm_head=chunk_size)
    expected = model(IDS, labels=IDS).loss
    torch.testing.assert_close(model(IDS.int(), labels=IDS.int()).loss, expected)


def test_one_document_a_row_is_not_packed_in_the_chunk_scope():
    model = tiny_lm(attention_scope="chunk").eval()
    seq_idx = torch.tensor([[0], [7]]).expand(-1, 11)
    torch.testing.assert_close(model(IDS, seq_idx=seq_idx).logits, model(IDS).logits)
    with pytest.raises(ValueError, match="packed"):
        model(IDS, seq_idx=torch.tensor([[0] * 4 + [1] * 7]).expand(2, -1))


def test_labels_that_were_counted_and_have_no_loss_are_warned_of(monkeypatch):
    warnings = []
    monkeypatch.setattr(logger, "warning_once", warnings.append)
    mask = torch.ones(2, 11, dtype=torch.long)
    mask[1, :4] = 0
    labels = IDS.masked_fill(mask == 0, -100)
    model = tiny_lm()
    model(IDS, attention_mask=mask, labels=labels)
    assert not warnings
    model(IDS, attention_mask=mask, labels=labels, num_items_in_batch=17)
    assert len(warnings) == 1 and "num_items_in_batch" in warnings[0]
    labels[1, 4] = -100
    model(IDS, attention_mask=mask, labels=labels, num_items_in_batch=16)
    assert len(warnings) == 1


def test_export_of_lsh_layers_is_refused():
    model = tiny_lm().eval()
    with pytest.raises(Exception, match="export of LSH layers"):
        torch.export.export(model, (IDS,), strict=False)


def test_resizing_to_the_same_size_keeps_the_bias_parameter():
    model = tiny_lm()
    bias = model.lm_head.bias
    model.resize_token_embeddings(model.config.vocab_size)
    assert model.lm_head.bias is bias


def test_overrides_of_a_stock_file_come_before_what_is_derived(tmp_path):
    stock = {"model_type": "reformer", "axial_pos_shape": [8, 8], "hash_seed": None}
    (tmp_path / "config.json").write_text(json.dumps(stock))
    config = ReformerHFConfig.from_pretrained(
        tmp_path, hash_seed=0, axial_pos_shape=[128, 64], hash_length=128
    )
    assert config.redraw_rotations is False
    assert config.max_position_embeddings == 128 * 64
    assert config.num_buckets == 2
    learned = ReformerHFConfig.from_pretrained(tmp_path, axial_pos_embds=False)
    assert learned.position_embedding_type == "learned"


def test_contradictory_position_fields_are_refused():
    with pytest.raises(ValueError, match="axial_pos_embds=False"):
        tiny_config(position_embedding_type="axial", axial_pos_embds=False)
