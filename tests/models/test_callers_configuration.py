"""What a model is built from stays as the caller made it."""

import pytest
from transformers import AutoConfig

import reformer_hf
from reformer_hf import (
    ReformerHFConfig,
    ReformerHFForCausalLM,
    ReformerHFForMaskedLM,
    ReformerHFForSequenceClassification,
)
from reformer_hf.models.registration import MODELS
from tests.models.seq2seq import seq2seq_config
from tests.models.tiny import tiny_config

CLASSES = sorted({model for model in MODELS.values()}, key=lambda model: model.__name__)


def config_for(model_class: type) -> ReformerHFConfig:
    seq2seq = model_class is reformer_hf.ReformerHFForConditionalGeneration
    return seq2seq_config() if seq2seq else tiny_config()


@pytest.mark.parametrize("model_class", CLASSES)
@pytest.mark.parametrize("build", ["constructor", "_from_config"])
def test_no_model_writes_to_it(model_class, build):
    config = config_for(model_class)
    before = config.to_dict()
    model = model_class(config) if build == "constructor" else model_class._from_config(config)
    assert config.to_dict() == before
    causal = {ReformerHFForCausalLM: True, ReformerHFForMaskedLM: False}.get(model_class)
    assert model.config.is_decoder is causal
    for module in model.modules():  # which attention reads, and `resize_token_embeddings` writes
        own = getattr(module, "config", model.config)
        assert own is model.config or model.config.is_encoder_decoder


def test_a_model_shares_what_it_need_not_change():
    config = tiny_config(is_decoder=True)
    assert ReformerHFForCausalLM(config).config is config


def test_one_configuration_serves_models_of_both_directions():
    config = tiny_config(num_labels=3)
    ReformerHFForCausalLM(config)
    classifier = ReformerHFForSequenceClassification(config)
    assert not classifier.reformer.encoder.layers[0].attention.self_attention.window.causal
    ReformerHFForMaskedLM(config)
    assert ReformerHFForCausalLM(config).config.is_decoder


def test_heads_of_a_causal_checkpoint_are_causal(tmp_path):
    ReformerHFForCausalLM(tiny_config()).save_pretrained(tmp_path)
    assert AutoConfig.from_pretrained(tmp_path).is_decoder
    classifier = ReformerHFForSequenceClassification.from_pretrained(tmp_path)
    assert classifier.reformer.encoder.layers[1].attention.self_attention.window.causal
