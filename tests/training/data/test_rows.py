from itertools import islice

import numpy as np
import pytest
import torch
from datasets import Dataset
from torch.utils.data import DataLoader

from reformer_hf.training.data.bytes import ByteRows
from reformer_hf.training.data.rows import (
    FilledRows,
    ShuffledRows,
    blank_labelled_row,
    fill,
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


@pytest.mark.parametrize(
    ("labels", "blank"),
    [(3, -100), (2.5, "nan"), ([0.0, 1.0, 1.0], ["nan"] * 3), ([1, 2, -100], [-100])],
    ids=["a class", "a number", "several", "of tokens"],
)
def test_blank_rows_have_labels_of_the_same_form(labels, blank):
    row = {"input_ids": [5, 6, 7], "attention_mask": [1, 1, 1], "word_count": 3, "labels": labels}
    found = blank_labelled_row(row)
    kept = found.pop("labels")
    assert found == {"input_ids": [5], "attention_mask": [1], "word_count": 3}
    expected = np.array(blank, dtype=float if "nan" in str(blank) else int)
    assert np.array_equal(kept, expected, equal_nan="nan" in str(blank))


def test_blank_rows_without_labels_have_none():
    assert blank_labelled_row({"input_ids": [5, 6]}) == {"input_ids": [5]}


def test_numbers_of_formatted_rows_are_numbers():
    for number in (torch.tensor(1.5), np.float32(1.5)):
        assert np.isnan(blank_labelled_row({"labels": number})["labels"])
    assert blank_labelled_row({"labels": torch.tensor([1, 2])})["labels"] == [-100]


@pytest.mark.parametrize("name", ["label", "label_ids"])
def test_labels_of_another_name_would_count(name):
    with pytest.raises(ValueError, match=f"column '{name}': rename it to 'labels'"):
        blank_labelled_row({"input_ids": [5], name: 1})


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


def stream(count):
    return rows(count).to_iterable_dataset()


@pytest.fixture
def every_dataset(tmp_path):
    """All kinds of rows that scripts hand to loaders, by name, five rows each."""
    (tmp_path / "file").write_bytes(bytes(range(48)))
    of_bytes = ByteRows([tmp_path / "file"], 10)
    return {
        "bytes": of_bytes,
        "filled": FilledRows(rows(4), 5),
        "filled bytes": FilledRows(of_bytes, 1),
        "filled spread bytes": FilledRows(spread_rows(of_bytes, 3), 5),
        "first bytes": first_rows(ByteRows([tmp_path / "file"], 8), 5),
        "first": first_rows(rows(9), 5),
        "spread": spread_rows(rows(9), 5),
    }


def first_ids(row):
    return [int(index) for index in row["input_ids"]]


@pytest.mark.parametrize(
    "name",
    [
        *("bytes", "filled", "filled bytes", "filled spread bytes"),
        *("first bytes", "first", "spread"),
    ],
)
def test_every_dataset_ends_and_counts_as_lists_do(name, every_dataset):
    data = every_dataset[name]
    assert len(data) == 5
    found = list(islice(iter(data[index] for index in range(5)), 6))
    for index in range(5):
        expected = first_ids(found[index])
        for same in (index - 5, np.int64(index), np.int32(index - 5)):
            assert first_ids(data[same]) == expected
    for outside in (5, -6, 1 << 40):
        with pytest.raises(IndexError):
            data[outside]
    assert [first_ids(row) for row in islice(iter(data), 9)] == [first_ids(row) for row in found]
    if isinstance(data, ByteRows | FilledRows):  # others have columns, or parts
        with pytest.raises(TypeError):
            data[1:3]
        with pytest.raises(TypeError):
            data["input_ids"]
    batches = DataLoader(data, 2, collate_fn=lambda batch: [first_ids(row) for row in batch])
    assert sum(batches, []) == [first_ids(row) for row in found]


def test_every_stream_ends():
    filled = fill(stream(5), 4)
    assert len(list(islice(filled, 20))) == 8 and not hasattr(filled, "__len__")
    assert list(islice(fill(stream(5).skip(5), 4), 20)) == []
    assert len(FilledRows(rows(0), 4)) == 0 and list(FilledRows(rows(0), 4)) == []


def test_rows_of_the_same_length_come_together():
    lengths = torch.randint(1, 50, (400,), generator=torch.Generator().manual_seed(0)).tolist()
    filled = FilledRows(Dataset.from_dict({"input_ids": [[0] * n for n in lengths]}), 16)
    assert filled.lengths("length") == lengths
    named = Dataset.from_dict({"input_ids": [[0]] * 2, "length": [7, 8]})
    assert FilledRows(named, 4).lengths("length") == [7, 8]
    sampler = ShuffledRows(filled, 0, filled.lengths("length"), 4)
    order = list(sampler)
    assert sorted(order) == list(range(400)) and list(ShuffledRows(filled, 0)) != order
    assert order == list(sampler)
    sampler.set_epoch(1)
    assert list(sampler) != order
    padding = [
        sum(max(part) - n for n in part)
        for found in (order, list(ShuffledRows(filled, 0)))
        for part in [[lengths[i] for i in found[s : s + 4]] for s in range(0, 400, 4)]
    ]
    assert sum(padding[:100]) < sum(padding[100:]) / 4
    filled = FilledRows(rows(5), 4)
    assert sorted(ShuffledRows(filled, 0, filled.lengths("length"), 4))[-3:] == [5, 6, 7]
