"""A score among its baselines."""

import gzip
import math
from typing import Any

import numpy as np
import pytest
from datasets import IterableDataset

from reformer_hf import ReformerHFByteTokenizer
from reformer_hf.training import comparison
from reformer_hf.training.comparison import BYTE_ORDERS, Comparison, compare, compare_masked
from reformer_hf.training.counts import NGrams
from reformer_hf.training.data.symbols import Symbols
from tests.training.other_tokenizers import word_piece

TRAIN = b"the cat sat on the mat, and the dog sat on the log. " * 40
HELD_OUT = b"the dog sat on the mat, and the cat sat on the log. " * 4
REFERENCES = {"uniform": 8.0, "single bytes": 5.0, "byte pairs": 4.0, "5-gram": 3.0, "gzip -9": 2.0}


def rows_of(text, length=52):
    ids = [byte + 2 for byte in text]
    return [{"input_ids": ids[n : n + length]} for n in range(0, len(ids), length)]


def counted_bits(held_out):
    """Bits of the bytes of rows but the first of each, by models of the training text."""
    model = NGrams(256, 4)
    texts = []
    for text in (TRAIN, held_out):
        codes = np.frombuffer(text, np.uint8).astype(np.int64)
        before = np.arange(len(codes)) % 52
        texts.append(Symbols(codes, before, before > 0))
    model.update(texts[0])
    return model.bits(texts[1])


@pytest.mark.parametrize(
    "score, words",
    [
        (8.5, "worse than a uniform guess (8.000): it has learned nothing"),
        (math.nan, "worse than a uniform guess (8.000): it has learned nothing"),
        (5.0, "worse than the shares of single bytes (5.000): it has learned nothing of their"),
        (4.1, "worse than a table of byte pairs (4.000): it has barely begun to learn"),
        (3.1, "worse than counts of five bytes (3.000)"),
        (2.1, "worse than gzip -9 (2.000)"),
        (1.9, "better than all of these"),
    ],
)
def test_the_first_that_is_better_is_named(score, words):
    found = Comparison(score, "byte", REFERENCES, 10)
    assert words in found.verdict
    assert found.record()["comparison"]["verdict"] == found.verdict
    assert str(found).endswith(f"This model is {found.verdict}.")


def test_the_table_has_the_model_in_its_place():
    found = Comparison(4.5, "byte", REFERENCES, 12_345)
    lines = str(found).splitlines()
    assert lines[0] == "Held-out bits per byte (12,345 of them):"
    assert [line.split()[0] for line in lines[1:-1]] == [
        *("uniform", "single", "this", "byte", "5-gram", "gzip")
    ]
    assert found.metrics() == {
        "eval_uniform_bits_per_byte": 8.0,
        "eval_single_bytes_bits_per_byte": 5.0,
        "eval_byte_pairs_bits_per_byte": 4.0,
        "eval_5gram_bits_per_byte": 3.0,
        "eval_gzip_9_bits_per_byte": 2.0,
    }
    assert "uniform" not in found.lines and found.lines["byte pairs"] == 4.0


def test_bytes_are_compared_with_counts_and_compressors():
    metrics, tokenizer = {"eval_bits_per_byte": 4.0, "eval_loss": 1.0}, ReformerHFByteTokenizer()
    found = compare(metrics, rows_of(TRAIN), rows_of(HELD_OUT), tokenizer, 258)
    scored = b"".join(HELD_OUT[n + 1 : n + 52] for n in range(0, len(HELD_OUT), 52))
    assert (found.score, found.unit, found.scored) == (4.0, "byte", len(scored))
    assert found.counted == {"units": len(TRAIN), "rows": 40, "of_rows": 40}
    expected = dict(zip(BYTE_ORDERS, counted_bits(HELD_OUT) / len(scored), strict=True))
    assert {name: found.references[name] for name in BYTE_ORDERS} == pytest.approx(expected)
    assert found.references["gzip -9"] == 8 * len(gzip.compress(scored, 9)) / len(scored)
    assert f"; counts are of {len(TRAIN):,} bytes of the training text:" in str(found)

    alone = compare(metrics, None, rows_of(HELD_OUT), tokenizer, 258)
    assert alone.references.keys() == {"uniform", "gzip -9", "bz2 -9"} and alone.counted == {}


@pytest.mark.parametrize("limit, value", [("MOST_SYMBOLS", 200), ("MOST_NGRAMS", 20)])
def test_of_much_text_a_sample_is_counted(limit, value, monkeypatch):
    monkeypatch.setattr(comparison, limit, value)
    monkeypatch.setattr("reformer_hf.training.data.symbols._PIECE", 100)
    metrics, tokenizer = {"eval_bits_per_byte": 4.0}, ReformerHFByteTokenizer()
    found = compare(metrics, rows_of(TRAIN), rows_of(HELD_OUT), tokenizer, 258)
    rows: Any = found.counted["rows"]
    assert 2 <= rows < 40 and found.counted == {"units": 52 * rows, "rows": rows, "of_rows": 40}
    assert f"training text, {rows} of 40 rows, evenly spread:" in str(found)

    stream = IterableDataset.from_generator(lambda: iter(rows_of(TRAIN)))
    found = compare(metrics, stream, rows_of(HELD_OUT), tokenizer, 258)
    assert found.counted["of_rows"] is None
    assert f"training text, the first {found.counted['rows']} rows of the stream:" in str(found)


def test_tokens_without_bytes_are_compared_with_counts_of_tokens():
    tokenizer = word_piece()
    rows = [{"input_ids": tokenizer("the cats the cat the cat")["input_ids"]}] * 10
    found = compare({"eval_loss": 1.0}, rows, rows[:2], tokenizer, len(tokenizer))
    assert found.unit == "token" and found.score == pytest.approx(1 / math.log(2))
    assert found.references.keys() == {"uniform", "single tokens", "token pairs"}
    assert found.references["uniform"] == pytest.approx(math.log2(len(tokenizer)))
    assert found.references["token pairs"] < 1 < found.references["single tokens"] < 3
    assert "eval_token_pairs_bits_per_token" in found.metrics()


def test_masked_tokens_are_compared_with_their_shares():
    rows = [{"input_ids": [1] + [2] * 60 + [3] * 20 + [0]}]
    targets = np.array([0, 0, 6, 2])
    found = compare_masked({"eval_loss": 1.0}, rows, targets, [0, 1])
    assert found.unit == "masked token" and found.scored == 8
    # 1.5 of each count is shared out evenly among the four tokens.
    shares = [(count - 1.5 + 3 / 4) / 80 for count in (60, 20)]
    bits = -(6 * math.log2(shares[0]) + 2 * math.log2(shares[1])) / 8
    assert found.references == {"uniform": 2.0, "single tokens": pytest.approx(bits)}
    assert found.metrics()["eval_single_tokens_bits_per_masked_token"] == pytest.approx(bits)
    assert "counts are of 80 tokens of the training text" in str(found)
