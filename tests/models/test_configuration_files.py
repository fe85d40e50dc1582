"""Configuration files: save and load, dictionaries of transformers' Reformer, overrides."""

import copy
import json
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, PreTrainedConfig, ReformerConfig

from reformer_hf import ReformerHFConfig, ReformerHFForCausalLM
from tests.models.tiny import dropout_fields, random_ids, tiny_config, tiny_lm
from tests.parity.published_models import CRIME_AND_PUNISHMENT, ENWIK8

OLD_KEYS = {
    "sinusoidal_pos_embds": False,
    "output_past": True,
    "task_specific_params": {"text-generation": {"do_sample": True, "max_length": 100}},
    "num_chunks_after": 0,
}
"""Keys of published files that no field reads."""

VERSION_0_1_0 = {
    "activation_budget": 536870912,
    "attention_head_size": 64,
    "attention_scope": "band",
    "attn_layers": ["local", "lsh", "local", "lsh", "local", "lsh"],
    "axial_norm_std": 1.0,
    "axial_pos_embds": True,
    "axial_pos_embds_dim": [64, 64],
    "axial_pos_shape": [64, 64],
    "bos_token_id": None,
    "chunk_size_attention_heads": 0,
    "chunk_size_lm_head": 0,
    "classifier_dropout": None,
    "decoder_attn_layers": None,
    "decoder_form": "cross_attention",
    "decoder_start_token_id": None,
    "deduplicate_rounds": False,
    "encoder_attn_layers": None,
    "eos_token_id": 2,
    "feed_forward_size": 512,
    "hash_length": 4096,
    "hash_seed": None,
    "hidden_act": "relu",
    "hidden_dropout_prob": 0.05,
    "hidden_size": 128,
    "initializer_range": 0.02,
    "is_decoder": None,
    "layer_norm_eps": 1e-12,
    "local_attention_probs_dropout_prob": 0.05,
    "local_attn_chunk_length": 64,
    "local_num_chunks_after": None,
    "local_num_chunks_before": 1,
    "lsh_attention_probs_dropout_prob": 0.0,
    "lsh_attn_chunk_length": 64,
    "lsh_num_chunks_after": None,
    "lsh_num_chunks_before": 1,
    "max_position_embeddings": 4096,
    "model_type": "reformer_hf",
    "num_attention_heads": 2,
    "num_buckets": 64,
    "num_hashes": 1,
    "output_streams": "both",
    "pad_token_id": 0,
    "position_embedding_type": "axial",
    "redraw_rotations": True,
    "reversible": True,
    "share_encoder_decoder_embeddings": True,
    "share_rotations": False,
    "tie_word_embeddings": False,
    "use_cache": True,
    "vocab_size": 320,
}
"""The fields that `ReformerHFConfig.save_pretrained` of that version wrote."""


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
        {"is_decoder": True, "eos_token_id": [1, 2], "problem_type": "regression"},
    ],
)
@pytest.mark.parametrize("reader", [ReformerHFConfig, AutoConfig])
def test_a_file_holds_every_field(fields, reader, tmp_path):
    config = tiny_config(**fields)
    config.save_pretrained(tmp_path)
    loaded = reader.from_pretrained(tmp_path)
    assert type(loaded) is ReformerHFConfig
    assert fields_of(loaded) == fields_of(config)


def test_unknown_entries_of_a_file_are_kept_and_named_once(tmp_path, caplog):
    dictionary = {**tiny_config().to_dict(), "num_hashs": 8, "written_by": "a later version"}
    with caplog.at_level("WARNING"):
        config = ReformerHFConfig.from_pretrained(write_config(tmp_path, dictionary))
        ReformerHFConfig.from_dict(dictionary)
    assert config.num_hashes == 2 and config.written_by == "a later version"
    (message,) = {record.message for record in caplog.records}
    assert "num_hashs=8: did you mean num_hashes?" in message and "written_by" in message
    assert {"num_hashs": 8}.items() <= config.to_dict().items()


def test_published_files_load_without_a_word(caplog):
    with caplog.at_level("WARNING"):
        for published in (CRIME_AND_PUNISHMENT, ENWIK8):
            config = ReformerHFConfig.from_dict(published)
            # Two entries that are aliases elsewhere have no meaning there.
            assert config.feed_forward_size == published["feed_forward_size"]
            again = ReformerHFConfig.from_dict(config.to_dict())
            assert again.to_dict() == config.to_dict()
            assert again.to_dict()["intermediate_size"] == published["intermediate_size"]
    assert not caplog.records


def test_a_stock_dictionary_has_the_defaults_of_transformers_for_what_it_omits():
    config, stock = ReformerHFConfig(model_type="reformer").to_dict(), ReformerConfig().to_dict()
    derived = {"num_buckets": 64, "is_decoder": None, "model_type": "reformer_hf"}
    assert stock.pop("num_hidden_layers") == len(config["attn_layers"])
    assert {**stock, **derived}.items() <= config.items()
    assert config["axial_norm_std"] == 1.0
    learned = ReformerHFConfig(model_type="reformer", axial_pos_embds=False)
    assert learned.max_position_embeddings == ReformerConfig().max_position_embeddings
    # Its own model reads as many positions as the grid has.
    grid = ReformerHFConfig(model_type="reformer", axial_pos_shape=[512, 1024])
    assert grid.position_limit == 512 * 1024


def test_a_file_of_version_0_1_0_means_what_it_meant(tmp_path):
    """That version wrote every field, so no default of today reaches its files."""
    config = ReformerHFConfig.from_pretrained(write_config(tmp_path, VERSION_0_1_0))
    assert VERSION_0_1_0.items() <= config.to_dict().items()
    missing = ReformerHFConfig.__annotations__.keys() - VERSION_0_1_0.keys()
    missing -= PreTrainedConfig.__annotations__.keys()  # whose defaults are not saved
    # Off where a file does not have them.
    options = ["lsh_local_round", "conv_kernel", "ngram_sizes", "rope_parameters", "ff_sparsity"]
    options += ["attention_sparsity", "lm_head_sparsity", "ff_sru_size", "use_qk_norm"]
    options += ["lsh_next_values"]
    assert not any(getattr(config, name) for name in options)
    assert config.attention_output_projection
    missing -= {*options, "attention_output_projection"}
    missing -= {"ngram_table_size", "ff_sru_layers", "attention_sparsity_kernel"}
    missing -= {f"ff_sparsity_{name}" for name in ("rank", "temperature", "hard_share")}
    missing -= {"lm_head_sparse_share"}
    assert not missing, f"{missing}: a field that old files lack needs a default that is theirs"


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (
            {"hidden_size": 32},
            {"axial_pos_embds_dim": [16, 16], "num_attention_heads": 1, "feed_forward_size": 128},
        ),
        ({"d_model": 32, "num_heads": 4}, {"hidden_size": 32, "attention_head_size": 8}),
        ({"max_position_embeddings": 300}, {"axial_pos_shape": [16, 19], "position_limit": 300}),
        ({"max_seq_len": 50}, {"axial_pos_shape": [12, 8], "position_limit": 50}),
        ({"axial_pos_shape": [16, 16]}, {"max_position_embeddings": 256, "position_limit": 256}),
        ({"num_layers": 3}, {"attn_layers": ["local", "lsh", "local"]}),
        ({"attn_layers": ["lsh"]}, {"num_hidden_layers": 1}),
        ({"num_hashes": 4}, {"num_hashes": 4, "num_buckets": 4, "feed_forward_size": 24}),
        ({"ff_sparsity": 4}, {"ff_sparsity_rank": 6}),
    ],
)
@pytest.mark.parametrize("stock", [False, True])
@pytest.mark.parametrize("reader", [ReformerHFConfig, AutoConfig])
def test_what_depends_on_a_changed_field_is_derived_again(
    changes, expected, stock, reader, tmp_path
):
    dictionary = tiny_config().to_dict()
    if stock:
        dictionary |= {"model_type": "reformer", "num_hidden_layers": 2}
        reader = ReformerHFConfig
    config = reader.from_pretrained(write_config(tmp_path, dictionary), **changes)
    assert {name: getattr(config, name) for name in expected} == expected


def test_changes_that_contradict_each_other_are_refused(tmp_path):
    tiny_config().save_pretrained(tmp_path)
    for changes, message in (
        ({"max_position_embeddings": 300, "axial_pos_shape": [12, 8]}, "more than the 96 pos"),
        ({"hidden_size": 32, "axial_pos_embds_dim": [6, 10]}, "sums to 16"),
        ({"hidden_size": 32, "d_model": 16}, "two names of one field"),
    ):
        with pytest.raises(ValueError, match=message):
            ReformerHFConfig.from_pretrained(tmp_path, **changes)


def test_an_encoder_decoder_of_a_file_gets_other_layers(tmp_path):
    config = tiny_config(
        is_encoder_decoder=True, encoder_layers=1, decoder_attn_layers=["local", "lsh"]
    )
    config.save_pretrained(tmp_path)
    assert fields_of(ReformerHFConfig.from_pretrained(tmp_path)) == fields_of(config)
    config = ReformerHFConfig.from_pretrained(tmp_path, num_layers=3)
    assert len(config.encoder_attn_layers) == len(config.decoder_attn_layers) == 3
    config = ReformerHFConfig.from_pretrained(tmp_path, decoder_attn_layers=["full"])
    assert config.encoder_attn_layers == ["local"] and config.attn_layers == ["full"]


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
    assert attention.num_hashes == 3 and attention.deduplicate_rounds is True
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
