"""The last inputs of rows: joined with new ones, taken back, chosen."""

import torch

from reformer_hf.nn.past.recent_inputs import RecentInputs


def numbers(*rows: list[float]) -> torch.Tensor:
    """Vectors of one number each, (batch, seq, 1)."""
    return torch.tensor(rows).unsqueeze(-1)


def test_new_inputs_come_behind_the_last_ones():
    recent = RecentInputs()
    joined, target, documents = recent.join(numbers([1.0, 2.0, 3.0]), 2)
    assert documents is None
    assert joined[0, :, 0].tolist() == [0, 0, 1, 2, 3] and target is None
    joined = recent.join(numbers([4.0]), 2).inputs
    assert joined[0, :, 0].tolist() == [2, 3, 4]
    assert recent.stored[0, :, 0].tolist() == [3, 4]
    assert recent.allocated_bytes == 8


def test_padding_is_skipped():
    recent = RecentInputs()
    real = torch.tensor([[False, True, False, True], [True, True, True, False]])
    joined, target, _ = recent.join(numbers([9.0, 1, 9, 2], [1.0, 2, 3, 9]), 2, real)
    assert joined[0, :, 0].tolist() == [9, 9, 0, 0, 1, 2]
    assert joined[1, :, 0].tolist() == [9, 0, 0, 1, 2, 3]
    assert target[0, [1, 3]].tolist() == [4, 5] and target[1, :3].tolist() == [3, 4, 5]
    assert recent.stored[:, :, 0].tolist() == [[1, 2], [2, 3]]


def test_what_was_recorded_is_taken_back_once():
    recent = RecentInputs()
    recent.join(numbers([1.0, 2.0]), 2, recording=True)
    recent.join(numbers([3.0, 4.0, 5.0]), 2, recording=True)
    assert recent.can_drop(4)
    recent.drop_last(2)
    assert recent.stored[0, :, 0].tolist() == [2, 3]
    assert recent.can_drop(0) and not recent.can_drop(1)
    recent.change_rows(lambda rows: rows.repeat_interleave(2, dim=0))
    assert recent.stored.shape == (2, 2, 1)


def test_without_a_convolution_nothing_is_kept():
    recent = RecentInputs()
    assert recent.can_drop(7) and recent.allocated_bytes == 0
    recent.drop_last(7)
    recent.change_rows(lambda rows: rows[:1])
    assert recent.stored is None
