import pickle

import pytest

from reformer_hf.training.byte_rows import ByteRows
from reformer_hf.training.data import bytes_of

CONTENT = bytes(range(256)) * 4 + b"end"


@pytest.fixture
def path(tmp_path):
    (tmp_path / "file").write_bytes(CONTENT)
    return tmp_path / "file"


def contents(rows):
    return b"".join(bytes_of(rows[index]["input_ids"]) for index in range(len(rows)))


@pytest.mark.parametrize("block_size", [1, 100, 1027, 5000])
def test_rows_are_the_bytes_of_the_file(path, block_size):
    rows = ByteRows(path, block_size)
    assert contents(rows) == CONTENT
    assert len(rows) == -(-1027 // block_size)
    with pytest.raises(IndexError):
        rows[len(rows)]
    assert contents(ByteRows(path, block_size, 3, 900)) == CONTENT[3:900]


def test_the_last_rows_are_held_out(path):
    train, held_out = ByteRows(path, 100).split(20)
    assert (len(train), len(held_out)) == (9, 2)
    assert contents(train) + contents(held_out) == CONTENT
    train, held_out = ByteRows(path, 600).split(1)
    assert (len(train), len(held_out)) == (1, 1)
    with pytest.raises(ValueError, match="1,027 bytes are one row of block_size=2000"):
        ByteRows(path, 2000).split(5)


def test_an_empty_file_is_refused(tmp_path):
    (tmp_path / "empty").touch()
    with pytest.raises(ValueError, match="no bytes"):
        ByteRows(tmp_path / "empty", 10)


def test_a_worker_gets_the_path_and_not_the_content(path):
    data = pickle.dumps(ByteRows(path, 100))
    assert len(data) < 500
    assert contents(pickle.loads(data)) == CONTENT
