"""A corpus and a model so small that a run of a few steps takes a second."""

from pathlib import Path

import pytest
from transformers import set_seed

from reformer_hf.models.modeling_reformer_hf import ReformerHFForCausalLM
from reformer_hf.training.arguments import CorpusArguments, ModelArguments
from reformer_hf.training.causal_lm import build_config
from reformer_hf.training.corpus import open_corpus
from reformer_hf.training.data import describe_corpus, load_splits


def write_text_files(folder: Path, count: int = 120, lines: int = 12) -> Path:
    folder.mkdir(parents=True)
    for index in range(count):
        text = "".join(f"file {index} says line {line}: é\n" for line in range(lines))
        (folder / f"{index:03}.txt").write_text(text, encoding="utf-8")
    return folder


@pytest.fixture
def text_folder(tmp_path):
    return write_text_files(tmp_path / "texts")


@pytest.fixture
def tiny_arguments():
    return ModelArguments(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        feed_forward_size=16,
        attn_chunk_length=8,
        block_size=128,
    )


@pytest.fixture
def splits(text_folder, tmp_path, tiny_arguments):
    corpus = open_corpus(CorpusArguments(corpus=str(text_folder)))
    record = describe_corpus(corpus, 10)
    return load_splits(corpus, record, tmp_path / "ids", tiny_arguments.block_size)


@pytest.fixture
def tiny_model(tiny_arguments):
    set_seed(0)
    return ReformerHFForCausalLM(build_config(tiny_arguments))
