"""Which rows a step has, and which arguments make no schedule."""

import pytest
import torch
from transformers import get_scheduler

from reformer_hf.training.arguments import (
    DataTrainingArguments,
    LoopArguments,
    PretrainedModelArguments,
)
from reformer_hf.training.parsing import parse_arguments
from reformer_hf.training.row_schedule import RowSchedule, choose_row_schedule


def tokens_of(schedule):
    return [steps * rows * length for steps, rows, length in schedule.phases]


def test_each_length_gets_the_same_share_of_the_tokens():
    schedule = RowSchedule([512, 1024, 2048, 8192], [2048], 1300)
    assert schedule.phases == [(400, 4, 512), (400, 2, 1024), (400, 1, 2048), (100, 1, 8192)]
    assert tokens_of(schedule) == [819_200] * 4
    assert schedule.rows == 1600 + 800 + 400 + 100
    twice = RowSchedule([8, 8, 16], [16], 30)
    assert twice.phases == [(10, 2, 8), (10, 2, 8), (10, 1, 16)]
    budgets = RowSchedule([4, 16], [4, 64], 17)
    assert budgets.phases == [(16, 1, 4), (1, 4, 16)]


@pytest.mark.parametrize("steps", [1, 2, 3, 7, 100, 101])
def test_shares_are_equal_up_to_a_step_and_no_step_is_lost(steps):
    schedule = RowSchedule([4, 8, 32], [20, 20, 40], steps)
    assert sum(steps for steps, *_ in schedule.phases) == steps == schedule.ends[-1]
    share = sum(tokens_of(schedule)) / 3
    for tokens, (_, rows, length) in zip(tokens_of(schedule), schedule.phases, strict=True):
        assert abs(tokens - share) <= 2 * max(rows * length, 32)


@pytest.mark.parametrize("lengths", [[512, 1024, 2048, 8192], [4, 8, 64], [16]])
def test_a_sample_has_all_lengths_with_their_shares(lengths):
    schedule = RowSchedule(lengths, [24], 10_000)
    sample = schedule.sample()
    assert sample.max_steps < 50
    assert all(steps for steps, *_ in sample.phases)
    largest = max(rows * length for _, rows, length in schedule.phases)
    share = schedule.tokens(10_000) / len(lengths) / schedule.max_steps * sample.max_steps
    assert all(abs(tokens - share) <= 2 * largest for tokens in tokens_of(sample))
    assert RowSchedule(lengths, [24], 2).sample().max_steps <= 2


def test_every_step_knows_its_rows():
    schedule = RowSchedule([4, 8, 32], [16], 9)
    assert schedule.phases == [(4, 4, 4), (3, 2, 8), (2, 1, 32)]
    assert [schedule.row_length(step) for step in range(9)] == [4] * 4 + [8] * 3 + [32] * 2
    assert [schedule.tokens(steps) for steps in (0, 1, 4, 5, 9)] == [0, 16, 64, 80, 176]
    assert str(schedule).startswith("4 steps of 4 rows of 4 tokens, 3 steps of 2 rows of 8 tokens")
    # Too few steps for a length leave it out.
    short = RowSchedule([4, 8, 32], [8], 2)
    assert [short.row_length(step) for step in range(2)] == [4, 8]


@pytest.mark.parametrize(
    "lengths, tokens, message",
    [
        ([], None, r"row_lengths=\[\]: give lengths above 1"),
        ([1, 8], None, r"row_lengths=\[1, 8\]: give lengths above 1"),
        ([8, 4], None, r"row_lengths=\[8, 4\]: give lengths .* as long as the one before"),
        ([3, 8], None, r"row_lengths=\[3, 8\]: 3 does not divide 8, .* divisors of the last one"),
        ([4, 8], [0], r"tokens_per_step=\[0\]: give one number above 0"),
        ([4, 8], [], r"tokens_per_step=\[\]: give one number above 0"),
        ([4, 8], [8, 8, 8], r"tokens_per_step=\[8, 8, 8\]: .* one for each of the 2 row_lengths"),
        (None, [8], r"tokens_per_step=\[8\] has no effect without row_lengths"),
    ],
)
def test_lengths_and_tokens_that_do_not_fit_are_refused(lengths, tokens, message):
    with pytest.raises(ValueError, match=message):
        DataTrainingArguments(train_file="x", row_lengths=lengths, tokens_per_step=tokens)


def test_a_schedule_has_steps():
    with pytest.raises(ValueError, match="max_steps=0: must be above 0"):
        RowSchedule([4], [4], 0)


@pytest.mark.parametrize("fields", [{"streaming": True}, {"packing": "none"}])
def test_rows_that_cannot_be_cut_are_refused(fields):
    with pytest.raises(ValueError, match=r"row_lengths=\[4, 8\] with .*: rows of one length on"):
        DataTrainingArguments(train_file="x", row_lengths=[4, 8], **fields)


def choose(data=(), loop=(), block_size=8, max_steps=10, processes=1, rows=None):
    data = {"train_file": "x", "row_lengths": [4, 8]} | dict(data)
    training = LoopArguments(**dict(loop))
    arguments = DataTrainingArguments(**data), training, block_size, max_steps, processes, rows
    return choose_row_schedule(*arguments)


def test_the_batch_says_how_many_tokens_a_step_has():
    loop = {"per_device_train_batch_size": 3, "gradient_accumulation_steps": 2}
    assert choose(loop=loop, processes=2).rows_per_step == [24, 12]
    assert choose({"tokens_per_step": [16]}, {"gradient_accumulation_steps": 2}, processes=2) == (
        RowSchedule([4, 8], [16], 10)
    )
    assert choose({"row_lengths": None}) is None


@pytest.mark.parametrize("max_steps", [None, -1])
def test_epochs_say_how_many_steps_there_are(max_steps):
    data, loop = {"tokens_per_step": [4]}, {"num_train_epochs": 3}
    schedule = choose(data, loop, max_steps=max_steps, rows=100)  # steps of 4 and of 8 tokens
    assert schedule.phases == [(300, 1, 4), (150, 1, 8)]
    assert schedule.tokens(450) == 3 * 100 * 8
    assert choose(data, loop, max_steps=7, rows=100).max_steps == 7
    assert choose(data, loop, max_steps=max_steps).max_steps == 1  # before the data are known


def test_arguments_that_do_not_fit_a_schedule_are_refused():
    with pytest.raises(ValueError, match=r"row_lengths=\[4, 8\]: the last one must be block_size="):
        choose(block_size=16)
    batch = {"per_device_train_batch_size": 2}
    with pytest.raises(ValueError, match="size=2 has no effect with tokens_per_step: leave it out"):
        choose({"tokens_per_step": [16]}, batch)
    with pytest.raises(ValueError, match="checkpointing_steps='epoch' with row_lengths"):
        choose(loop={"checkpointing_steps": "epoch"})


def test_lists_are_read_from_the_command_line_and_from_files(tmp_path):
    kinds = (PretrainedModelArguments, DataTrainingArguments, LoopArguments)
    path = tmp_path / "settings.yaml"
    path.write_text("train_file: x\nrow_lengths: [4, 8]\ntokens_per_step: 16\n")
    _, data, _ = parse_arguments(kinds, [str(path)])
    assert (data.row_lengths, data.tokens_per_step) == ([4, 8], [16])
    path.write_text("train_file: x\nrow_lengths: [4, eight]\n")
    with pytest.raises(ValueError, match="row_lengths: 'eight' is no whole number"):
        parse_arguments(kinds, [str(path)])
    path.write_text("train_file: x\nrow_lengths: [4, 8]\ntokens_per_step: 16\n")
    _, data, _ = parse_arguments(kinds, [str(path), "--row_lengths", "2", "4"])
    assert (data.row_lengths, data.tokens_per_step) == ([2, 4], [16])


def test_the_learning_rate_follows_the_tokens():
    schedule = RowSchedule([8, 32], [8], 50)  # 40 steps of 8 tokens, 10 of 32
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    scheduler = get_scheduler("linear", optimizer, 0, 50)
    schedule.slow_down(scheduler)
    rates = []
    for _ in range(50):
        rates.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    assert rates[0] == 1
    assert rates[20] == pytest.approx(0.75)  # a quarter of the tokens
    assert rates[40] == pytest.approx(0.5)
    assert rates[45] == pytest.approx(0.25)
    assert scheduler.get_last_lr()[0] == pytest.approx(0)
