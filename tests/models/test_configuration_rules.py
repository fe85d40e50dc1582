"""Names of fields, and what follows from those given."""

import pytest
from huggingface_hub.errors import StrictDataclassFieldValidationError
from peft import LoraConfig, get_peft_model

from reformer_hf import ReformerHFConfig
from reformer_hf.models.configuration_rules import ALIASES, axial_shape
from tests.models.tiny import tiny_config, tiny_lm


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("num_hashs", "num_hashes"),
        ("hiden_size", "hidden_size"),
        ("num_chunks_before", "lsh_num_chunks_before"),
        ("max_seq_len_", "max_seq_len"),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest_known(name, near):
    with pytest.raises(ValueError, match=rf"{name}=8: did you mean {near}\?"):
        tiny_config(**{name: 8})
    with pytest.raises(ValueError, match="xyzzy=1: leave it out"):
        tiny_config(xyzzy=1)


TRANSFORMERS_OWN = {
    "transformers_version": "5.0.0",
    "architectures": ["ReformerHFForCausalLM"],
    "_name_or_path": "somewhere",
    "name_or_path": "somewhere",
    "torch_dtype": "float32",
    "dtype": "bfloat16",
    "auto_map": {"AutoConfig": "configuration.Config"},
    "id2label": {0: "no", 1: "yes", 2: "perhaps"},
    "num_labels": 3,
    "problem_type": "regression",
    "attn_implementation": "eager",
    "_attn_implementation": "eager",
    "quantization_config": {"quant_method": "bitsandbytes"},
    "use_bfloat16": False,
    "output_attentions": True,
    "output_hidden_states": True,
    "return_dict": False,
    "tokenizer_class": "TokenizersBackend",
    "task_specific_params": {},
    "max_length": 20,
    "do_sample": True,
    "sep_token_id": 3,
    "_commit_hash": "0123",
}


@pytest.mark.parametrize("name", TRANSFORMERS_OWN)
def test_what_transformers_adds_is_no_unknown_name(name):
    tiny_config(**{name: TRANSFORMERS_OWN[name]})


VALUES = {"hidden_act": "gelu", "layer_norm_eps": 1e-6, "hidden_size": 16}


@pytest.mark.parametrize("alias", sorted(ALIASES))
def test_an_alias_sets_and_reads_the_field(alias):
    fields = ALIASES[alias]
    value = VALUES.get(fields[0], 0.25 if "dropout" in alias else 4)
    config = ReformerHFConfig(**{alias: value})
    for field in fields:
        assert getattr(config, field) == value
    assert alias not in config.to_dict()
    if len(fields) == 1:
        assert getattr(config, alias) == value
        setattr(config, alias, value)
    other = "relu" if isinstance(value, str) else 2 * value
    with pytest.raises(ValueError, match=f"{alias}={value!r}.* are two names of one field"):
        ReformerHFConfig(**{fields[0]: other, alias: value})
    ReformerHFConfig(**{fields[0]: value, alias: value})


def test_an_alias_has_the_type_of_its_field():
    with pytest.raises(StrictDataclassFieldValidationError, match="hidden_size"):
        ReformerHFConfig(d_model="wide")
    with pytest.raises(ValueError, match="num_hidden_layers='4': give a number of layers"):
        ReformerHFConfig(num_layers="4")
    with pytest.raises(ValueError, match="num_hidden_layers=0: give a number of layers"):
        ReformerHFConfig(num_hidden_layers=0)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (
            {"hidden_size": 512},
            {
                "num_attention_heads": 8,
                "attention_head_size": 64,
                "axial_pos_embds_dim": [256, 256],
                "feed_forward_size": 2048,
            },
        ),
        ({"hidden_size": 300}, {"num_attention_heads": 5, "attention_head_size": 60}),
        ({"hidden_size": 101}, {"num_attention_heads": 1, "axial_pos_embds_dim": [50, 51]}),
        ({"num_attention_heads": 8}, {"hidden_size": 256, "attention_head_size": 32}),
        ({"attention_head_size": 128}, {"hidden_size": 256, "num_attention_heads": 2}),
        ({"axial_pos_embds_dim": [6, 10]}, {"hidden_size": 16, "attention_head_size": 16}),
        (
            {"axial_pos_shape": [4, 4, 4]},
            {"axial_pos_embds_dim": [85, 85, 86], "max_position_embeddings": 64, "num_buckets": 2},
        ),
        (
            {"max_position_embeddings": 16384},
            {"axial_pos_shape": [128, 128], "position_limit": 16384, "hash_length": 8192},
        ),
        ({"max_position_embeddings": 1000}, {"axial_pos_shape": [32, 32], "position_limit": 1000}),
        (
            {"max_position_embeddings": 1000, "axial_pos_embds_dim": [80, 80, 96]},
            {"axial_pos_shape": [8, 8, 16], "position_limit": 1000},
        ),
        ({"num_hidden_layers": 3}, {"attn_layers": ["local", "lsh", "local"]}),
        ({"attn_layers": ["full"]}, {"num_hidden_layers": 1, "num_buckets": None}),
        (
            {"is_encoder_decoder": True, "num_hidden_layers": 2},
            {"encoder_attn_layers": ["local", "lsh"], "decoder_attn_layers": ["local", "lsh"]},
        ),
        (
            {"is_encoder_decoder": True, "encoder_layers": 1, "decoder_attn_layers": ["full"]},
            {"encoder_attn_layers": ["local"], "attn_layers": ["full"]},
        ),
        ({"initializer_range": 0.1}, {"axial_norm_std": 0.1}),
        ({"initializer_range": 0.1, "axial_norm_std": 1.0}, {"axial_norm_std": 1.0}),
    ],
)
def test_what_is_not_given_is_derived(given, expected):
    config = ReformerHFConfig(**given)
    assert {name: getattr(config, name) for name in expected} == expected
    assert all(getattr(config, name, given[name]) == given[name] for name in given)
    assert ReformerHFConfig.from_dict(config.to_dict()).to_dict() == config.to_dict()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"axial_pos_shape": [64, 64], "max_position_embeddings": 16384},
            "max_position_embeddings=16384 is more than the 4096 positions of axial_pos_shape",
        ),
        ({"axial_pos_shape": [64, 64], "max_seq_len": 4097}, "max_position_embeddings=4097"),
        ({"hidden_size": 512, "axial_pos_embds_dim": [64, 192]}, "sums to 256"),
        ({"num_layers": 3, "attn_layers": ["lsh"]}, "num_hidden_layers=3 but attn_layers has 1"),
        ({"encoder_layers": 3}, "encoder_attn_layers=.* with is_encoder_decoder=False"),
        ({"max_position_embeddings": 0}, "max_position_embeddings=0 must be at least 1"),
        ({"is_encoder_decoder": True}, "encoder_attn_layers=None with is_encoder_decoder=True"),
    ],
)
def test_contradictions_of_what_was_given_are_refused(given, message):
    with pytest.raises(ValueError, match=message):
        ReformerHFConfig(**given)


@pytest.mark.parametrize("positions", [1, 2, 100, 4097, 8192, 524288])
@pytest.mark.parametrize("axes", [2, 3])
def test_axes_cover_the_positions_and_little_more(positions, axes):
    shape = axial_shape(positions, axes)
    product = 1
    for length in shape:
        product *= length
    assert len(shape) == axes and positions <= product < positions + max(shape) ** (axes - 1)


def test_a_subclass_derives_too():
    class Wider(ReformerHFConfig):
        extra_field: int = 3

    config = Wider(hidden_size=512, extra_field=4)
    assert (config.num_attention_heads, config.extra_field) == (8, 4)
    with pytest.raises(ValueError, match=r"extra_feld=4: did you mean extra_field\?"):
        Wider(extra_feld=4)


def test_auto_map_can_be_read_and_is_not_saved(tmp_path):
    """TRL's trainers look there for the class of a model given by its path."""
    config = tiny_config()
    assert config.auto_map == {}
    config.auto_map["AutoModel"] = "nowhere.Model"
    config.save_pretrained(tmp_path)
    assert "auto_map" not in (tmp_path / "config.json").read_text()
    assert tiny_config().auto_map == {}
    assert ReformerHFConfig.from_pretrained(tmp_path).auto_map == {}


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # read by PEFT
@pytest.mark.parametrize("layers", [["local", "lsh"], ["full_shared_qk"], ["full"]])
def test_lora_needs_no_target_modules(layers):
    model = get_peft_model(tiny_lm(attn_layers=layers), LoraConfig())
    trained = [name for name, p in model.named_parameters() if p.requires_grad]
    assert trained and all(".self_attention." in name for name in trained)
    for index, kind in enumerate(layers):
        shared = kind in ("lsh", "full_shared_qk")
        found = sum(f"layers.{index}." in name for name in trained)
        assert found == 2 * (2 if shared else 2)
