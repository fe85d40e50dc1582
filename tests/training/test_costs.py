"""Tokens, seconds and bytes of a run."""

import pytest
import torch

from reformer_hf.training import costs, memory
from reformer_hf.training.costs import (
    count_tokens,
    describe_costs,
    mean_step_tokens,
    run_costs,
)
from reformer_hf.training.data.rows import FilledRows
from reformer_hf.training.memory import MemoryWatch, tensor_bytes


def test_padding_is_not_counted_and_targets_are_if_they_are_read():
    ids, mask = torch.ones(2, 4, dtype=torch.long), torch.tensor([[1, 1, 1, 1], [1, 0, 0, 0]])
    labels = torch.tensor([[3, 4, -100], [3, -100, -100]])
    batch = {"input_ids": ids, "attention_mask": mask, "labels": labels}
    assert count_tokens(batch) == 5 and count_tokens(batch, with_targets=True) == 8
    assert count_tokens({"input_ids": ids}) == 8


ROWS = [{"input_ids": [1] * n, "labels": [1]} for n in (2, 4, 6, 8)]


def test_tokens_of_a_step_by_rows():
    assert mean_step_tokens(ROWS, 2, 2) == 10
    assert mean_step_tokens(ROWS, 2, 2, with_targets=True) == 12
    assert mean_step_tokens(FilledRows(ROWS, 3), 3, 2) == 10  # two rows are blank
    assert mean_step_tokens(iter(ROWS), 2, 2) is None
    assert mean_step_tokens([{"pixels": 1}], 2, 2) is None and mean_step_tokens([], 2, 2) is None


def test_rows_are_looked_at_all_over(monkeypatch):
    monkeypatch.setattr(costs, "_SAMPLE", 2)
    assert mean_step_tokens(ROWS, 1, 4) == 4  # the first and the third


def test_costs_are_named_and_said(monkeypatch):
    monkeypatch.setattr(costs, "peak_memory_bytes", lambda: 2**30)
    found = run_costs(6000, 90.0, 60.0, peak_bytes=2**31)
    assert found["tokens_per_second"] == 100 and found["peak_memory_bytes"] == 2**31
    assert describe_costs(found) == (
        "6,000 tokens in 1.5 minutes, 100 tokens/s, peak memory 2.00 GiB"
    )
    assert run_costs(6, 1.0, 0.0)["tokens_per_second"] is None
    assert run_costs(6, 1.0, 1.0)["peak_memory_bytes"] == 2**30


def test_nothing_is_made_up_where_the_system_does_not_say(monkeypatch):
    monkeypatch.setattr(costs, "peak_memory_bytes", lambda: None)
    found = run_costs(6000, 90.0, 0.0)
    assert found["peak_memory_bytes"] is None
    assert describe_costs(found) == "6,000 tokens in 1.5 minutes, peak memory unknown"


@pytest.mark.parametrize(
    ("peak", "held", "activations"), [(1100, None, 1000 - 28), (1100, 4, 1000 - 24), (100, 8, None)]
)
def test_memory_is_parted(monkeypatch, peak, held, activations):
    peaks = iter((100, peak, peak))  # before the steps, after them, at the end
    monkeypatch.setattr(memory, "peak_memory_bytes", lambda: next(peaks))
    monkeypatch.setattr(memory, "resident_bytes", lambda: 100)
    model = torch.nn.Linear(2, 1)  # 3 parameters
    model.bias.requires_grad_(False)
    optimizer = torch.optim.Adam([model.weight])
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    watch = MemoryWatch()
    watch.after_steps(model, optimizer, held)
    found = watch.result()
    assert (found.parameters, found.gradients, found.optimizer) == (12, held or 8, 20)
    assert (found.peak, found.activations) == (peak, activations)


def test_bytes_of_tensors_only():
    assert tensor_bytes([torch.ones(3, dtype=torch.bfloat16), 4, None]) == 6
