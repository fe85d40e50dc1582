"""Checkpoints on disk: what transformers' Reformer and this package compute from one folder."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch.testing import assert_close
from transformers import ReformerModel, ReformerModelWithLMHead

from reformer_hf import ReformerHFForCausalLM, ReformerHFModel
from tests.parity.published_models import (
    CRIME_AND_PUNISHMENT,
    TINY,
    build_stock,
    random_ids,
    write_checkpoint,
)

SEEDED = {**TINY, "hash_seed": 6}


@pytest.fixture(params=["zip", "legacy", "safetensors"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    weights = build_stock(SEEDED, torch.float32).state_dict()
    folder = write_checkpoint(tmp_path, SEEDED, weights, zip_format=request.param == "zip")
    if request.param == "safetensors":
        (folder / "pytorch_model.bin").unlink()
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def test_logits_of_each_file_format(folder: Path):
    stock = ReformerModelWithLMHead.from_pretrained(folder)
    ours = ReformerHFForCausalLM.from_pretrained(folder)
    for length in (7, 8, 29):
        ids = random_ids(TINY, 2, length)
        with torch.no_grad():
            assert_close(ours(ids).logits, stock(ids).logits, rtol=0, atol=2e-5)


def test_hidden_states_of_the_bare_model(folder: Path):
    ids = random_ids(TINY, 2, 29)
    with torch.no_grad():
        expected = ReformerModel.from_pretrained(folder)(ids).last_hidden_state
        actual = ReformerHFModel.from_pretrained(folder)(ids).last_hidden_state
    assert_close(actual, expected, rtol=0, atol=2e-5)


def test_crime_and_punishment_in_full_size(tmp_path: Path):
    config = {**CRIME_AND_PUNISHMENT, "hash_seed": 0}
    write_checkpoint(tmp_path, config, build_stock(config, torch.float32).state_dict())
    stock = ReformerModelWithLMHead.from_pretrained(tmp_path)
    ours, report = ReformerHFForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report.values())
    ids = random_ids(config, 1, 300)
    with torch.no_grad():
        assert_close(ours(ids).logits, stock(ids).logits, rtol=0, atol=2e-5)
