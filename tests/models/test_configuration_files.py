"""Configuration files: save and load, dictionaries of transformers' Reformer, overrides."""

import copy
import json
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, ReformerConfig

from reformer_hf import ReformerHFConfig, ReformerHFForCausalLM
from tests.models.tiny import dropout_fields, random_ids, tiny_config, tiny_lm

OLD_KEYS = {
    "sinusoidal_pos_embds": False,
    "output_past": True,
    "task_specific_params": {"text-generation": {"do_sample": True, "max_length": 100}},
    "num_chunks_after": 0,
}
"""Keys of published files that no field reads."""


def stock_dictionary(**fields) -> dict:
    """What config.json of a transformers' Reformer holds, in the way of the published ones."""
    config = ReformerConfig(
        attn_layers=["local", "lsh"],
        axial_pos_shape=[12, 8],
        axial_pos_embds_dim=[64, 192],
        num_buckets=[4, 6],
        is_decoder=True,
        **fields,
    )
    return {**config.to_dict(), **OLD_KEYS, "num_hidden_layers": 2}


def write_config(folder: Path, dictionary: dict) -> Path:
    (folder / "config.json").write_text(json.dumps(dictionary), encoding="utf-8")
    return folder


def fields_of(config: ReformerHFConfig) -> dict:
    """All fields, without the name of the folder that was read."""
    return {name: value for name, value in config.to_dict().items() if name != "_name_or_path"}


def by_constructor(dictionary: dict, folder: Path) -> ReformerHFConfig:
    return ReformerHFConfig(**dictionary)


def by_from_dict(dictionary: dict, folder: Path) -> ReformerHFConfig:
    return ReformerHFConfig.from_dict(dictionary)


def by_json_file(dictionary: dict, folder: Path) -> ReformerHFConfig:
    return ReformerHFConfig.from_json_file(write_config(folder, dictionary) / "config.json")


def by_from_pretrained(dictionary: dict, folder: Path) -> ReformerHFConfig:
    return ReformerHFConfig.from_pretrained(write_config(folder, dictionary))


ROUTES = [by_constructor, by_from_dict, by_json_file, by_from_pretrained]


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("seed", [None, 0])
def test_a_stock_dictionary_is_read_as_transformers_means_it(route, seed, tmp_path):
    dictionary = stock_dictionary(hash_seed=seed)
    before = copy.deepcopy(dictionary)
    config = route(dictionary, tmp_path)
    assert dictionary == before
    assert config.attention_scope == "chunk" and config.share_rotations is True
    # transformers reseeds the rotations with an integer seed, and draws them without one.
    assert config.redraw_rotations is (seed is None)
    assert config.model_type == config.to_dict()["model_type"] == "reformer_hf"
    assert config.is_decoder is True and config.num_buckets == [4, 6]
    assert OLD_KEYS.items() <= config.to_dict().items()


@pytest.mark.parametrize("route", ROUTES)
def test_fields_of_ours_in_a_stock_dictionary_hold(route, tmp_path):
    ours = {"attention_scope": "band", "share_rotations": False, "redraw_rotations": True}
    config = route({**stock_dictionary(hash_seed=3), **ours}, tmp_path)
    assert {name: getattr(config, name) for name in ours} == ours


def test_auto_config_leaves_stock_files_to_transformers(tmp_path):
    config = AutoConfig.from_pretrained(write_config(tmp_path, stock_dictionary()))
    assert type(config) is ReformerConfig


def test_a_stock_configuration_survives_saving_under_our_name(tmp_path):
    config = ReformerHFConfig(**stock_dictionary(hash_seed=5))
    config.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "reformer_hf"
    loaded = AutoConfig.from_pretrained(tmp_path)
    assert type(loaded) is ReformerHFConfig
    assert fields_of(loaded) == fields_of(config)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        # The values that another configuration would derive must be written all the same.
        {"axial_pos_shape": [128, 64], "hash_length": 4096, "num_buckets": 64},
        {"axial_pos_shape": [128, 64], "max_position_embeddings": 4096},
        {"attention_scope": "chunk", "share_rotations": True, "redraw_rotations": False},
        {"position_embedding_type": "none", "num_buckets": None},
        {"is_decoder": True, "eos_token_id": [1, 2], "my_note": "kept"},
    ],
)
@pytest.mark.parametrize("reader", [ReformerHFConfig, AutoConfig])
def test_a_file_holds_every_field(fields, reader, tmp_path):
    config = tiny_config(**fields)
    config.save_pretrained(tmp_path)
    loaded = reader.from_pretrained(tmp_path)
    assert type(loaded) is ReformerHFConfig
    assert fields_of(loaded) == fields_of(config)


@pytest.mark.parametrize("reader", [ReformerHFConfig, AutoConfig])
def test_overrides_in_from_pretrained_are_derived_from_and_checked(reader, tmp_path):
    tiny_config(attn_layers=["local"], num_buckets=None, hash_seed=None).save_pretrained(tmp_path)
    layers = ["lsh", "lsh"]
    config, unused = reader.from_pretrained(
        tmp_path, attn_layers=layers, num_hashes=8, return_unused_kwargs=True, revision_note="x"
    )
    assert config.num_hashes == 8 and config.attn_layers == layers and config.num_buckets == 24
    assert unused == {"revision_note": "x"}
    for wrong in ({"num_hashes": 0}, {"attn_layers": layers, "num_buckets": 3}):
        with pytest.raises(ValueError, match=r"num_hashes=0|num_buckets=3"):
            reader.from_pretrained(tmp_path, **wrong)


def test_overrides_reach_a_loaded_model(tmp_path):
    tiny_lm().save_pretrained(tmp_path)
    model = ReformerHFForCausalLM.from_pretrained(tmp_path, num_hashes=3, deduplicate_rounds=True)
    attention = model.reformer.encoder.layers[1].attention.self_attention
    assert attention.num_hashes == 3 and attention.window["deduplicate_rounds"] is True
    with pytest.raises(ValueError, match="num_buckets=5"):
        ReformerHFForCausalLM.from_pretrained(tmp_path, num_buckets=5)


@pytest.mark.parametrize("fields", [{}, {"attention_scope": "chunk"}, {"chunk_size_lm_head": 3}])
def test_no_pass_ever_changes_the_configuration(fields):
    model = tiny_lm(**dropout_fields(), **fields)
    before = copy.deepcopy(model.config.to_dict())
    ids = random_ids(2, 13)
    for training in (True, False):
        model.train(training)
        model(ids, labels=ids, output_hidden_states=True).loss.backward()
        model(ids[:, :3], num_hashes=5)
    model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=2)
    assert model.config.to_dict() == before
