"""Fields of sparse layers that contradict each other or the rest."""

import re

import pytest

from reformer_hf import ReformerHFConfig, ReformerHFForCausalLM
from tests.models.seq2seq import seq2seq_config
from tests.models.tiny import tiny_config

REFUSED = [
    ({"attention_sparsity": 1}, "attention_sparsity=1: give a number of modules, at least 2"),
    ({"attention_sparsity": -2}, "attention_sparsity=-2: give"),
    ({"attention_sparsity": 3}, "attention_sparsity=3 does not divide hidden_size=16: give"),
    (
        {"attention_sparsity": 8, "attention_head_size": 6},
        "attention_sparsity=8 does not divide num_attention_heads * attention_head_size=12: give",
    ),
    (
        {"attention_sparsity": 4, "attention_sparsity_kernel": 0},
        "attention_sparsity_kernel=0: give a number of tokens",
    ),
    (
        {"attention_output_projection": False, "attention_head_size": 6},
        "attention_output_projection=False with num_attention_heads * attention_head_size=12 and "
        "hidden_size=16: make them equal",
    ),
    ({"lm_head_sparsity": 1}, "lm_head_sparsity=1: give a number of modules, at least 2"),
    ({"lm_head_sparsity": 41}, "lm_head_sparsity=41 is more than vocab_size=40: give fewer"),
    ({"lm_head_sparsity": 4, "lm_head_sparse_share": 0}, "lm_head_sparse_share=0: give a share"),
    (
        {"lm_head_sparsity": 4, "lm_head_sparse_share": 1.5},
        "lm_head_sparse_share=1.5: give a share",
    ),
    ({"lm_head_sparse_share": 0.5}, "lm_head_sparse_share=0.5 with lm_head_sparsity=0: nothing"),
    ({"attention_sparsity_kernel": 2}, "attention_sparsity_kernel=2 with attention_sparsity=0"),
    ({"ff_sparsity_rank": 2}, "ff_sparsity_rank=2 with ff_sparsity=0: nothing uses it; give"),
    ({"ff_sparsity_temperature": 1.0}, "ff_sparsity_temperature=1.0 with ff_sparsity=0: nothing"),
    ({"ff_sparsity_hard_share": 1.0}, "ff_sparsity_hard_share=1.0 with ff_sparsity=0: nothing"),
    ({"ff_sru_layers": 2}, "ff_sru_layers=2 with ff_sru_size=0: nothing uses it"),
]


SPARSE = {
    **{"ff_sparsity": 4, "ff_sparsity_rank": 2, "ff_sparsity_temperature": 0.2},
    **{"ff_sru_size": 3, "ff_sru_layers": 2, "attention_sparsity": 4},
    **{"attention_sparsity_kernel": 2, "lm_head_sparsity": 4, "lm_head_sparse_share": 0.5},
}


@pytest.mark.parametrize(
    ("switch", "others"),
    [
        ("ff_sparsity", ["ff_sparsity_rank", "ff_sparsity_temperature"]),
        ("ff_sru_size", ["ff_sru_layers"]),
        ("attention_sparsity", ["attention_sparsity_kernel"]),
        ("lm_head_sparsity", ["lm_head_sparse_share"]),
    ],
)
def test_a_sparse_layer_of_a_file_can_be_switched_off(switch, others, tmp_path):
    """What only that layer used has its default again, and is no mistake of the caller's."""
    sparse = tiny_config(**SPARSE)
    left = {name: value for name, value in SPARSE.items() if name not in (switch, *others)}
    sparse.save_pretrained(tmp_path)
    loaded = ReformerHFConfig.from_pretrained(tmp_path, **{switch: 0})
    given = ReformerHFConfig(**{**sparse.to_dict(), switch: 0})
    expected = tiny_config(**left).to_dict()
    assert loaded.to_dict() == given.to_dict() == expected
    ReformerHFForCausalLM(loaded)


@pytest.mark.parametrize(("fields", "message"), REFUSED)
def test_what_does_not_fit_is_refused(fields, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        tiny_config(**fields)


def test_a_tied_output_layer_cannot_be_sparse():
    with pytest.raises(ValueError, match="lm_head_sparsity=4 with tie_word_embeddings=True"):
        seq2seq_config(tie_word_embeddings=True, lm_head_sparsity=4)


def test_an_encoder_decoder_is_checked_too():
    with pytest.raises(ValueError, match="attention_sparsity=3 does not divide"):
        seq2seq_config(attention_sparsity=3)
