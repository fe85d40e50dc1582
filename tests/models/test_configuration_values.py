"""Sweeps over all fields: a value that cannot be is refused in the name of its field."""

from dataclasses import fields
from types import SimpleNamespace
from typing import Any

import pytest
from huggingface_hub.errors import StrictDataclassFieldValidationError

from reformer_hf import ReformerHFConfig
from reformer_hf.models import self_attention
from reformer_hf.models.configuration_rules import ALIASES, LAYER_COUNTS
from tests.models.tiny import tiny_config

BASES: list[dict[str, Any]] = [
    {},
    {"attn_layers": ["local"]},
    {"attn_layers": ["lsh"]},
    {"attn_layers": ["full"]},
    {"position_embedding_type": "learned"},
    {"is_encoder_decoder": True, "encoder_layers": 1, "decoder_layers": 2},
]
AT_LEAST_1 = [
    *("hidden_size", "num_attention_heads", "attention_head_size", "feed_forward_size"),
    *("num_hashes", "hash_length", "num_buckets", "vocab_size", "max_position_embeddings"),
    "ff_sru_layers",
    *("local_attn_chunk_length", "lsh_attn_chunk_length", "ff_sparsity_rank"),
    *("d_model", "n_embd", "num_heads", "n_head", "head_dim", "intermediate_size", "ffn_dim"),
    *("n_positions", "max_seq_len", "num_layers", "n_layer", *LAYER_COUNTS),
]
AT_LEAST_0 = [
    *("local_num_chunks_before", "local_num_chunks_after"),
    *("lsh_num_chunks_before", "lsh_num_chunks_after"),
    *("chunk_size_attention_heads", "chunk_size_feed_forward", "chunk_size_lm_head"),
    *("activation_budget", "ff_sparsity", "ff_sru_size"),
]
OWN = {field.name for field in fields(ReformerHFConfig)} & {*ReformerHFConfig.__annotations__}


def check_refused(name: str, value: Any) -> None:
    """With whatever other fields, by an error that begins with the field's name."""
    names = "|".join([name, *ALIASES.get(name, [])])
    for base in BASES:
        if name in base:
            continue
        with pytest.raises((ValueError, StrictDataclassFieldValidationError)) as caught:
            ReformerHFConfig(**base, **{name: value})
        text = str(caught.value).removeprefix("Validation error for field '")
        assert text.startswith(tuple(names.split("|"))), (base, text)


@pytest.mark.parametrize("value", [0, -1])
@pytest.mark.parametrize("name", AT_LEAST_1)
def test_sizes_are_positive(name, value):
    check_refused(name, value)


@pytest.mark.parametrize("name", AT_LEAST_0)
def test_lengths_are_not_negative(name):
    check_refused(name, -1)


@pytest.mark.parametrize("name", [*AT_LEAST_1, *AT_LEAST_0])
@pytest.mark.parametrize("value", [1.5, 2.0, True, "3", float("nan"), {}, ["x"]])
def test_whole_numbers_are_given_as_such(name, value):
    check_refused(name, value)


@pytest.mark.parametrize("name", ["axial_pos_shape", "axial_pos_embds_dim"])
@pytest.mark.parametrize("value", [[0, 4], [4, -1], [2.0, 2], 3, "3"])
def test_axes_are_positive(name, value):
    check_refused(name, value)
    if isinstance(value, list) and value[0] != 2.0:
        config = tiny_config()
        setattr(config, name, value)
        with pytest.raises(ValueError, match=f"^{name}="):
            config.check_fields()


@pytest.mark.parametrize("name", sorted(OWN | {*LAYER_COUNTS}))
def test_no_field_takes_what_is_of_no_use(name):
    check_refused(name, {"a": 1})


def test_a_kind_that_nobody_builds_is_refused(monkeypatch):
    config: Any = SimpleNamespace(**tiny_config().to_dict())
    config.attn_layers, config.is_decoder = ["global"], True
    with pytest.raises(ValueError, match="attn_layers has 'global'"):
        self_attention.build_self_attention(config, 0)
