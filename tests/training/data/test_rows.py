import pytest
import torch
from datasets import Dataset

from reformer_hf.training.data.bytes import ByteRows
from reformer_hf.training.data.rows import (
    FilledRows,
    ShuffledRows,
    first_rows,
    split_validation,
    spread_rows,
)


def rows(count):
    return Dataset.from_dict({"input_ids": [[index, index] for index in range(count)]})


def numbers(some):
    return [row["input_ids"][0] for row in some]


def test_the_first_rows_are_held_out():
    train, held_out = split_validation(rows(40), 5)
    assert numbers(held_out) == [0, 1] and numbers(train) == list(range(2, 40))
    train, held_out = split_validation(rows(2), 5)
    assert numbers(held_out) == [0] and numbers(train) == [1]
    with pytest.raises(ValueError, match="the data are 1 rows"):
        split_validation(rows(1), 5)


def test_of_a_stream_the_first_of_each_hundred_are_held_out():
    train, held_out = split_validation(rows(203).to_iterable_dataset(), 2)
    assert numbers(held_out) == [0, 1, 100, 101, 200, 201]
    assert sorted(numbers(train) + numbers(held_out)) == list(range(203))


def test_of_bytes_the_last_rows_are_held_out(tmp_path):
    (tmp_path / "file").write_bytes(bytes(100))
    train, held_out = split_validation(ByteRows([tmp_path / "file"], 10), 20)
    assert (len(train), len(held_out)) == (8, 2)


@pytest.mark.parametrize("count, kept", [(None, 5), (3, 3), (9, 5)])
def test_rows_are_limited(count, kept, tmp_path):
    (tmp_path / "file").write_bytes(bytes(50))
    assert len(first_rows(rows(5), count)) == kept
    assert len(first_rows(ByteRows([tmp_path / "file"], 10), count)) == kept
    assert len(list(first_rows(rows(5).to_iterable_dataset(), count))) == kept


def test_spread_rows_are_from_all_over():
    assert numbers(spread_rows(rows(12), 3)) == [0, 4, 8]
    assert len(spread_rows(rows(5), 9)) == 5 and len(spread_rows(rows(5), None)) == 5


def test_blank_rows_fill_up_and_have_no_label():
    filled = FilledRows(rows(5), 4)
    assert len(filled) == 8
    assert numbers(filled[index] for index in range(5)) == list(range(5))
    assert filled[5] == filled[7] == {"input_ids": [0], "labels": [-100]}
    assert len(FilledRows(rows(4), 4)) == 4


def test_the_order_depends_on_seed_and_epoch_alone():
    def order(seed, epoch, multiple=4):
        sampler = ShuffledRows(FilledRows(rows(41), multiple), seed)
        sampler.set_epoch(epoch)
        torch.rand(3)
        return list(sampler)

    first = order(0, 0)
    assert first == order(0, 0)
    assert sorted(first) == list(range(44)) and first[-3:] == [41, 42, 43]
    assert first[:41] != list(range(41))
    assert first[:41] == order(0, 0, multiple=16)[:41]
    assert first != order(0, 1) != order(1, 0) != first or order(0, 1) == order(1, 0)


def test_the_order_leaves_the_default_generator_alone():
    state = torch.get_rng_state()
    list(ShuffledRows(FilledRows(rows(9), 4), 0))
    assert torch.equal(torch.get_rng_state(), state)
