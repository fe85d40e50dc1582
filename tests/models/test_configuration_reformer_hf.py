"""Configuration: types, rules between fields, derived fields, dictionaries."""

import copy
import json

import pytest
from huggingface_hub.errors import StrictDataclassFieldValidationError
from hypothesis import given
from hypothesis import strategies as st

from reformer_hf import (
    ReformerHFByteTokenizer,
    ReformerHFConfig,
    ReformerHFForCausalLM,
    ReformerHFModel,
)
from reformer_hf.ops.window import Window
from tests.models.tiny import tiny_config, tiny_encoder, tiny_lm

WRONG_TYPES = {
    "hidden_size": "16",
    "num_hashes": True,
    "feed_forward_size": 2.0,
    "attn_layers": "local",
    "axial_pos_shape": [8, 8.0],
    "num_buckets": [2, "4"],
    "hash_seed": "0",
    "attention_scope": 1,
    "reversible": 1,
    "layer_norm_eps": "small",
    "max_position_embeddings": 64.0,
    "chunk_size_lm_head": None,
}

ROTARY = {"position_embedding_type": "rotary"}
LINEAR = {"rope_type": "linear"}

# Field to be blamed, the fields given, and what the message must hold besides: value and fix.
BROKEN_RULES = [
    ("num_buckets", {"num_buckets": 3}, ["3", "even"]),
    ("num_buckets", {"num_buckets": [4, 5]}, ["[4, 5]", "even"]),
    ("num_buckets", {"num_buckets": []}, ["[]", "even"]),
    ("num_buckets", {"num_buckets": 0}, ["0", "at least 2"]),
    ("axial_pos_embds_dim", {"axial_pos_embds_dim": [6, 11]}, ["17", "hidden_size=16", "add up"]),
    ("axial_pos_shape", {"axial_pos_shape": [96]}, ["[96]", "at least two"]),
    ("axial_pos_shape", {"axial_pos_shape": [4, 4, 4]}, ["[4, 4, 4]", "same number"]),
    ("axial_pos_shape", {"axial_pos_shape": [0, 8]}, ["[0, 8]", "positive"]),
    ("hidden_size", {"hidden_size": 0, "position_embedding_type": "none"}, ["0", "at least 1"]),
    ("attn_layers", {"attn_layers": []}, ["[]", "at least one"]),
    ("attn_layers", {"attn_layers": ["local", "hash"]}, ["'hash'", "'lsh'"]),
    ("attention_scope", {"attention_scope": "wide"}, ["'wide'", "'band'", "'chunk'"]),
    ("position_embedding_type", {"position_embedding_type": "alibi"}, ["'alibi'", "'rotary'"]),
    ("attention_head_size", {**ROTARY, "attention_head_size": 7}, ["7", "'rotary'", "even"]),
    ("rope_theta", {"rope_theta": 500.0}, ["500.0", "'axial'", "leave them out"]),
    ("rope_theta", {**ROTARY, "rope_theta": 0}, ["0", "above 0"]),
    ("rope_theta", {**ROTARY, "rope_parameters": {"rope_theta": "1e4"}}, ["'1e4'", "above 0"]),
    ("factor", {**ROTARY, "rope_parameters": LINEAR | {"factor": -2.0}}, ["-2.0", "above 0"]),
    ("rope_parameters", {**ROTARY, "rope_parameters": LINEAR}, ["'linear'", "'factor'"]),
    ("rope_type", {**ROTARY, "rope_parameters": {"rope_type": "dynamic"}}, ["dynamic", "'yarn'"]),
    (
        "rope_parameters",
        {**ROTARY, "rope_parameters": {"partial_rotary_factor": 0.5}},
        ["partial_rotary_factor", "leave"],
    ),
    ("conv_kernel", {"conv_kernel": 1}, ["1", "0 for none", "at least 2"]),
    ("conv_kernel", {"conv_kernel": -1}, ["-1", "at least 0"]),
    ("ff_sru_size", {"ff_sru_size": -1}, ["-1", "0 (no recurrent units)"]),
    ("ff_sru_size", {"ff_sru_size": 3, "is_decoder": False}, ["3", "is_decoder=False", "to 0"]),
    ("ff_sparsity", {"ff_sparsity": 1}, ["1", "give 0", "at least 2"]),
    ("ff_sparsity", {"ff_sparsity": 5}, ["5", "feed_forward_size=24", "divisor", "25"]),
    ("ff_sparsity", {"ff_sparsity": -5}, ["-5", "0 (use all units)"]),
    ("hidden_act", {"ff_sparsity": 4, "hidden_act": "nonsense"}, ["'nonsense'", "'relu'"]),
    ("hidden_act", {"ff_sparsity": 4, "hidden_act": "sigmoid"}, ["'sigmoid'", "'relu'"]),
    (
        "ff_sparsity_hard_share",
        {"ff_sparsity": 4, "ff_sparsity_hard_share": 1.1},
        ["1.1", "[0, 1]"],
    ),
    (
        "ff_sparsity_temperature",
        {"ff_sparsity": 4, "ff_sparsity_temperature": -0.1},
        ["-0.1", "at least 0"],
    ),
    (
        "lsh_next_values",
        {"lsh_next_values": True},
        ["True", "local round", "lsh_local_round"],
    ),
    (
        "lsh_local_round",
        {"lsh_local_round": True, "attention_scope": "chunk"},
        ["True", "'chunk'", "band"],
    ),
    ("hidden_act", {"hidden_act": "step"}, ["'step'", "'relu'"]),
    ("tie_word_embeddings", {"tie_word_embeddings": True}, ["True", "32", "16", "False"]),
    ("encoder_attn_layers", {"is_encoder_decoder": True}, ["None", "False"]),
    ("num_hidden_layers", {"num_hidden_layers": 3}, ["3", "2 entries", "attn_layers"]),
    ("local_attn_chunk_length", {"local_attn_chunk_length": 0}, ["0", "at least 1"]),
    ("lsh_attn_chunk_length", {"lsh_attn_chunk_length": None}, ["None", "at least 1"]),
    ("local_num_chunks_before", {"local_num_chunks_before": -1}, ["-1", "at least 0"]),
    ("lsh_num_chunks_before", {"lsh_num_chunks_before": None}, ["None", "at least 0"]),
    ("lsh_num_chunks_after", {"lsh_num_chunks_after": -1}, ["-1", "at least 0"]),
    ("lsh_num_chunks_before", {"lsh_num_chunks_before": 0}, ["only itself", "at least 1"]),
    (
        "local_num_chunks_after",
        {"local_num_chunks_after": 1, "is_decoder": True},
        ["1", "is_decoder=True", "to 0"],
    ),
    (
        "max_position_embeddings",
        {"position_embedding_type": "learned", "max_position_embeddings": -3},
        ["-3", "at least 1"],
    ),
    *(
        (name, {name: 0}, ["0", "at least 1"])
        for name in (
            "num_attention_heads",
            "attention_head_size",
            "feed_forward_size",
            "num_hashes",
            "hash_length",
            "vocab_size",
        )
    ),
    *(
        (name, {name: value}, [str(value), "[0, 1)"])
        for name, value in (
            ("hidden_dropout_prob", 1.0),
            ("local_attention_probs_dropout_prob", -0.1),
            ("lsh_attention_probs_dropout_prob", 1),
            ("classifier_dropout", 2.0),
        )
    ),
    *(
        (name, {name: -1.0}, ["-1.0", "at least 0"])
        for name in ("initializer_range", "axial_norm_std", "layer_norm_eps")
    ),
    *(
        (name, {name: -1}, ["-1", "0 (no chunks)"])
        for name in ("chunk_size_feed_forward", "chunk_size_lm_head")
    ),
]


@pytest.mark.parametrize("field", WRONG_TYPES)
def test_a_value_of_the_wrong_type_is_refused(field):
    with pytest.raises(StrictDataclassFieldValidationError, match=field):
        tiny_config(**{field: WRONG_TYPES[field]})
    config = tiny_config()
    with pytest.raises(StrictDataclassFieldValidationError, match=field):
        setattr(config, field, WRONG_TYPES[field])


@pytest.mark.parametrize(("field", "fields", "words"), BROKEN_RULES)
def test_a_broken_rule_names_field_value_and_fix(field, fields, words):
    with pytest.raises(ValueError) as caught:
        tiny_config(**fields)
    assert type(caught.value) is ValueError
    for word in [field, *words]:
        assert word in str(caught.value)


def test_rules_hold_again_when_a_model_is_built():
    config = tiny_config()
    config.hidden_dropout_prob = 1.5  # which no module asks about
    with pytest.raises(ValueError, match=r"hidden_dropout_prob=1\.5"):
        ReformerHFModel(config)


def test_rules_between_fields_of_unused_layers_are_not_asked():
    tiny_config(attn_layers=["local"], lsh_attn_chunk_length=None, lsh_num_chunks_before=0)
    tiny_config(attn_layers=["full"], lsh_attn_chunk_length=None, lsh_num_chunks_before=None)
    # A chunk alone is a window in the chunk scope.
    tiny_config(attention_scope="chunk", lsh_num_chunks_before=0)


def test_causal_models_refuse_an_explicit_false():
    with pytest.raises(ValueError, match="is_decoder=False"):
        ReformerHFForCausalLM(tiny_config(is_decoder=False))
    assert tiny_lm().config.is_decoder is True
    assert tiny_encoder().config.is_decoder is None


def test_defaults_of_this_package():
    config = ReformerHFConfig()
    assert (config.attention_scope, config.share_rotations, config.redraw_rotations) == (
        "band",
        False,
        True,
    )
    assert config.position_embedding_type == "axial" and config.axial_pos_embds is True
    assert config.max_position_embeddings == 64 * 128 and config.hash_length == 8192
    assert config.reversible is True and config.num_hidden_layers == len(config.attn_layers)


def test_a_configuration_from_nothing_fits_together_and_the_byte_tokenizer():
    config, tokenizer = ReformerHFConfig(), ReformerHFByteTokenizer()
    assert config.vocab_size == len(tokenizer)
    assert config.pad_token_id == tokenizer.pad_token_id
    assert config.eos_token_id == tokenizer.eos_token_id
    assert config.num_attention_heads * config.attention_head_size == config.hidden_size
    assert config.axial_norm_std == config.initializer_range
    assert config.num_buckets == config.hash_length // config.lsh_attn_chunk_length
    # What is said here is what is derived for the same width and length.
    same = ReformerHFConfig(hidden_size=256, max_position_embeddings=8192, num_hidden_layers=6)
    assert same.to_dict() == config.to_dict()


@pytest.mark.parametrize(
    ("fields", "hash_length", "num_buckets"),
    [
        ({"axial_pos_shape": [12, 8]}, 96, 24),
        ({"axial_pos_shape": [512, 1024]}, 8192, [46, 44]),
        ({"hash_length": 64}, 64, 16),
        ({"hash_length": 64, "lsh_num_chunks_before": 2}, 64, 8),
        ({"hash_length": 2}, 2, 2),
        ({"position_embedding_type": "none"}, 8192, [46, 44]),
        ({"position_embedding_type": "learned", "max_position_embeddings": 80}, 80, 20),
        ({"num_buckets": (6, 2)}, 96, [6, 2]),
    ],
)
def test_buckets_are_chosen_for_the_hash_length_and_stored(fields, hash_length, num_buckets):
    config = tiny_config(**{"num_buckets": None, **fields})
    assert (config.hash_length, config.num_buckets) == (hash_length, num_buckets)
    assert config.to_dict()["num_buckets"] == num_buckets


def test_the_limit_of_positions_is_the_smaller_of_grid_and_field():
    assert tiny_config().position_limit == 96
    assert tiny_config(max_position_embeddings=50).position_limit == 50
    with pytest.raises(ValueError, match="max_position_embeddings=1000 is more than the 96 pos"):
        tiny_config(max_position_embeddings=1000)
    old_file = {**tiny_config().to_dict(), "max_position_embeddings": 1000}
    assert ReformerHFConfig.from_dict(old_file).position_limit == 96
    learned = tiny_config(position_embedding_type="learned", max_position_embeddings=1000)
    assert learned.position_limit == 1000
    assert tiny_config(position_embedding_type="none").position_limit is None


def test_sequences_are_copied_to_lists():
    given_sequences = {
        "attn_layers": ("local", "lsh"),
        "axial_pos_shape": (12, 8),
        "axial_pos_embds_dim": (6, 10),
    }
    config = tiny_config(**given_sequences)
    for name, sequence in given_sequences.items():
        assert getattr(config, name) == list(sequence)
    layers = ["local", "lsh"]
    config = tiny_config(attn_layers=layers)
    layers.append("lsh")
    assert config.num_hidden_layers == 2


def test_models_without_lsh_layers_have_no_buckets():
    assert tiny_config(attn_layers=["local"], num_buckets=None).num_buckets is None


def test_bidirectional_windows_default_to_both_sides_in_the_band_scope_only():
    band, chunk = tiny_config(local_num_chunks_before=2), tiny_config(attention_scope="chunk")
    assert band.attention_window("local", causal=False) == Window(4, 2, 2, causal=False)
    assert band.attention_window("local", causal=True) == Window(4, 2)
    assert chunk.attention_window("lsh", causal=False) == Window(4, 1, 0, "chunk", False)
    given_after = tiny_config(lsh_num_chunks_after=0)
    assert given_after.attention_window("lsh", causal=False) == Window(4, 1, causal=False)


def test_axial_pos_embds_of_old_files_is_read():
    assert tiny_config(axial_pos_embds=False).position_embedding_type == "learned"
    assert tiny_config(position_embedding_type="none").axial_pos_embds is False


@given(
    layers=st.lists(st.sampled_from(["local", "lsh", "full"]), min_size=1, max_size=4),
    buckets=st.sampled_from([None, 2, [4, 6]]),
    scope=st.sampled_from([None, "band", "chunk"]),
    seed=st.sampled_from([None, 0, 7]),
    positions=st.sampled_from([None, "axial", "learned", "none"]),
    extra=st.dictionaries(st.sampled_from(["old_key", "task"]), st.integers()),
)
def test_a_dictionary_round_trip_changes_nothing(layers, buckets, scope, seed, positions, extra):
    config = tiny_config(
        attn_layers=layers,
        num_buckets=buckets,
        attention_scope=scope,
        hash_seed=seed,
        position_embedding_type=positions,
    )
    # Notes of other programs, in a file.
    config = ReformerHFConfig.from_dict({**config.to_dict(), **extra})
    for dictionary in (config.to_dict(), json.loads(config.to_json_string())):
        assert ReformerHFConfig.from_dict(dictionary).to_dict() == config.to_dict()
    assert extra.items() <= config.to_dict().items()
    assert copy.deepcopy(config) == config
