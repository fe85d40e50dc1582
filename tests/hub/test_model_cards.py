"""The cards in model_cards/: valid, made of measured numbers, and their code runs."""

import re
from pathlib import Path

import pytest
import torch
from huggingface_hub import HfApi, ModelCard

from reformer_hf import ReformerHFByteTokenizer
from reformer_hf.hub.card import TEMPLATE
from tests.hub.fake_validation import metadata_errors
from tests.models.sentencepiece_files import train_sentencepiece
from tests.models.tiny import tiny_lm
from tests.parity.published_models import TINY, build_stock, write_checkpoint

ROOT = Path(__file__).parents[2]
CARDS = sorted((ROOT / "model_cards").glob("[!RT]*.md"))


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


def test_cards_of_runs_are_made_of_their_records(tmp_path, monkeypatch):
    (tmp_path / "scripts").symlink_to(ROOT / "scripts")
    (tmp_path / "model_cards").mkdir()
    monkeypatch.chdir(tmp_path)
    run_code_of((ROOT / "model_cards" / "README.md").read_text(encoding="utf-8"))
    made = sorted((tmp_path / "model_cards").iterdir())
    assert [file.stem for file in made] == ["quickstart", "text_16k"]
    for file in made:
        assert file.read_text(encoding="utf-8") == card_of(file.stem)


@pytest.mark.parametrize("name", ["quickstart", "text_16k"])
def test_the_code_of_our_models_runs(name, tmp_path, monkeypatch, capsys):
    tiny_lm(vocab_size=258).save_pretrained(tmp_path)
    ReformerHFByteTokenizer().save_pretrained(tmp_path)
    monkeypatch.chdir(tmp_path)
    run_code_of(card_of(name))
    assert capsys.readouterr().out.strip()


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
