"""Loading weight files, whole and broken, of transformers' Reformer and of this package."""

import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.testing import assert_close

from reformer_hf import ReformerHFForCausalLM, ReformerHFModel
from reformer_hf.models.files.checkpoint_files import choose_head_bias
from tests.parity.published_models import TINY, build_stock, random_ids, write_checkpoint

IN_HEAD, IN_DECODER = "lm_head.bias", "lm_head.decoder.bias"


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """What transformers logs, which does not reach the root logger."""
    logger = logging.getLogger("transformers")
    logger.addHandler(caplog.handler)
    yield caplog
    logger.removeHandler(caplog.handler)


@pytest.fixture
def weights() -> dict[str, Tensor]:
    """A state dict as transformers of 2020 saved it: constant buffers and all."""
    weights = dict(build_stock(TINY, torch.float32).state_dict())
    for index, kind in enumerate(TINY["attn_layers"]):
        prefix = f"reformer.encoder.layers.{index}.attention.self_attention."
        names = ["mask_value_float16", "mask_value_float32"]
        if kind == "lsh":
            names += ["self_mask_value_float16", "self_mask_value_float32"]
        weights |= {prefix + name: torch.tensor(-1e4) for name in names}
    return weights


@pytest.fixture
def folder(tmp_path: Path, weights: dict[str, Tensor]) -> Path:
    return write_checkpoint(tmp_path / "published", TINY, weights)


def logits_of(model: Any) -> Tensor:
    ids = torch.arange(1, 31).view(1, -1)
    with torch.no_grad():
        return model(ids).logits


def test_published_checkpoint_loads_without_a_word(folder: Path, log: pytest.LogCaptureFixture):
    model, report = ReformerHFForCausalLM.from_pretrained(folder, output_loading_info=True)
    base = ReformerHFModel.from_pretrained(folder)
    assert not any(report.values())
    assert log.text == ""
    ids = random_ids(TINY, 1, 20)
    assert torch.equal(base(ids).last_hidden_state, model.reformer(ids).last_hidden_state)


def test_configuration_is_read_as_transformers_means_it(folder: Path):
    config = ReformerHFForCausalLM.from_pretrained(folder).config
    assert config.attention_scope == "chunk"
    assert config.share_rotations and config.redraw_rotations
    assert config.num_buckets == [4, 6]
    assert ReformerHFForCausalLM.from_pretrained(folder, hash_seed=5).config.hash_seed == 5


@pytest.mark.parametrize("names", [[IN_HEAD], [IN_DECODER], [IN_HEAD, IN_DECODER]])
@pytest.mark.parametrize("safetensors", [False, True])
def test_head_bias_is_applied_under_either_name(
    tmp_path: Path, weights: dict[str, Tensor], names: list[str], safetensors: bool
):
    bias = torch.randn(TINY["vocab_size"])
    unbiased = ReformerHFForCausalLM.from_pretrained(
        write_checkpoint(tmp_path / "zero", TINY, weights)
    )
    weights = {name: weight for name, weight in weights.items() if name != IN_HEAD}
    weights |= {name: bias.clone() for name in names}
    folder = write_checkpoint(tmp_path / "biased", TINY, weights)
    if safetensors:
        (folder / "pytorch_model.bin").unlink()
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    model = ReformerHFForCausalLM.from_pretrained(folder)
    assert_close(logits_of(model), logits_of(unbiased) + bias)


@pytest.mark.parametrize("zero", [IN_HEAD, IN_DECODER])
def test_of_two_biases_the_trained_one_is_taken(
    tmp_path: Path, weights: dict[str, Tensor], zero: str
):
    """The script behind the published files set one name and left zeros under the other."""
    bias = torch.randn(TINY["vocab_size"])
    weights |= {IN_HEAD: bias, IN_DECODER: bias, zero: torch.zeros_like(bias)}
    folder = write_checkpoint(tmp_path / "two", TINY, weights)
    assert torch.equal(ReformerHFForCausalLM.from_pretrained(folder).lm_head.bias, bias)


def test_two_different_biases_are_an_error(tmp_path: Path, weights: dict[str, Tensor]):
    weights |= {name: torch.randn(TINY["vocab_size"]) for name in (IN_HEAD, IN_DECODER)}
    folder = write_checkpoint(tmp_path / "two", TINY, weights)
    with pytest.raises(ValueError, match=f"{IN_HEAD} and {IN_DECODER} hold different biases"):
        ReformerHFForCausalLM.from_pretrained(folder)


def test_choose_head_bias_of_zeros():
    zeros = torch.zeros(3)
    assert choose_head_bias([zeros, zeros.clone()]) is zeros


@pytest.mark.parametrize("bias_name", [IN_HEAD, IN_DECODER])
def test_saved_again_it_has_the_current_names_and_is_equal(
    tmp_path: Path, weights: dict[str, Tensor], bias_name: str, log: pytest.LogCaptureFixture
):
    del weights[IN_HEAD]
    weights[bias_name] = torch.randn(TINY["vocab_size"])
    model = ReformerHFForCausalLM.from_pretrained(write_checkpoint(tmp_path / "a", TINY, weights))
    model.save_pretrained(tmp_path / "b")
    assert not list((tmp_path / "b").glob("*.bin"))
    saved = load_file(tmp_path / "b" / "model.safetensors")
    assert saved.keys() == build_stock(TINY, torch.float32).state_dict().keys()
    config = json.loads((tmp_path / "b" / "config.json").read_text())
    assert (config["model_type"], config["attention_scope"]) == ("reformer_hf", "chunk")
    again = ReformerHFForCausalLM.from_pretrained(tmp_path / "b")
    assert again.config.to_diff_dict() == model.config.to_diff_dict()
    assert torch.equal(logits_of(again), logits_of(model))
    assert log.text == ""


def test_half_precision_stays(tmp_path: Path, weights: dict[str, Tensor]):
    weights = {name: weight.bfloat16() for name, weight in weights.items()}
    folder = write_checkpoint(tmp_path / "half", TINY, weights)
    model = ReformerHFForCausalLM.from_pretrained(folder)
    assert model.dtype == torch.bfloat16
    assert ReformerHFForCausalLM.from_pretrained(folder, dtype="float32").dtype == torch.float32


@pytest.mark.parametrize("file", ["zip", "legacy", "safetensors"])
@pytest.mark.parametrize("kept", [0, 10, 0.5, 0.99])
def test_file_cut_short(tmp_path: Path, weights: dict[str, Tensor], file: str, kept: float):
    folder = write_checkpoint(tmp_path / "short", TINY, weights, zip_format=file == "zip")
    path = folder / "pytorch_model.bin"
    if file == "safetensors":
        path.unlink()
        path = folder / "model.safetensors"
        save_file(weights, path, metadata={"format": "pt"})
    data = path.read_bytes()
    path.write_bytes(data[: kept if kept in (0, 10) else int(kept * len(data))])
    with pytest.raises(OSError, match=f"{path.name} is damaged or cut short: download or copy"):
        ReformerHFForCausalLM.from_pretrained(folder)


class Trap:
    """Runs a command when it is unpickled."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (self.command,)


@pytest.mark.parametrize("zip_format", [True, False])
def test_code_in_a_file_is_not_run(tmp_path: Path, weights: dict[str, Any], zip_format: bool):
    weights["trap"] = Trap(f"touch {tmp_path / 'sprung'}")
    folder = write_checkpoint(tmp_path / "hostile", TINY, weights, zip_format)
    for model_class in (ReformerHFForCausalLM, ReformerHFModel):
        with pytest.raises(OSError, match="not a file of tensors alone.*none of it was run"):
            model_class.from_pretrained(folder)
    assert not (tmp_path / "sprung").exists()
    torch.load(folder / "pytorch_model.bin", weights_only=False)
    assert (tmp_path / "sprung").exists()  # it would have


def test_other_errors_are_not_blamed_on_the_file(folder: Path):
    """Here transformers' own error stands, though another file of the folder is no tensor file."""
    (folder / "training_args.bin").write_bytes(b"anything")
    config = {**TINY, "hidden_size": 24, "axial_pos_embds_dim": [4, 20]}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(RuntimeError, match="ignore_mismatched_sizes"):
        ReformerHFForCausalLM.from_pretrained(folder)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_hidden_layers": 5}, "num_hidden_layers=5 but attn_layers has 4 entries"),
        ({"hidden_size": 24}, r"axial_pos_embds_dim=\[4, 12\] sums to 16, but hidden_size=24"),
        ({"num_buckets": [4, 5]}, r"num_buckets=\[4, 5\]"),
        ({"attn_layers": ["local", "cosine"] * 2}, "attn_layers=.*'cosine'"),
        ({"is_decoder": False}, "is_decoder=False"),
        ({"lsh_num_chunks_after": 1}, "lsh_num_chunks_after=1 with is_decoder=True"),
        ({"axial_pos_shape": [8]}, r"axial_pos_shape=\[8\]"),
        ({"tie_word_embeddings": True}, "tie_word_embeddings=True"),
    ],
)
def test_contradictory_configuration(folder: Path, fields: dict[str, Any], message: str):
    (folder / "config.json").write_text(json.dumps({**TINY, **fields}))
    with pytest.raises(ValueError, match=message):
        ReformerHFForCausalLM.from_pretrained(folder)


@pytest.mark.parametrize(
    "missing", ["max_position_embeddings", "pad_token_id", "is_decoder", "num_hidden_layers"]
)
def test_missing_fields_that_the_others_imply(folder: Path, missing: str):
    expected = logits_of(ReformerHFForCausalLM.from_pretrained(folder))
    config = {name: value for name, value in TINY.items() if name != missing}
    (folder / "config.json").write_text(json.dumps(config))
    assert torch.equal(logits_of(ReformerHFForCausalLM.from_pretrained(folder)), expected)


def test_missing_fields_that_nothing_implies(folder: Path):
    config = {name: value for name, value in TINY.items() if name != "hidden_size"}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="axial_pos_embds_dim=.* hidden_size=256"):
        ReformerHFForCausalLM.from_pretrained(folder)
