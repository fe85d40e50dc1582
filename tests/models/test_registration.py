"""What the Auto classes load, without and with the override of transformers' Reformer."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoTokenizer,
    ReformerConfig,
    ReformerModelWithLMHead,
)

import reformer_hf
from reformer_hf import (
    ReformerHFByteTokenizer,
    ReformerHFConfig,
    ReformerHFForCausalLM,
    ReformerHFModel,
    ReformerHFTokenizer,
)
from tests.parity.published_models import TINY, build_stock, write_checkpoint


@pytest.fixture
def published(tmp_path: Path) -> Path:
    stock = build_stock(TINY, torch.float32)
    stock.lm_head.bias.data.normal_()
    folder = write_checkpoint(tmp_path / "published", TINY, stock.state_dict())
    texts = ["He was in debt to his landlady."] * 4
    tokenizer = ReformerHFTokenizer.train_from_iterator(texts, TINY["vocab_size"])
    tokenizer.save_pretrained(folder)
    (folder / "tokenizer_config.json").unlink()
    return folder


def run(code: str, *arguments: object) -> str:
    """Run code in a process of its own, where nothing is registered yet; returns its output."""
    command = [sys.executable, "-W", "error", "-c", code, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_auto_classes_know_this_package(tmp_path: Path):
    model = ReformerHFForCausalLM(ReformerHFConfig(**TINY))
    model.save_pretrained(tmp_path)
    assert type(AutoConfig.from_pretrained(tmp_path)) is ReformerHFConfig
    assert type(AutoModel.from_pretrained(tmp_path)) is ReformerHFModel
    assert type(AutoModelForCausalLM.from_pretrained(tmp_path)) is ReformerHFForCausalLM
    assert type(AutoModelForCausalLM.from_config(model.config)) is ReformerHFForCausalLM


def test_auto_tokenizer_takes_the_sentencepiece_class_by_default(published: Path, tmp_path: Path):
    model = ReformerHFForCausalLM.from_pretrained(published)
    model.save_pretrained(tmp_path / "own")
    (published / "tokenizer.json").rename(tmp_path / "own" / "tokenizer.json")
    assert type(AutoTokenizer.from_pretrained(tmp_path / "own")) is ReformerHFTokenizer
    ReformerHFByteTokenizer().save_pretrained(tmp_path / "own")
    ids = AutoTokenizer.from_pretrained(tmp_path / "own")("é").input_ids
    assert ids == [byte + 2 for byte in "é".encode()]


def test_transformers_keeps_its_own_without_the_override(published: Path):
    reformer_hf.register()
    assert type(AutoConfig.from_pretrained(published)) is ReformerConfig
    assert type(AutoModelForCausalLM.from_pretrained(published)) is ReformerModelWithLMHead


OVERRIDE = """
import sys
import torch
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoTokenizer, pipeline
from transformers import ReformerConfig, ReformerModelWithLMHead
import reformer_hf

published, saved = sys.argv[1:]
assert type(AutoConfig.from_pretrained(published)) is ReformerConfig
reformer_hf.register(override_stock=True)
reformer_hf.register(override_stock=True)

config = AutoConfig.from_pretrained(published)
assert type(config) is reformer_hf.ReformerHFConfig
assert (config.attention_scope, config.share_rotations) == ("chunk", True)
model = AutoModelForCausalLM.from_pretrained(published)
assert type(model) is reformer_hf.ReformerHFForCausalLM
assert model.lm_head.bias.any()
assert type(AutoModel.from_pretrained(published)) is reformer_hf.ReformerHFModel
direct = reformer_hf.ReformerHFForCausalLM.from_pretrained(published)
assert direct.config.to_dict() == model.config.to_dict()

tokenizer = AutoTokenizer.from_pretrained(published)
assert type(tokenizer) is reformer_hf.ReformerHFTokenizer
generate = pipeline("text-generation", model=published)
assert type(generate.model) is reformer_hf.ReformerHFForCausalLM
text = generate("He was", max_new_tokens=5, do_sample=False)[0]["generated_text"]
assert text.startswith("He was") and len(text) > len("He was")

model.save_pretrained(saved)
own = ReformerConfig(**dict(config.to_dict(), model_type="reformer"))
assert type(AutoModelForCausalLM.from_config(own)) is ReformerModelWithLMHead
torch.save(model(torch.arange(1, 30)[None]).logits, saved + "/logits.pt")
"""


def test_override_of_transformers_reformer(published: Path, tmp_path: Path):
    saved = tmp_path / "saved"
    run(OVERRIDE, published, saved)
    # What it saved loads here, where there is no override.
    model = AutoModelForCausalLM.from_pretrained(saved)
    assert type(model) is ReformerHFForCausalLM
    with torch.no_grad():
        logits = model(torch.arange(1, 30)[None]).logits
    assert torch.equal(logits, torch.load(saved / "logits.pt"))
