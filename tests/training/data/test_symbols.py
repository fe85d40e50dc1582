from typing import Any

import numpy as np
import pytest
import torch
from datasets import IterableDataset

from reformer_hf import ReformerHFByteTokenizer
from reformer_hf.training.data import symbols
from reformer_hf.training.data.bytes import ByteRows
from reformer_hf.training.data.collator import ReformerDataCollator
from reformer_hf.training.data.symbols import byte_symbols, pieces, spread, token_symbols
from reformer_hf.training.data.token_bytes import TokenBytes
from reformer_hf.training.evaluation import next_tokens
from tests.training.other_tokenizers import EXACT

TEXT = "the cat and naïve 日本\n and more"


def test_files_of_bytes(tmp_path):
    for name, text in (("a", b"abcdef"), ("b", b"xyz")):
        (tmp_path / name).write_bytes(text)
    rows = ByteRows([tmp_path / "a", tmp_path / "b"], 4)  # abcd, ef, an end of sequence and x, yz
    known: Any = TokenBytes.of(ReformerHFByteTokenizer())
    found = byte_symbols([rows[n] for n in range(len(rows))], known)
    assert bytes(found.codes.tolist()) == b"abcdefxyz"
    # Nothing predicts the first of a row; x is predicted, but no byte of its file is before it.
    assert found.scored.tolist() == [False, True, True, True, False, True, True, False, True]
    assert found.before.tolist() == [0, 1, 2, 3, 0, 1, 0, 0, 1]


@pytest.mark.parametrize("make", [ReformerHFByteTokenizer, *EXACT])
def test_scored_bytes_are_those_that_the_evaluation_counts(make):
    tokenizer = make()
    known: Any = TokenBytes.of(tokenizer)
    ids = tokenizer(TEXT)["input_ids"]
    row = {"input_ids": ids + ids[: len(ids) // 2], "seq_idx": [0] * len(ids)}
    row["seq_idx"] += [1] * (len(ids) // 2)
    rows = [row, {"input_ids": ids, "seq_idx": [0] * len(ids)}]
    tokenizer.pad_token = tokenizer.eos_token
    batch = ReformerDataCollator(tokenizer)(rows)
    found = byte_symbols(rows, known)
    assert found.scored.sum() == known.count(next_tokens(batch), batch["input_ids"])
    text = bytes(found.codes[-len(TEXT.encode()) :].tolist())
    assert text == TEXT.encode() or known.begin is None  # without it a space in front is scored
    assert (found.before == 0).sum() == 3  # so many texts


def test_tokens_and_documents():
    rows = [
        {"input_ids": torch.tensor([5, 6, 7, 8]), "seq_idx": torch.tensor([0, 0, 1, 1])},
        {"input_ids": [9, 6], "seq_idx": [0, 0]},
    ]
    found = token_symbols(rows)
    assert found.codes.tolist() == [5, 6, 7, 8, 9, 6]
    assert found.before.tolist() == [0, 1, 0, 1, 0, 1]
    assert found.scored.tolist() == [False, True, False, True, False, True]
    assert token_symbols(rows, left_out=[6, 9]).codes.tolist() == [5, 7, 8]


@pytest.mark.parametrize("count", [1, 2, 7, 100, 256])
def test_rows_are_spread_evenly(count):
    order: list[Any] = list(spread(range(count)))
    assert sorted(order) == list(range(count))
    for first in range(5, count, 17):
        gaps = np.diff([0, *sorted(order[:first]), count])
        assert gaps.max() <= 3 * count / first + 1


def test_a_stream_comes_as_it_is():
    stream = IterableDataset.from_generator(lambda: ({"input_ids": [n]} for n in range(9)))
    assert [row["input_ids"] for row in spread(stream)] == [[n] for n in range(9)]


def test_pieces_hold_all_rows(monkeypatch):
    monkeypatch.setattr(symbols, "_PIECE", 10)
    rows = [{"input_ids": [0] * 4} for _ in range(8)]
    assert [len(piece) for piece in pieces(rows)] == [3, 3, 2]
    assert list(pieces([])) == []
