import pickle

import pytest
import torch

from reformer_hf.models.tokenization_reformer_hf import ReformerHFByteTokenizer
from reformer_hf.training.data.bytes import ByteRows

CONTENT = bytes(range(256)) * 4 + b"end"


@pytest.fixture
def path(tmp_path):
    (tmp_path / "file").write_bytes(CONTENT)
    return tmp_path / "file"


def contents(rows):
    decode = ReformerHFByteTokenizer.decode_bytes
    return b"".join(decode(rows[index]["input_ids"]) for index in range(len(rows)))


@pytest.mark.parametrize("block_size", [1, 100, 1027, 5000])
def test_rows_are_the_bytes_of_the_file(path, block_size):
    rows = ByteRows([path], block_size)
    assert contents(rows) == CONTENT
    assert len(rows) == -(-1027 // block_size)
    with pytest.raises(IndexError):
        rows[len(rows)]
    assert contents(ByteRows([path], block_size, 3, 900)) == CONTENT[3:900]


def test_the_last_rows_are_held_out(path):
    train, held_out = ByteRows([path], 100).split(20)
    assert (len(train), len(held_out)) == (9, 2)
    assert contents(train) + contents(held_out) == CONTENT
    train, held_out = ByteRows([path], 600).split(1)
    assert (len(train), len(held_out)) == (1, 1)
    with pytest.raises(ValueError, match="1,027 bytes are one row of block_size=2000"):
        ByteRows([path], 2000).split(5)


def test_an_empty_file_is_refused(tmp_path):
    (tmp_path / "empty").touch()
    with pytest.raises(ValueError, match="no bytes"):
        ByteRows([tmp_path / "empty"], 10)


def test_a_worker_gets_the_path_and_not_the_content(path):
    data = pickle.dumps(ByteRows([path], 100))
    assert len(data) < 500
    assert contents(pickle.loads(data)) == CONTENT


@pytest.fixture
def folder(tmp_path):
    """Files of different sizes, none but the first of them empty."""
    (tmp_path / "many").mkdir()
    for index in range(120):
        (tmp_path / "many" / f"{index:03}").write_bytes(f"file {index} ".encode() * (index % 5))
    return tmp_path / "many"


@pytest.mark.parametrize("block_size", [1, 7, 64, 100_000])
def test_files_are_joined_by_ends_of_sequence(folder, block_size):
    paths = sorted(folder.iterdir())
    rows = ByteRows(paths, block_size)
    ids = torch.cat([rows[index]["input_ids"] for index in range(len(rows))])
    expected = []
    for path in paths:
        expected += [1, *(byte + 2 for byte in path.read_bytes())]
    assert ids.tolist() == expected[1:]
    assert contents(rows) == b"".join(path.read_bytes() for path in paths)


def test_of_many_files_whole_ones_are_held_out_whatever_their_folder(folder, tmp_path):
    train, held_out = ByteRows(sorted(folder.iterdir()), 16).split(20)
    names = {path.name for path in held_out.paths}
    assert 10 < len(names) < 40 and names.isdisjoint(path.name for path in train.paths)
    assert len(train.paths) + len(held_out.paths) == 120
    folder.rename(tmp_path / "moved")
    _, again = ByteRows(sorted((tmp_path / "moved").iterdir()), 16).split(20)
    assert {path.name for path in again.paths} == names
    few, rest = ByteRows(sorted((tmp_path / "moved").iterdir())[:90], 16).split(20)
    assert few.paths == rest.paths


def test_a_file_that_became_shorter_is_named(path):
    rows = ByteRows([path], 100)
    path.write_bytes(CONTENT[:50])
    with pytest.raises(OSError, match="file became shorter while it was read"):
        rows[0]
