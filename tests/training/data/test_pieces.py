"""Pieces are what a hand would cut, and no token comes twice in a pass."""

from itertools import islice

import numpy as np
import pytest
import torch
from accelerate.data_loader import BatchSamplerShard
from datasets import Dataset
from torch.utils.data import DataLoader

from reformer_hf import ReformerHFByteTokenizer
from reformer_hf.training.data.bytes import ByteRows
from reformer_hf.training.data.collator import ReformerDataCollator
from reformer_hf.training.data.packing import pack_rows
from reformer_hf.training.data.pieces import Piece, PieceBatches, RowPieces
from reformer_hf.training.data.rows import FilledRows, ShuffledRows
from reformer_hf.training.row_schedule import RowSchedule


def rows(count=6, block_size=8, last=8):
    """Rows whose tokens are numbered through."""
    ids = list(range(block_size * (count - 1) + last))
    parts = [ids[start : start + block_size] for start in range(0, len(ids), block_size)]
    return RowPieces(Dataset.from_dict({"input_ids": parts}), block_size)


def tokens(data, piece):
    return [piece.row * data.block_size + place for place in range(piece.start, piece.stop)]


def test_a_piece_is_what_a_hand_cuts(tmp_path):
    row = {
        "input_ids": list(range(8)),
        "labels": np.arange(8) + 10,
        "seq_idx": torch.arange(8) // 3,
        "attention_mask": [1] * 8,
        "position_ids": [0, 1, 2, 0, 1, 2, 0, 1],
        "name": "12345678",
        "score": torch.tensor(0.5),
        "pair": [1, 2],
    }
    piece = RowPieces([row, row], 8)[Piece(1, 2, 6)]
    assert piece["input_ids"] == [2, 3, 4, 5] and piece["position_ids"] == [2, 0, 1, 2]
    assert piece["labels"].tolist() == [12, 13, 14, 15]
    assert piece["seq_idx"].tolist() == [0, 1, 1, 1] and piece["attention_mask"] == [1] * 4
    assert {name: piece[name] for name in ("name", "score", "pair")} == {
        name: row[name] for name in ("name", "score", "pair")
    }
    blank = RowPieces([row, row], 8)[Piece(0, 0, 0)]
    assert blank["input_ids"] == [0] and blank["labels"] == [-100]
    assert RowPieces([row, row], 8)[-1] is row
    (tmp_path / "file").write_bytes(bytes(range(20)))
    of_bytes = RowPieces(ByteRows([tmp_path / "file"], 8), 8)
    assert (of_bytes[Piece(1, 4, 8)]["input_ids"] - 2).tolist() == [12, 13, 14, 15]
    assert of_bytes.tokens == 20 and of_bytes.length(2) == 4


@pytest.mark.parametrize("packing", ["documents", "blocks"])
def test_packed_rows_are_cut_with_their_documents(packing):
    texts = [[10, 11, 12], [20, 21, 22, 23, 24], [30, 31, 32, 33, 34, 35, 36, 37]]
    documents = Dataset.from_dict({"input_ids": texts, "ends_document": [True] * 3})
    data = RowPieces(pack_rows(documents, 8, packing), 8)
    pieces = [data[Piece(row, start, start + 4)] for row in (0, 1) for start in (0, 4)]
    assert sum((piece["input_ids"] for piece in pieces), []) == sum(texts, [])
    batch = ReformerDataCollator(ReformerHFByteTokenizer())(pieces)
    scored = batch["labels"][:, 1:]  # the first token of a piece has no context
    if packing == "documents":
        assert [piece["seq_idx"] for piece in pieces] == [[0, 0, 0, 1]] + [[1] * 4] * 3
        assert scored[0].tolist() == [11, 12, -100] and scored[1].tolist() == [22, 23, 24]
    else:
        assert scored[0].tolist() == [11, 12, 20] and "seq_idx" not in pieces[0]


def test_masks_fall_on_pieces_as_on_rows():
    data = RowPieces([{"input_ids": list(range(5, 13))}] * 2, 8)
    tokenizer = ReformerHFByteTokenizer()
    tokenizer.add_special_tokens({"mask_token": "<mask>"})
    collator = ReformerDataCollator(tokenizer, mlm=True, mlm_probability=0.5, seed=0)
    batch = collator([data[Piece(0, 4, 8)], data[Piece(1, 0, 4)], data[Piece(0, 0, 0)]])
    assert batch["input_ids"].shape == (3, 4) and (batch["labels"][2] == -100).all()
    hidden = batch["labels"] != -100
    original = torch.tensor([[9, 10, 11, 12], [5, 6, 7, 8], [5, 0, 0, 0]])
    assert hidden.any() and torch.equal(batch["labels"][hidden], original[hidden])


@pytest.mark.parametrize("last", [8, 5, 1])
def test_no_token_comes_twice_in_a_pass_and_every_length_is_kept(last):
    data = rows(6, last=last)
    schedule = RowSchedule([2, 4, 8], [8], 60)
    taken, order = [], PieceBatches(data, schedule, 0)
    for step, pieces in enumerate(order.steps()):
        length = schedule.row_length(step)
        assert len(pieces) == schedule.rows_per_step[schedule.phase(step)]
        assert all(
            piece.start % length == 0
            and piece.stop - piece.start == min(length, data.length(piece.row) - piece.start) > 1
            for piece in pieces
        )
        taken += [(length, token) for piece in pieces for token in tokens(data, piece)]
    assert step == 59 and order.tokens(60) == len(taken)
    # Five rows are whole. Each length sees all that it can of them before it sees one again.
    for length in (2, 4, 8):
        seen = [token for each, token in taken if each == length]
        counts = [seen.count(token) for token in range(40)]
        assert max(counts) - min(counts) <= 2 and min(counts) >= 1
    first_pass = [token for _, token in taken[: 40 if last == 1 else 40 + last // 2 * 2]]
    assert len(set(first_pass)) == len(first_pass)


def test_a_step_has_pieces_of_different_rows_in_an_order_that_seed_and_steps_decide():
    data, schedule = rows(40), RowSchedule([2, 8], [8], 50)

    def order(seed, **more):
        return list(PieceBatches(data, schedule, seed, **more).steps())

    first = order(0)
    torch.rand(3)
    assert first == order(0) == order(0, batches_per_step=3, multiple=2) != order(1)
    assert sum(len({piece.row for piece in pieces}) > 1 for pieces in first[:25]) > 20
    again = list(islice(PieceBatches(data, schedule, 0).steps(), 30, None))
    assert again == first[30:]


def test_of_many_rows_pieces_come_from_all_over():
    taken = [
        piece
        for pieces in PieceBatches(rows(100), RowSchedule([2, 8], [8], 20), 0).steps()
        for piece in pieces
    ]
    assert [piece.stop for piece in taken[40:]] == [8] * 10
    assert len({piece.row for piece in taken[:40]}) > 25  # 40 pieces, which 10 rows have
    assert not {piece.row for piece in taken[:40]} & {piece.row for piece in taken[40:]}
    assert len(set(taken)) == 50


def test_rows_of_one_length_come_in_the_order_of_before():
    data, schedule = rows(9), RowSchedule([8], [24], 6)
    batches = [[piece.row for piece in batch] for batch in PieceBatches(data, schedule, 3)]
    before = ShuffledRows(FilledRows(data.rows, 3), 3)
    passes = []
    for epoch in (0, 1):
        before.set_epoch(epoch)
        passes += list(before)
    assert sum(batches, []) == passes


@pytest.mark.parametrize("parts", [1, 2, 3, 4])
def test_processes_share_a_step_out_evenly(parts):
    data, schedule = rows(40), RowSchedule([2, 4, 8], [10], 30)
    order = PieceBatches(data, schedule, 0, batches_per_step=parts)
    shares = [list(BatchSamplerShard(order, parts, index)) for index in range(parts)]
    assert {len(share) for share in shares} == {30} and len(order) == 30 * parts
    for step, pieces in enumerate(order.steps()):
        batches = [share[step] for share in shares]
        real = [[piece for piece in batch if piece.stop] for batch in batches]
        assert sum(real, []) == pieces
        assert max(map(len, real)) - min(map(len, real)) <= 1
        assert all(
            batch == part or batch == [Piece(0, 0, 0)]
            for batch, part in zip(batches, real, strict=True)
        )


def test_devices_of_a_process_get_a_row_each():
    order = PieceBatches(rows(), RowSchedule([4, 8], [12], 8), 0, 2, multiple=2)
    assert {len(batch) for batch in order} == {2}


def test_a_loader_gives_the_batches():
    data = rows(last=3)
    order = PieceBatches(data, RowSchedule([4, 8], [16], 12), 0)
    collator = ReformerDataCollator(ReformerHFByteTokenizer())
    shapes = [
        tuple(batch["input_ids"].shape)
        for batch in DataLoader(data, batch_sampler=order, collate_fn=collator)
    ]
    assert shapes[:6] == [(4, 4)] * 6 and set(shapes[6:]) <= {(2, 8)} and len(shapes) == 12


def test_passes_are_counted():
    order = PieceBatches(rows(5), RowSchedule([4, 8], [8], 20), 0)
    assert order.passes(0) == 0 and order.passes(5) == 1 and order.passes(20) == 4


def test_rows_that_cannot_be_cut_are_refused():
    ragged = [{"input_ids": [1] * length} for length in (8, 5, 8)]
    data = RowPieces(ragged, 8)
    with pytest.raises(ValueError, match=r"row_lengths with rows of 5 tokens \(row 1\) where"):
        data[Piece(1, 0, 4)]
    with pytest.raises(ValueError, match=r"rows of 8 tokens \(row 0\) where the last length is 16"):
        RowPieces(ragged, 16)
    with pytest.raises(ValueError, match=r"rows of 8 tokens \(row 0\) where the last length is 4"):
        RowPieces(ragged[:1], 4)
    with pytest.raises(ValueError, match="nothing to predict: give more text"):
        RowPieces([{"input_ids": [1]}], 8)
    with pytest.raises(ValueError, match="nothing to predict: give more text"):
        RowPieces([], 8)
    stream = Dataset.from_list(ragged).to_iterable_dataset()
    with pytest.raises(ValueError, match="row_lengths with a stream"):
        RowPieces(stream, 8)
