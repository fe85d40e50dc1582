import pytest
import torch

from reformer_hf import ReformerHFForCausalLM
from reformer_hf.models.tokenization_reformer_hf import ReformerHFByteTokenizer, ReformerHFTokenizer
from reformer_hf.training.arguments import PretrainedModelArguments
from reformer_hf.training.build import (
    build_model,
    describe_size,
    load_tokenizer,
    parse_overrides,
)
from tests.models.tiny import tiny_lm
from tests.training.runs import tiny_overrides

TOKENIZER = ReformerHFByteTokenizer()


def build(block_size=None, tokenizer=TOKENIZER, **fields):
    arguments = PretrainedModelArguments(**fields)
    return build_model(ReformerHFForCausalLM, arguments, tokenizer, block_size)


def test_overrides_are_read_as_yaml():
    found = parse_overrides("attn_layers=[local, lsh],num_hashes=4, reversible=false")
    assert found == {"attn_layers": ["local", "lsh"], "num_hashes": 4, "reversible": False}
    assert parse_overrides("d_model=512,num_layers=4") == {
        "hidden_size": 512,
        "num_hidden_layers": 4,
    }
    with pytest.raises(ValueError, match="d_model=512 and hidden_size=256 are two names of one"):
        parse_overrides("d_model=512,hidden_size=256")
    with pytest.raises(ValueError, match=r"has no field 'num_hash': did you mean num_hashes\?"):
        parse_overrides("num_hash=4")
    with pytest.raises(ValueError, match="'num_hashes' is not of the form name=value"):
        parse_overrides("num_hashes")


def test_a_new_model_fits_the_tokenizer_and_the_rows():
    config = build(1000, config_overrides=tiny_overrides()).config
    assert (config.vocab_size, config.pad_token_id, config.eos_token_id) == (258, 0, 1)
    assert config.position_limit == 1000
    assert config.axial_pos_embds_dim == [8, 8]
    config = build(1000, config_overrides=tiny_overrides(axial_pos_shape="[8,8]")).config
    assert config.position_limit == 64
    words = ReformerHFTokenizer.train_from_iterator(["a b c d"], 40)
    config = build(64, words, config_overrides=tiny_overrides()).config
    assert config.vocab_size == len(words) and config.eos_token_id == words.eos_token_id


def test_shapes_follow_from_the_overrides():
    config = build(64, config_overrides="num_hidden_layers=3,d_model=32").config
    assert config.attn_layers == ["local", "lsh", "local"]
    assert config.axial_pos_embds_dim == [16, 16] and config.position_limit == 64
    assert config.axial_norm_std == config.initializer_range
    assert config.num_attention_heads * config.attention_head_size == config.hidden_size == 32


def test_a_configuration_file_may_be_overridden(tmp_path):
    build(config_overrides=tiny_overrides()).config.save_pretrained(tmp_path)
    model = build(config_name=str(tmp_path), config_overrides="num_layers=1,hidden_size=32")
    assert model.config.attn_layers == ["local"] and model.config.axial_pos_embds_dim == [16, 16]
    model = build(config_name=str(tmp_path), config_overrides="num_hashes=3")
    assert model.config.num_hashes == 3 and model.config.hidden_size == 16


def test_a_checkpoint_keeps_its_weights_and_grows_for_the_tokenizer(tmp_path):
    tiny_lm(vocab_size=258).bfloat16().save_pretrained(tmp_path)
    tokenizer = ReformerHFByteTokenizer(mask_token="<mask>")
    model = build(tokenizer=tokenizer, model_name_or_path=str(tmp_path))
    assert model.config.vocab_size == 259
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert build(model_name_or_path=str(tmp_path), dtype="auto").dtype == torch.bfloat16
    with pytest.raises(ValueError, match="config_overrides='a=1' with model_name_or_path"):
        PretrainedModelArguments(model_name_or_path="x", config_overrides="a=1")


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # read by PEFT
def test_parts_are_frozen_or_get_adapters():
    model = build(config_overrides=tiny_overrides(), freeze_embeddings=True)
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    assert frozen and all("embeddings" in name for name in frozen)
    fields = {"use_lora": True, "lora_r": 2, "lora_target_modules": ["query_key"]}
    model = build(config_overrides=tiny_overrides(), **fields)
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert len(trained) == 2 and all("query_key.lora" in name for name in trained)


def test_the_tokenizer_is_the_named_one_or_the_models_or_bytes(tmp_path):
    words = ReformerHFTokenizer.train_from_iterator(["a b c d"], 40)
    words.save_pretrained(tmp_path / "words")

    def load(**fields):
        return load_tokenizer(PretrainedModelArguments(**fields))

    assert len(load(tokenizer_name=str(tmp_path / "words"))) == len(words)
    assert len(load(model_name_or_path=str(tmp_path / "words"))) == len(words)
    assert isinstance(load(), ReformerHFByteTokenizer)
    assert isinstance(load(tokenizer_name="bytes"), ReformerHFByteTokenizer)
    (tmp_path / "empty").mkdir()
    assert isinstance(load(config_name=str(tmp_path / "empty")), ReformerHFByteTokenizer)
    with pytest.raises(
        OSError, match="(?s)no tokenizer could be loaded.*'bytes' for models of bytes"
    ):
        load(model_name_or_path=str(tmp_path / "empty"))


@pytest.mark.parametrize(
    "text, message",
    [
        ("num_hashes=2,num_hashes=4", "num_hashes stands twice"),
        ("num_hashes=[", r"'num_hashes=\[' cannot be read"),
    ],
)
def test_an_override_that_cannot_be_read_is_named(text, message):
    with pytest.raises(ValueError, match=f"config_overrides: {message}"):
        parse_overrides(text)


def test_numbers_of_overrides_are_numbers():
    assert parse_overrides("initializer_range=1e-3, hidden_act=no, num_hidden_layers=4") == {
        "initializer_range": 1e-3,
        "hidden_act": "no",
        "num_hidden_layers": 4,
    }


def test_the_size_of_a_run_is_said():
    model = build(config_overrides=tiny_overrides(), freeze_embeddings=True)
    total, trained = (model.num_parameters(only_trainable=only) for only in (False, True))
    said = describe_size(model, [{"input_ids": [1] * 1500}], 8)
    expected = f"Model: {total:,} parameters, {trained:,} trained. A step: 8 rows of 1,500 tokens"
    assert said == f"{expected} or so" and trained < total
    assert describe_size(model, iter([]), 8).endswith("A step: 8 rows")
    assert describe_size(model, None, 8).endswith("A step: 8 rows")
