"""A model that translates: its vocabulary, its configuration, its score."""

import sys

import datasets
import numpy as np
import pytest
import sacrebleu

from reformer_hf import ReformerHFByteTokenizer
from reformer_hf.training.tasks.translation import (
    TranslationModelArguments,
    bleu_metrics,
    build_translator,
    decode,
    open_tokenizer,
)

TEXTS = [
    text.format(index)
    for index in range(300)
    for text in ("The file number {} cannot be opened.", "Die Datei {} ist nicht zu öffnen.")
]


def test_the_vocabulary_is_trained_once(tmp_path):
    pairs = datasets.Dataset.from_list([{"source": text, "target": text.upper()} for text in TEXTS])
    arguments = TranslationModelArguments(vocab_size=400)
    first = open_tokenizer(arguments, pairs, tmp_path)
    again = open_tokenizer(arguments, None, tmp_path)
    assert first.get_vocab() == again.get_vocab() and again.padding_side == "right"
    byte = open_tokenizer(TranslationModelArguments(tokenizer_name="bytes"), None, tmp_path)
    assert isinstance(byte, ReformerHFByteTokenizer)
    first.save_pretrained(tmp_path / "saved")
    named = TranslationModelArguments(tokenizer_name=str(tmp_path / "saved"))
    assert open_tokenizer(named, None, tmp_path).get_vocab() == first.get_vocab()
    with pytest.raises(ValueError, match="tokenizer_name=None: without training data"):
        open_tokenizer(arguments, None, tmp_path / "empty")


@pytest.mark.parametrize(("form", "positions"), [("cross_attention", 100), ("packed", 200)])
def test_positions_cover_the_longest_row(form, positions):
    overrides = f"decoder_form={form},encoder_layers=1,decoder_attn_layers=[local,lsh]"
    arguments = TranslationModelArguments(config_overrides=overrides)
    config = build_translator(arguments, ReformerHFByteTokenizer(), 100).config
    assert config.position_limit == positions
    assert (config.encoder_attn_layers, config.decoder_attn_layers) == (["full"], ["local", "lsh"])
    assert config.decoder_start_token_id == config.pad_token_id == 0


def test_bleu_is_that_of_sacrebleu_with_its_signature():
    tokenizer = ReformerHFByteTokenizer()
    references = ["the cat sat on the mat today", "dogs run in the park"]
    written = ["the cat sat on the mat", "dogs run in the park"]

    def pad(rows, value):
        ids = [tokenizer(row).input_ids + [1] for row in rows]
        width = max(map(len, ids)) + 2
        return np.array([row + [value] * (width - len(row)) for row in ids])

    scores = bleu_metrics(tokenizer)((pad(written, 0), pad(references, -100)))
    assert scores["bleu"] == sacrebleu.corpus_bleu(written, [references]).score
    assert 60 < scores["bleu"] < 100
    assert scores["bleu_signature"].startswith("nrefs:1|case:mixed|")
    assert decode(tokenizer, pad(["a  b"], -100)) == ["a b"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [("hidden_sizes=10", "no field .hidden_sizes."), ("encoder_attn_layers=[lstm]", "lstm")],
)
def test_impossible_models_are_named(changes, message):
    arguments = TranslationModelArguments(config_overrides=changes)
    with pytest.raises(ValueError, match=message):
        build_translator(arguments, ReformerHFByteTokenizer(), 100)


def test_a_missing_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "sacrebleu.metrics.bleu", None)
    with pytest.raises(ImportError, match=r"reformer_hf\[translate\]"):
        bleu_metrics(ReformerHFByteTokenizer())
