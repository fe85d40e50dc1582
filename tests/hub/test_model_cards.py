"""The cards in model_cards/: valid, made of measured numbers, and their code runs."""

import json
import re
from pathlib import Path

import pytest
import torch
from huggingface_hub import HfApi, ModelCard
from transformers import set_seed

from reformer_hf import ReformerHFByteTokenizer, ReformerHFForCausalLM
from reformer_hf.hub.model_card import TEMPLATE, build_model_card
from reformer_hf.quickstart import NAME
from reformer_hf.training.arguments import ModelArguments
from reformer_hf.training.causal_lm import build_config
from tests.hub.fake_validation import metadata_errors
from tests.models.sentencepiece_files import train_sentencepiece
from tests.parity.published_models import TINY, build_stock, write_checkpoint

ROOT = Path(__file__).parents[2]
CARDS = sorted((ROOT / "model_cards").glob("[!RT]*.md"))
RESULTS = ROOT / "scripts" / "results" / "quickstart" / "result.json"


def card_of(name):
    return (ROOT / "model_cards" / f"{name}.md").read_text(encoding="utf-8")


def run_code_of(card):
    (snippet,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    exec(snippet, values := {})
    return values


@pytest.mark.parametrize("file", [card for card in CARDS if card.stem != "template"])
def test_they_are_valid(file):
    text = file.read_text(encoding="utf-8")
    assert metadata_errors(text) == []
    assert ModelCard(text).data.pipeline_tag == "text-generation"
    for heading in ("## Use", "## Limits", "## Licence", "## Citation"):
        assert heading in text
    for link in re.findall(r"!\[.*?\]\((.*?)\)", text):
        assert (file.parent / link).is_file()
    for path in re.findall(r"`((?:scripts|tests)/[\w/.]*)`", text):
        assert (ROOT / path).exists()


def test_the_template_is_that_of_the_package():
    template = ROOT / "model_cards" / "template.md"
    assert template.read_text(encoding="utf-8") == TEMPLATE.read_text(encoding="utf-8")


def test_the_quickstarts_card_is_made_of_its_results():
    metrics = json.loads(RESULTS.read_text())
    curve = "../scripts/results/quickstart/loss_curve.png"
    assert card_of("quickstart") == build_model_card(TEMPLATE, NAME, metrics, curve=curve).content


def test_the_quickstarts_code_runs(tmp_path, monkeypatch, capsys):
    arguments = json.loads(RESULTS.read_text())["settings"]["model"]
    set_seed(0)
    ReformerHFForCausalLM(build_config(ModelArguments(**arguments))).save_pretrained(tmp_path)
    ReformerHFByteTokenizer().save_pretrained(tmp_path)
    monkeypatch.chdir(tmp_path)
    model = run_code_of(card_of("quickstart"))["model"]
    assert model.num_parameters() == json.loads(RESULTS.read_text())["parameters"]
    assert capsys.readouterr().out.startswith("def main():")


@pytest.mark.parametrize("name", ["reformer-crime-and-punishment", "reformer-enwik8"])
def test_the_code_for_googles_checkpoints_runs(hub, tmp_path, capsys, name):
    """Against a repository of that name that holds random weights in the published format."""
    config = {**TINY, "vocab_size": 258 if name.endswith("enwik8") else 320}
    stock = build_stock(config, torch.float32)
    folder = write_checkpoint(tmp_path / "published", config, stock.state_dict())
    if not name.endswith("enwik8"):
        train_sentencepiece(folder)
    hub.users["hf_" + "a" * 34] = "google"
    HfApi().create_repo(f"google/{name}")
    HfApi().upload_folder(repo_id=f"google/{name}", folder_path=folder)
    values = run_code_of(card_of(name))
    assert values["model"].config.attention_scope == "chunk"
    assert capsys.readouterr().out.strip()
