import copy
import re

import pytest
import yaml
from huggingface_hub import ModelCard

from reformer_hf.hub.model_card import TEMPLATE, build_model_card

METRICS = {
    "held_out": {
        "bits_per_byte": 2.71828,
        "gzip_9_bits_per_byte": 1.75,
        "bz2_9_bits_per_byte": 1.5,
        "uniform_bits_per_byte": 8.0,
        "bytes_scored": 262112,
        "windows": 32,
        "context": 8192,
        "windows_overlap": False,
    },
    "training": {
        "steps": 90,
        "stopped_by_the_clock": False,
        "tokens": 737280,
        "seconds": 300.0,
        "step_seconds": 280.0,
        "tokens_per_second": 2633.1,
        "peak_memory_bytes": 1_230_000_000,
    },
    "parameters": 870402,
    "corpus": {
        "description": 'the file it\'s: "a" #1.txt',
        "sha256": "ab" * 32,
        "validation_split_percentage": 5,
        "split": "the last 5% of each document",
        "documents": 1,
        "bytes": 31525224,
        "held_out_documents": 1,
        "held_out_bytes": 1576262,
    },
    "settings": {
        "model": {"block_size": 8192, "hidden_size": 128},
        "optimization": {"max_steps": 100, "learning_rate": 0.001},
    },
    "machine": {
        "date": "2026-01-02T03:04:05+00:00",
        "processor": "Some CPU",
        "torch_threads": 2,
        "accelerator": None,
        "versions": {"python": "3.11.7", "torch": "2.13.0", "datasets": None},
    },
}


@pytest.fixture
def card():
    return build_model_card(TEMPLATE, "A model: of mine", METRICS)


def test_the_metadata_is_what_the_hub_reads(card, tmp_path):
    card.save(tmp_path / "README.md")
    data = ModelCard.load(tmp_path / "README.md").data
    assert (data.library_name, data.pipeline_tag) == ("transformers", "text-generation")
    assert data.model_name == "A model: of mine"
    (result,) = data.eval_results
    assert (result.task_type, result.metric_type) == ("text-generation", "bits_per_byte")
    assert result.metric_value == 2.7183
    assert result.dataset_name == 'the file it\'s: "a" #1.txt, held-out part'
    header = yaml.safe_load(card.content.split("---")[1])
    assert header["model-index"][0]["results"][0]["metrics"][0]["value"] == 2.7183


def test_every_number_is_in_the_text(card):
    text = " ".join(card.text.split())
    for fact in (
        "**2.718**",
        "| gzip -9 | 1.750 |",
        "| bz2 -9 | 1.500 |",
        "| uniform bytes | 8.000 |",
        "262,112 bytes in 32 windows of 8,192 that do not overlap",
        "870,402 parameters",
        "31,525,224 bytes",
        "ab" * 32,
        "90 steps on 737,280 tokens in 5.0 minutes (2,633 tokens per second)",
        "on Some CPU with 2 threads.",
        "1.23 GB",
        "| learning_rate | 0.001 |",
        "python 3.11.7, torch 2.13.0",
        "2026-01-02",
    ):
        assert fact in text, fact
    assert "None" not in text and "stopped by" not in text
    assert not re.search(r"{{|{%", text)


def test_a_run_cut_short_and_unknown_memory_are_told():
    metrics = copy.deepcopy(METRICS)
    metrics["training"].update(stopped_by_the_clock=True, peak_memory_bytes=None)
    text = " ".join(build_model_card(TEMPLATE, "m", metrics).text.split())
    assert "stopped by the time limit before the last of 100 steps" in text
    assert "resident memory" not in text


def test_a_missing_number_is_an_error():
    metrics = copy.deepcopy(METRICS)
    del metrics["held_out"]["gzip_9_bits_per_byte"]
    with pytest.raises(Exception, match="gzip_9_bits_per_byte"):
        build_model_card(TEMPLATE, "m", metrics)
