"""Rotary positions of models: their names in the configuration, and transformers' angles."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.testing import assert_close
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from reformer_hf import ReformerHFConfig, ReformerHFForCausalLM
from reformer_hf.models.rotary import rotary_of
from tests.models.tiny import ALL_OPTIONS, random_ids, tiny_config, tiny_lm

ROTARY = {"position_embedding_type": "rotary"}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
SCALINGS: dict[str, dict[str, Any]] = {
    "default": {"rope_type": "default"},
    "linear": {"rope_type": "linear", "factor": 3.0},
    "llama3": {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    },
    "yarn": YARN,
}


@pytest.mark.parametrize("head_size", [8, 12])  # of the width 16 with 2 heads, and not
@pytest.mark.parametrize("name", SCALINGS)
def test_angles_are_those_of_transformers(name, head_size):
    parameters = {**SCALINGS[name], "rope_theta": 5e5}
    config = tiny_config(**ROTARY, rope_parameters=parameters, attention_head_size=head_size)
    sizes = {"head_dim": head_size, "max_position_embeddings": config.max_position_embeddings or 64}
    theirs = LlamaRotaryEmbedding(LlamaConfig(rope_parameters=dict(parameters), **sizes))
    positions = torch.tensor([[0, 1, 5, 63, 200]])
    cos, sin = theirs(torch.zeros(1, 5, 1), positions)
    found = rotary_of(config, positions, torch.float32)
    factor = found.score_factor**0.5
    assert (factor > 1) == (name == "yarn")
    assert_close(torch.cat([found.cos, found.cos], dim=-1)[0, 0] * factor, cos[0])
    assert_close(torch.cat([found.sin, found.sin], dim=-1)[0, 0] * factor, sin[0])


def test_without_rotary_positions_there_are_no_angles():
    config = tiny_config()
    assert config.rope_parameters is None
    assert rotary_of(config, torch.arange(3)[None], torch.float32) is None


@pytest.mark.parametrize("parameters", [None, {**YARN, "rope_theta": 100.0}])
def test_a_local_round_over_the_whole_row_is_full_attention(parameters):
    """Each key counted once: LSH turns, scales and convolves as full shared-QK attention does."""
    fields = {**ALL_OPTIONS, "rope_parameters": parameters, "lsh_attn_chunk_length": 32}
    fields["lsh_next_values"] = False
    models = [
        tiny_lm(attn_layers=[kind] * 2, deduplicate_rounds=True, **fields).double()
        for kind in ("lsh", "full_shared_qk")
    ]
    models[1].load_state_dict(models[0].state_dict())
    logits = [model(random_ids(2, 21)).logits for model in models]
    # Keys have unit length but for the 1e-6 that is added to a mean square of about one.
    assert_close(*logits, rtol=0, atol=1e-9 if parameters is None else 1e-3)


class TestNames:
    def test_defaults(self):
        config = tiny_config(**ROTARY)
        assert config.rope_parameters == {"rope_type": "default", "rope_theta": 10_000.0}
        assert config.position_limit is None and config.max_position_embeddings is None
        assert tiny_lm(**ROTARY)(random_ids(1, 120)).logits.isfinite().all()

    def test_old_names(self):
        linear = {"rope_type": "linear", "factor": 2.0, "rope_theta": 500.0}
        for given in (
            {"rope_theta": 500.0, "rope_scaling": {"type": "linear", "factor": 2.0}},
            {"rope_theta": 500.0, "rope_parameters": {"rope_type": "linear", "factor": 2.0}},
            {"rope_parameters": linear},
        ):
            config = tiny_config(**ROTARY, **given)
            assert config.rope_parameters == linear
            assert ReformerHFConfig.from_dict(config.to_dict()).rope_parameters == linear
            assert not hasattr(config, "rope_theta")

    def test_scaled_angles_name_the_length_that_they_are_for(self):
        assert tiny_config(**ROTARY, rope_parameters=YARN).max_position_embeddings == 256

    def test_a_file_s_parameters_change_on_loading(self, tmp_path):
        model = tiny_lm(**ROTARY, rope_theta=300.0)
        model.save_pretrained(tmp_path)
        load = ReformerHFForCausalLM.from_pretrained
        ids = random_ids(1, 9)
        assert torch.equal(load(tmp_path)(ids).logits, model(ids).logits)
        other = load(tmp_path, rope_theta=20.0)
        assert other.config.rope_parameters == {"rope_type": "default", "rope_theta": 20.0}
        assert not torch.allclose(other(ids).logits, model(ids).logits)
        scaled = load(tmp_path, rope_scaling={"rope_type": "linear", "factor": 2.0})
        assert scaled.config.rope_parameters["rope_theta"] == 300.0
        again = load(tmp_path, position_embedding_type="rotary")
        assert again.config.rope_parameters["rope_theta"] == 300.0
        plain = load(tmp_path, position_embedding_type="none")
        assert plain.config.rope_parameters is None

    def test_a_field_that_is_set_too_late_says_so(self):
        config = tiny_config()
        config.position_embedding_type = "rotary"
        with pytest.raises(ValueError, match="rope_parameters=None.*when the configuration is"):
            ReformerHFForCausalLM(config)


def test_options_leave_old_configurations_as_they_are():
    """A file from before these options: every field has the value that changes nothing."""
    fields = tiny_config().to_dict()
    for name in ("rope_parameters", "conv_kernel", "lsh_local_round", "use_qk_norm"):
        del fields[name]
    old = ReformerHFConfig.from_dict(fields)
    found = SimpleNamespace(**old.to_dict())
    assert (found.rope_parameters, found.conv_kernel, found.lsh_local_round) == (None, 0, False)
    names = ReformerHFForCausalLM(old).state_dict().keys()
    assert names == tiny_lm().state_dict().keys()


def test_a_model_with_all_options_is_saved_and_loaded_bitwise(tmp_path):
    model = tiny_lm(attn_layers=["local", "lsh", "full"], **ALL_OPTIONS)
    with torch.no_grad():
        for layer in model.reformer.encoder.layers:
            layer.attention.self_attention.convolution.weight.normal_()
    model.save_pretrained(tmp_path)
    again = ReformerHFForCausalLM.from_pretrained(tmp_path)
    ids = random_ids(2, 13)
    assert torch.equal(again(ids).logits, model(ids).logits)
    again.resize_token_embeddings(45, mean_resizing=False)
    assert torch.equal(again(ids).logits[..., :40], model(ids).logits)


def test_a_files_theta_is_kept_where_another_scaling_is_given(tmp_path):
    tiny_config(position_embedding_type="rotary", rope_theta=300.0).save_pretrained(tmp_path)
    linear = {"rope_type": "linear", "factor": 2.0}
    config = ReformerHFConfig.from_pretrained(tmp_path, rope_parameters=linear)
    assert config.rope_parameters == {**linear, "rope_theta": 300.0}


def test_what_could_not_be_read_back_is_refused():
    config = tiny_config(position_embedding_type="rotary")
    config.position_embedding_type = "none"
    with pytest.raises(ValueError, match="rope_parameters=.*position_embedding_type='none'"):
        config.check_fields()
