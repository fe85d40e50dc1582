"""Converting checkpoint folders from and to the format of transformers' Reformer."""

import json
import runpy
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM, ReformerConfig, ReformerModelWithLMHead

from reformer_hf import ReformerHFConfig, ReformerHFForCausalLM, ReformerHFModel
from reformer_hf.models.files import conversion
from reformer_hf.models.files.conversion import convert_checkpoint, to_stock_config
from tests.parity.published_models import TINY, build_stock, write_checkpoint

SCRIPT = Path(__file__).parents[3] / "scripts" / "convert_checkpoint.py"
TOKENIZER = {"spiece.model": b"\x0a\x01pieces", "tokenizer_config.json": b'{"model_max_length": 9}'}
CHUNK_FIELDS = {
    **TINY,
    "model_type": "reformer_hf",
    "attention_scope": "chunk",
    "share_rotations": True,
}


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """A folder as published, with a head bias, rotations that are fixed, and a tokenizer."""
    stock = build_stock(TINY, torch.float32)
    weights = stock.state_dict() | {"lm_head.decoder.bias": torch.randn(TINY["vocab_size"])}
    folder = write_checkpoint(tmp_path / "published", {**TINY, "hash_seed": 4}, weights)
    for name, content in TOKENIZER.items():
        (folder / name).write_bytes(content)
    return folder


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A folder of this package in the chunk scope."""
    return save_own(tmp_path / "own")


def save_own(folder: Path, **fields: Any) -> Path:
    ReformerHFForCausalLM(ReformerHFConfig(**{**CHUNK_FIELDS, **fields})).save_pretrained(folder)
    return folder


def logits_of(model: Any) -> Tensor:
    ids = torch.arange(1, 38).view(1, -1)
    with torch.no_grad():
        return model.eval()(ids).logits


def test_from_transformers(published: Path, tmp_path: Path):
    target = tmp_path / "new" / "converted"
    assert convert_checkpoint(published, target) == "reformer_hf"
    model = AutoModelForCausalLM.from_pretrained(target)
    assert type(model) is ReformerHFForCausalLM
    direct = ReformerHFForCausalLM.from_pretrained(published)
    assert model.lm_head.bias.any()
    assert torch.equal(logits_of(model), logits_of(direct))
    assert json.loads((target / "config.json").read_text())["model_type"] == "reformer_hf"
    for name, content in TOKENIZER.items():
        assert (target / name).read_bytes() == content
    assert list(target.parent.iterdir()) == [target]


def test_there_and_back(published: Path, tmp_path: Path):
    convert_checkpoint(published, tmp_path / "own")
    assert convert_checkpoint(tmp_path / "own", tmp_path / "back") == "reformer"
    model, report = ReformerModelWithLMHead.from_pretrained(
        tmp_path / "back", output_loading_info=True
    )
    assert not any(report.values())
    before, after = (
        ReformerConfig.from_pretrained(folder).to_dict() | {"dtype": None}
        for folder in (published, tmp_path / "back")
    )
    assert after == before
    weights = torch.load(published / "pytorch_model.bin")
    weights["lm_head.bias"] = weights.pop("lm_head.decoder.bias")
    written = load_file(tmp_path / "back" / "model.safetensors")
    assert written.keys() == weights.keys()
    assert all(torch.equal(written[name], weights[name]) for name in weights)
    for name, content in TOKENIZER.items():
        assert (tmp_path / "back" / name).read_bytes() == content


def test_to_transformers_gives_the_same_logits(tmp_path: Path):
    source = save_own(tmp_path / "own", hash_seed=2)
    convert_checkpoint(source, tmp_path / "stock")
    stock = ReformerModelWithLMHead.from_pretrained(tmp_path / "stock")
    ours = ReformerHFForCausalLM.from_pretrained(source)
    torch.testing.assert_close(logits_of(stock), logits_of(ours), rtol=0, atol=2e-6)


def test_same_format_is_rewritten(published: Path, own: Path, tmp_path: Path):
    assert convert_checkpoint(published, tmp_path / "a", to="reformer") == "reformer"
    assert (tmp_path / "a" / "model.safetensors").is_file()
    assert convert_checkpoint(own, tmp_path / "b", to="reformer_hf") == "reformer_hf"


def test_a_bias_that_transformers_ignores_is_announced(
    published: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    convert_checkpoint(published, tmp_path / "a", to="reformer")
    assert "lm_head.bias is not zero" in caplog.text


BAND = {"attention_scope": "band"}
DIFFERENT = [
    (BAND, "attention_scope='band'"),
    ({"deduplicate_rounds": True}, "deduplicate_rounds=True"),
    ({"hash_seed": 3, "share_rotations": False}, "share_rotations=False with hash_seed=3"),
    ({"axial_pos_shape": [2, 4, 16], "axial_pos_embds_dim": [4, 4, 8]}, "two axes only"),
]
UNKNOWN = [
    ({"attn_layers": ["local", "full"] * 2}, "attn_layers has 'full'"),
    ({"attn_layers": ["local", "full_shared_qk"] * 2}, "attn_layers has 'full_shared_qk'"),
    ({"position_embedding_type": "none"}, "position_embedding_type='none'"),
    ({"position_embedding_type": "rotary"}, "position_embedding_type='rotary'"),
    ({"conv_kernel": 3}, "conv_kernel=3"),
    ({"use_qk_norm": True}, "use_qk_norm=True"),
    ({"ff_sru_size": 3}, "ff_sru_size=3"),
    ({"ff_sparsity": 4}, "ff_sparsity=4"),
    ({"attention_sparsity": 2}, "attention_sparsity=2"),
    ({"attention_output_projection": False}, "attention_output_projection=False"),
    ({"lm_head_sparsity": 2}, "lm_head_sparsity=2"),
]


@pytest.mark.parametrize(("fields", "message"), DIFFERENT + UNKNOWN)
def test_what_transformers_cannot_compute_is_refused(fields: dict[str, Any], message: str):
    config = ReformerHFConfig(**{**CHUNK_FIELDS, **fields})
    with pytest.raises(ValueError, match=f"transformers' Reformer cannot compute.*{message}"):
        to_stock_config(config)


@pytest.mark.parametrize("fields", [fields for fields, _ in DIFFERENT])
def test_force_writes_what_transformers_computes_otherwise(fields: dict[str, Any], tmp_path: Path):
    source = save_own(tmp_path / "own", **fields)
    with pytest.raises(ValueError, match="with force, it is written all the same"):
        convert_checkpoint(source, tmp_path / "stock")
    convert_checkpoint(source, tmp_path / "stock", force=True)
    stock = ReformerModelWithLMHead.from_pretrained(tmp_path / "stock")
    ours = ReformerHFForCausalLM.from_pretrained(source)
    assert stock.state_dict().keys() == ours.state_dict().keys()


@pytest.mark.parametrize("fields", [fields for fields, _ in UNKNOWN])
def test_force_cannot_express_the_inexpressible(fields: dict[str, Any]):
    with pytest.raises(ValueError, match="Keep the reformer_hf format$"):
        to_stock_config(ReformerHFConfig(**{**CHUNK_FIELDS, **fields}), force=True)


def test_rotations_that_are_drawn_anyway_are_no_obstacle():
    fields = {**CHUNK_FIELDS, "share_rotations": False, "hash_seed": None, "pad_token_id": None}
    config = to_stock_config(ReformerHFConfig(**fields))
    assert config.hash_seed is None
    assert (config.lsh_num_chunks_after, config.pad_token_id) == (0, 0)


def test_target_in_use_is_left_alone(own: Path, tmp_path: Path):
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "notes.txt").write_text("mine")
    for target in (tmp_path / "used", tmp_path / "used" / "notes.txt"):
        with pytest.raises(ValueError, match=f"target {target} exists"):
            convert_checkpoint(own, target)
    assert (tmp_path / "used" / "notes.txt").read_text() == "mine"
    (tmp_path / "empty").mkdir()
    convert_checkpoint(own, tmp_path / "empty")


@pytest.mark.parametrize("function", ["_save_stock", "_check_weights", "shutil.copy"])
def test_interrupted_conversion_leaves_nothing(
    published: Path, tmp_path: Path, function: str, monkeypatch: pytest.MonkeyPatch
):
    def fail(*args: Any, **kwargs: Any) -> None:
        raise OSError(28, "No space left on device")

    owner = shutil if function == "shutil.copy" else conversion
    monkeypatch.setattr(owner, function.removeprefix("shutil."), fail)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(OSError, match="No space left"):
        convert_checkpoint(published, tmp_path / "target", to="reformer")
    assert sorted(tmp_path.rglob("*")) == before


def test_weights_that_differ_on_disk_are_noticed(
    own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def save_wrongly(model: Any, config: Any, folder: Path) -> None:
        state = model.state_dict()
        state["lm_head.decoder.weight"] = state["lm_head.decoder.weight"] + 1
        conversion.save_file(state, folder / "model.safetensors")

    monkeypatch.setattr(conversion, "_save_stock", save_wrongly)
    with pytest.raises(OSError, match="these weights differ: lm_head.decoder.weight"):
        convert_checkpoint(own, tmp_path / "target")
    assert not (tmp_path / "target").exists()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"attn_layers": ["local"] * 4}, "missing: .*key.weight.*unexpected: .*query_key.weight"),
        ({"attn_layers": ["local", "lsh"]}, "unexpected: reformer.encoder.layers.2"),
        ({"vocab_size": 41}, "mismatched: .*lm_head"),
    ],
)
def test_weights_that_do_not_fit_the_configuration(
    published: Path, tmp_path: Path, fields: dict[str, Any], message: str
):
    config = {**TINY, **fields, "num_hidden_layers": len(fields.get("attn_layers", [0] * 4))}
    (published / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=f"do not fit its config.json.*{message}"):
        convert_checkpoint(published, tmp_path / "target")


def test_model_without_a_head(tmp_path: Path):
    ReformerHFModel(ReformerHFConfig(**CHUNK_FIELDS)).save_pretrained(tmp_path / "base")
    with pytest.raises(ValueError, match="missing: lm_head.bias, lm_head.decoder.weight"):
        convert_checkpoint(tmp_path / "base", tmp_path / "target")


def test_source_that_is_not_there(tmp_path: Path):
    for source in (tmp_path / "nowhere", "nobody/nothing"):
        with pytest.raises(OSError, match=f"source {source}: no such folder"):
            convert_checkpoint(source, tmp_path / "target")


def run_script(*arguments: object) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [str(SCRIPT), *map(str, arguments)])
        runpy.run_path(str(SCRIPT), run_name="__main__")


def test_script(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    source = save_own(tmp_path / "own", **BAND)
    with pytest.raises(SystemExit, match="^error: transformers' Reformer cannot compute"):
        run_script(source, tmp_path / "stock")
    run_script(source, tmp_path / "stock", "--to", "reformer", "--force")
    assert "in reformer format" in capsys.readouterr().out
    assert logits_of(ReformerModelWithLMHead.from_pretrained(tmp_path / "stock")).isfinite().all()
