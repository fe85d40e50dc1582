"""Saving and loading, initial weights, resizing of the vocabulary."""

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.testing import assert_close
from transformers import AutoModel, AutoModelForCausalLM

from reformer_hf import ReformerHFConfig, ReformerHFForCausalLM, ReformerHFModel
from tests.models.tiny import random_ids, tiny_config, tiny_encoder, tiny_lm

IDS = random_ids(2, 13)


def test_names_in_the_file_are_those_of_the_published_checkpoints(tmp_path):
    tiny_lm(attn_layers=["local", "lsh"]).save_pretrained(tmp_path)
    names = load_file(tmp_path / "model.safetensors").keys()
    layer, self_attention = "reformer.encoder.layers", "attention.self_attention"
    expected = {
        "lm_head.bias",
        "lm_head.decoder.weight",
        "reformer.embeddings.word_embeddings.weight",
        "reformer.embeddings.position_embeddings.weights.0",
        "reformer.embeddings.position_embeddings.weights.1",
        *(f"reformer.encoder.layer_norm.{kind}" for kind in ("weight", "bias")),
        *(f"{layer}.0.{self_attention}.{name}.weight" for name in ("query", "key", "value")),
        *(f"{layer}.1.{self_attention}.{name}.weight" for name in ("query_key", "value")),
    }
    for index in (0, 1):
        for part in ("attention", "feed_forward"):
            expected |= {f"{layer}.{index}.{part}.layer_norm.{kind}" for kind in ("weight", "bias")}
        expected.add(f"{layer}.{index}.attention.output.dense.weight")
        for part in ("dense", "output"):
            expected |= {
                f"{layer}.{index}.feed_forward.{part}.dense.{kind}" for kind in ("weight", "bias")
            }
    assert names == expected


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_the_dtype_of_the_file_is_kept(dtype, tmp_path):
    model = tiny_lm().to(dtype)
    model.save_pretrained(tmp_path)
    loaded = ReformerHFForCausalLM.from_pretrained(tmp_path)
    assert loaded.dtype == dtype
    assert torch.equal(loaded(IDS).logits, model(IDS).logits)
    wide = ReformerHFForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    assert {parameter.dtype for parameter in wide.parameters()} == {torch.float32}


def test_base_and_head_load_each_others_files(tmp_path):
    model = tiny_lm()
    model.save_pretrained(tmp_path / "head")
    base = AutoModel.from_pretrained(tmp_path / "head")
    assert type(base) is ReformerHFModel and base.config.is_decoder is True
    expected = model.reformer(IDS).last_hidden_state
    assert torch.equal(base(IDS).last_hidden_state, expected)
    base.save_pretrained(tmp_path / "base")
    head = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    assert torch.equal(head.reformer(IDS).last_hidden_state, expected)
    assert not head.lm_head.bias.any() and head.lm_head.decoder.weight.std() > 0.1


def remove_from_file(folder: Path, part: str) -> None:
    """Drop all weights whose name contains `part`."""
    file = folder / "model.safetensors"
    kept = {name: weight for name, weight in load_file(file).items() if part not in name}
    save_file(kept, file, metadata={"format": "pt"})


# Part of a name to the mean and standard deviation of its initial values.
INITIAL = {
    "lm_head.bias": (0.0, 0.0),
    "lm_head.decoder.weight": (0.0, 0.3),
    "word_embeddings.weight": (0.0, 0.3),
    "position_embeddings.weights.0": (0.0, 0.7),
    "position_embeddings.weights.1": (0.0, 0.7),
    "position_embeddings.embedding.weight": (0.0, 0.3),
    "layers.1.attention.layer_norm.weight": (1.0, 0.0),
    "encoder.layer_norm.bias": (0.0, 0.0),
    "self_attention.query_key.weight": (0.0, 0.3),
    "self_attention.q_norm.weight": (1.0, 0.0),
    "self_attention.k_norm.weight": (1.0, 0.0),
    "feed_forward.dense.dense.weight": (0.0, 0.3),
    "feed_forward.dense.dense.bias": (0.0, 0.0),
    "sru.output.weight": (0.0, 0.3),
    "sru.units.0.forget.bias": (0.0, 0.0),
    "feed_forward.up_weight": (0.0, 0.3),
    "feed_forward.down_weight": (0.0, 0.3),
    "feed_forward.up_bias": (0.0, 0.0),
    "feed_forward.down_bias": (0.0, 0.0),
    "feed_forward.controller.expand.weight": (0.0, 0.3),
}


def assert_initial(weight: Tensor, mean: float, std: float) -> None:
    if std == 0:
        assert torch.equal(weight, torch.full_like(weight, mean))
    else:
        assert abs(weight.mean()) < std / 2 and std / 2 < weight.std() < 2 * std


@pytest.mark.parametrize("part", INITIAL)
def test_initial_values_in_a_new_model_and_where_a_file_lacks_them(part, tmp_path):
    positions = "learned" if "position_embeddings.embedding" in part else "axial"
    fields = {"position_embedding_type": positions, "axial_norm_std": 0.7, "ff_sru_size": 8}
    fields["use_qk_norm"] = True
    if re.search("feed_forward.(up|down|controller)", part):
        fields["ff_sparsity"] = 4
    torch.manual_seed(0)
    model = ReformerHFForCausalLM(tiny_config(**fields))
    new = {name: weight for name, weight in model.named_parameters() if part in name}
    assert len(new) >= 1
    for weight in new.values():
        assert_initial(weight, *INITIAL[part])
    with torch.no_grad():
        for weight in model.parameters():
            weight += 5.0  # so that no loaded value looks like an initial one
    model.save_pretrained(tmp_path)
    remove_from_file(tmp_path, part)
    # Memory that is used again is dirty, so that what is not initialised shows.
    loaded, report = ReformerHFForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert set(report["missing_keys"]) == set(new)
    for name, weight in loaded.named_parameters():
        if name in new:
            assert_initial(weight, *INITIAL[part])
        else:
            assert torch.equal(weight, model.get_parameter(name))


def test_a_model_made_on_the_meta_device_and_filled_is_whole():
    with torch.device("meta"):
        empty = ReformerHFForCausalLM(tiny_config())
    assert not list(empty.buffers())  # which a state dict might leave empty
    full = tiny_lm()
    empty.load_state_dict(full.state_dict(), assign=True)
    assert torch.equal(empty.eval()(IDS).logits, full(IDS).logits)


@pytest.mark.parametrize(
    "offloaded", ["reformer.embeddings", "reformer.encoder.layers", "reformer.encoder.layer_norm"]
)
def test_parts_on_disk_are_read_when_they_are_used(offloaded, tmp_path):
    model = tiny_lm()
    model.save_pretrained(tmp_path)
    parts = ["reformer.embeddings", "reformer.encoder.layers", "reformer.encoder.layer_norm"]
    device_map = {part: "disk" if part == offloaded else "cpu" for part in [*parts, "lm_head"]}
    loaded = AutoModelForCausalLM.from_pretrained(
        tmp_path, device_map=device_map, offload_folder=tmp_path / "offload"
    )
    assert {str(parameter.device) for parameter in loaded.parameters()} == {"cpu", "meta"}
    assert torch.equal(loaded(IDS).logits, model(IDS).logits)


@pytest.mark.parametrize("size", [50, 25])
def test_resizing_the_vocabulary(size, tmp_path):
    model = tiny_lm()
    bias = model.lm_head.bias.detach().clone()
    ids = random_ids(2, 9, high=25)
    with torch.no_grad():  # a graph that is alive would keep the old size
        before = model(ids).logits
    model.resize_token_embeddings(size)
    kept = min(size, 40)
    assert model.config.vocab_size == model.lm_head.decoder.out_features == size
    assert torch.equal(model.lm_head.bias[:kept], bias[:kept])
    assert not model.lm_head.bias[kept:].any() and model.lm_head.bias.shape == (size,)
    assert_close(model(ids).logits[..., :kept], before[..., :kept])
    high = torch.full((1, 4), size - 1)
    model.train()(high, labels=high).loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    model.eval().save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["vocab_size"] == size
    loaded = ReformerHFForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(loaded(ids).logits, model(ids).logits)


def test_resizing_keeps_a_frozen_bias_frozen_and_its_dtype():
    model = tiny_lm().bfloat16()
    model.lm_head.bias.requires_grad_(False)
    model.resize_token_embeddings(41, pad_to_multiple_of=8)
    assert model.lm_head.bias.shape == (48,) and model.lm_head.bias.dtype == torch.bfloat16
    assert not model.lm_head.bias.requires_grad
    unchanged = tiny_lm()
    assert unchanged.resize_token_embeddings().weight.shape == (40, 16)
    assert tiny_encoder().resize_token_embeddings(50).weight.shape == (50, 16)


def test_full_layers_load_the_weights_of_the_sparse_ones(tmp_path):
    """The same weights with exact attention, to see what the sparse kinds cost."""
    sparse = tiny_lm(attn_layers=["local", "lsh"])
    sparse.save_pretrained(tmp_path)
    full, report = ReformerHFForCausalLM.from_pretrained(
        tmp_path, attn_layers=["full", "full_shared_qk"], output_loading_info=True
    )
    assert not report["missing_keys"] and not report["unexpected_keys"]
    for name, weight in sparse.named_parameters():
        assert torch.equal(full.get_parameter(name), weight)
    assert not torch.equal(full(IDS).logits, sparse(IDS).logits)
    # Windows that hold the row and a single bucket leave nothing out.
    wide = ReformerHFForCausalLM.from_pretrained(
        tmp_path, local_attn_chunk_length=13, lsh_attn_chunk_length=13, num_buckets=2
    )
    decided = torch.zeros(2, 2, 1, 13, dtype=torch.long)
    wide.reformer.encoder.layers[1].attention.self_attention.hash = lambda *_: decided
    assert_close(wide(IDS).logits, full(IDS).logits, rtol=1e-4, atol=1e-5)


def test_models_of_one_configuration_and_seed_are_equal():
    first, second = tiny_lm(seed=4), tiny_lm(seed=4)
    assert isinstance(first.config, ReformerHFConfig)
    for one, other in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(one, other)
