import hashlib
import json

import pytest
import torch

from reformer_hf.models.tokenization_reformer_hf import ReformerHFByteTokenizer
from reformer_hf.training import data
from reformer_hf.training.arguments import CorpusArguments
from reformer_hf.training.corpus import open_corpus
from reformer_hf.training.data import bytes_of, describe_corpus, load_splits, spread

encode = ReformerHFByteTokenizer.encode_bytes
EOS = 1


def open_folder(path, percentage=10):
    corpus = open_corpus(CorpusArguments(corpus=str(path)))
    return corpus, describe_corpus(corpus, percentage)


def test_the_record_counts_and_hashes(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"12345678")
    (tmp_path / "b.txt").write_bytes(b"9")
    _, record = open_folder(tmp_path, 25)
    expected = hashlib.sha256(b"a.txt\x008\x0012345678" + b"b.txt\x001\x009").hexdigest()
    assert record.sha256 == expected
    assert (record.documents, record.bytes) == (2, 9)
    assert (record.train_documents, record.train_bytes) == (1, 6)
    assert (record.held_out_documents, record.held_out_bytes) == (2, 3)
    assert record.split == "the last 25% of each document"


def test_documents_are_encoded_whole_and_end_with_eos(tmp_path, monkeypatch):
    monkeypatch.setattr(data, "_BLOCK", 3)  # a document is converted in several blocks
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_bytes(bytes(range(1, 256)))
    (tmp_path / "texts" / "b.txt").write_bytes(b"0123456789")
    corpus, record = open_folder(tmp_path / "texts", 20)
    train, held_out = load_splits(corpus, record, tmp_path / "ids", 8)
    assert train.tokens.tolist() == [
        *encode(bytes(range(1, 205))),
        EOS,
        *encode(b"01234567"),
        EOS,
    ]
    assert held_out.tokens.tolist() == [*encode(bytes(range(205, 256))), EOS, *encode(b"89"), EOS]


def test_many_documents_are_split_by_name(text_folder, tmp_path):
    corpus, record = open_folder(text_folder)
    assert record.split == "10% of the documents, by a hash of the name"
    assert record.train_documents + record.held_out_documents == record.documents == 120
    assert 2 <= record.held_out_documents <= 30
    _, held_out = load_splits(corpus, record, tmp_path / "ids", 64)
    before = bytes_of(held_out.tokens)
    assert len(before) == record.held_out_bytes

    # A new document moves no old one to the other part.
    (text_folder / "000a.txt").write_text("new document\n" * 9)
    corpus, record = open_folder(text_folder)
    _, held_out = load_splits(corpus, record, tmp_path / "ids2", 64)
    after = bytes_of(held_out.tokens).replace(b"new document\n" * 9, b"")
    assert after == before


def test_windows_are_consecutive_and_read_from_the_disk(splits):
    train, _ = splits
    windows = torch.stack([train[index]["input_ids"] for index in range(len(train))])
    assert len(train) == len(train.tokens) // 128
    assert windows.flatten().tolist() == train.tokens[: windows.numel()].tolist()
    assert train[0]["labels"].equal(train[0]["input_ids"])
    assert type(train.tokens).__name__ == "memmap"
    with pytest.raises(IndexError):
        train[len(train)]


def test_spread_takes_windows_from_all_over(splits):
    train, _ = splits
    assert spread(train, 4).indices == [0, len(train) // 4, len(train) // 2, 3 * len(train) // 4]
    assert spread(train, 10_000).indices == list(range(len(train)))


def test_ids_are_written_once_and_again_after_damage(text_folder, tmp_path):
    corpus, record = open_folder(text_folder)
    folder = tmp_path / "ids"
    load_splits(corpus, record, folder, 64)
    first = (folder / "train.bin").stat()
    whole = (folder / "train.bin").read_bytes()
    load_splits(corpus, record, folder, 64)
    assert (folder / "train.bin").stat().st_ino == first.st_ino

    (folder / "train.bin").write_bytes(whole[:-2])
    load_splits(corpus, record, folder, 64)
    assert (folder / "train.bin").read_bytes() == whole

    text = json.loads((folder / "corpus.json").read_text()) | {"sha256": "of another corpus"}
    (folder / "corpus.json").write_text(json.dumps(text))
    load_splits(corpus, record, folder, 64)
    assert json.loads((folder / "corpus.json").read_text())["sha256"] == record.sha256


@pytest.mark.parametrize("percentage, part", [(1, "held_out"), (99, "train")])
def test_a_corpus_shorter_than_a_window_is_refused(tmp_path, percentage, part):
    (tmp_path / "a.txt").write_bytes(b"x" * 200)
    corpus, record = open_folder(tmp_path, percentage)
    with pytest.raises(ValueError, match=rf"200 bytes; its {part} part .*block_size=100"):
        load_splits(corpus, record, tmp_path / "ids", 100)
    assert not (tmp_path / "ids").exists()


def test_a_corpus_that_changes_meanwhile_is_refused(text_folder, tmp_path):
    corpus, record = open_folder(text_folder)
    (text_folder / "000.txt").write_text("shorter now")
    with pytest.raises(OSError, match="changed while it was read"):
        load_splits(corpus, record, tmp_path / "ids", 64)
    assert not (tmp_path / "ids").exists()


def test_bytes_of_is_the_tokenizers_decoding():
    ids = [0, 1, *encode(bytes(range(256))), 1]
    assert bytes_of(torch.tensor(ids)) == ReformerHFByteTokenizer.decode_bytes(ids)
