import numpy as np
import pytest
import torch
from datasets import Dataset, IterableDataset

from reformer_hf import ReformerHFByteTokenizer
from reformer_hf.training.data.collator import ReformerDataCollator
from reformer_hf.training.data.packing import pack_rows, tokenize_documents
from tests.models.tiny import gradients, tiny_lm

LENGTHS = [3, 0, 9, 1, 1, 20, 4, 6]


def documents(lengths=LENGTHS, ends=None):
    ids = np.random.default_rng(0).integers(2, 40, sum(lengths)).tolist()
    starts = np.cumsum([0, *lengths])
    return Dataset.from_dict(
        {
            "input_ids": [ids[a:b] for a, b in zip(starts, starts[1:], strict=False)],
            "ends_document": ends or [True] * len(lengths),
        }
    )


def flat(rows, column="input_ids"):
    return [value for row in rows for value in row[column]]


@pytest.mark.parametrize("packing", ["documents", "blocks", "none"])
def test_no_token_is_lost_and_the_order_stays(packing, tmp_path):
    data = documents()
    rows = pack_rows(data, 8, packing, cache_dir=str(tmp_path))
    assert flat(rows) == flat(data)
    if packing == "none":
        # The document of 9 takes two rows, that of 20 three.
        assert [len(row["input_ids"]) for row in rows] == [3, 8, 1, 1, 1, 8, 8, 4, 4, 6]
    else:
        assert [len(row["input_ids"]) for row in rows] == [8, 8, 8, 8, 8, 4]
    assert rows.column_names == ["input_ids", "seq_idx"][: 2 if packing == "documents" else 1]


def test_documents_are_numbered_in_each_row(tmp_path):
    rows = pack_rows(documents(), 8, cache_dir=str(tmp_path))
    assert [row["seq_idx"] for row in rows] == [
        [0, 0, 0, 2, 2, 2, 2, 2],  # a document without tokens has a number all the same
        [0, 0, 0, 0, 1, 2, 3, 3],
        [0] * 8,
        [0] * 8,
        [0, 0, 1, 1, 1, 1, 2, 2],
        [0] * 4,
    ]


def test_pieces_make_one_document(tmp_path):
    data = documents([3, 3, 2, 2], ends=[False, True, False, True])
    (row,) = pack_rows(data, 16, cache_dir=str(tmp_path))
    assert row["seq_idx"] == [0] * 6 + [1] * 4
    rows = pack_rows(data, 16, "none", cache_dir=str(tmp_path))
    assert [len(row["input_ids"]) for row in rows] == [6, 4]


@pytest.mark.parametrize("packing", ["documents", "blocks", "none"])
def test_a_stream_gives_the_same_rows_each_time_it_is_read(packing, tmp_path):
    rows = pack_rows(documents(), 8, packing, cache_dir=str(tmp_path))
    stream = pack_rows(documents().to_iterable_dataset(), 8, packing)
    assert isinstance(stream, IterableDataset)
    assert list(stream) == list(stream) == list(rows)


def test_rows_are_kept_in_the_cache_and_told_apart(tmp_path):
    data, cache = documents(), str(tmp_path)
    first = pack_rows(data, 8, cache_dir=cache)
    assert pack_rows(data, 8, cache_dir=cache).cache_files == first.cache_files
    for other in (
        pack_rows(data, 9, cache_dir=cache),
        pack_rows(data, 8, "blocks", cache_dir=cache),
        pack_rows(documents([5]), 8, cache_dir=cache),
    ):
        assert other.cache_files != first.cache_files


class TokenizerStub:
    """All that the collator needs of a tokenizer."""

    pad_token_id = 0


def test_a_packed_row_learns_what_its_documents_learn_alone(tmp_path):
    model = tiny_lm(redraw_rotations=False, num_hashes=3, chunk_size_lm_head=8).double().train()
    collate, data = ReformerDataCollator(TokenizerStub()), documents([7, 12, 5, 30, 1, 9])
    (packed,) = pack_rows(data, 64, cache_dir=str(tmp_path))
    alone = list(pack_rows(data, 64, "none", cache_dir=str(tmp_path)))
    assert len(alone) == 6

    batch = collate([packed])
    assert int((batch["labels"] != -100).sum()) == 64 - 6 + 1  # the row's first is never counted
    together = model(**batch, num_items_in_batch=1).loss
    together.backward()
    expected = gradients(model)
    model.zero_grad()
    separate = sum(model(**collate([row]), num_items_in_batch=1).loss for row in alone)
    separate.backward()
    assert float((together - separate).detach().abs()) <= 1e-10
    found = gradients(model)
    assert max(float((found[n] - expected[n]).abs().max()) for n in expected) <= 1e-10

    # The test can fail: as one stream of text the documents see each other.
    blocks = model(**collate([{"input_ids": packed["input_ids"]}]), num_items_in_batch=1).loss
    assert float((blocks - separate).detach().abs()) > 1e-3


def test_logits_of_a_packed_row_are_those_of_the_documents(tmp_path):
    model, collate = tiny_lm().double(), ReformerDataCollator(TokenizerStub())
    data = documents([7, 12, 5])
    (packed,) = pack_rows(data, 64, cache_dir=str(tmp_path))
    with torch.no_grad():
        together = model(**collate([packed])).logits[0]
        alone = [model(torch.tensor([row])).logits[0] for row in data["input_ids"]]
    assert torch.allclose(together, torch.cat(alone), rtol=0, atol=1e-10)


@pytest.mark.parametrize("stream", [False, True])
def test_documents_may_be_empty_but_not_all(tmp_path, stream):
    def packed(texts):
        data = Dataset.from_dict({"text": texts})
        data = data.to_iterable_dataset() if stream else data
        tokens = tokenize_documents(data, ReformerHFByteTokenizer())
        return list(pack_rows(tokens, 64, cache_dir=str(tmp_path)))

    assert len(packed([""] * 100 + ["text"])[0]["input_ids"]) == 5
    with pytest.raises(ValueError, match="the data hold no text"):
        packed(["", ""])
