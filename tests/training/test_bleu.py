"""BLEU of translations against sacreBLEU."""

import sys

import numpy as np
import pytest
import sacrebleu

from reformer_hf import ReformerHFByteTokenizer
from reformer_hf.training.bleu import bleu_metrics, decode


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


def test_an_empty_corpus_of_translations_scores_nothing():
    tokenizer = ReformerHFByteTokenizer()
    scores = bleu_metrics(tokenizer)((np.array([[0, 1], [0, 0]]), np.array([[75, 1], [-100, 1]])))
    assert scores["bleu"] == 0
    assert decode(tokenizer, np.array([[0, 1, 0], [12, 15, 12]])) == ["", ""]  # line ends


def test_a_missing_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "sacrebleu.metrics.bleu", None)
    with pytest.raises(ImportError, match=r"reformer_hf\[translate\]"):
        bleu_metrics(ReformerHFByteTokenizer())
