"""The speed of the first steps of a run, by a clock that the test moves."""

import math

import pytest

from reformer_hf.training import pace
from reformer_hf.training.pace import Pace, StepTimer


class Run:
    """Steps that take the given seconds, on a clock of their own."""

    def __init__(self, monkeypatch, steps=3):
        monkeypatch.setattr(pace, "peak_memory_bytes", lambda: 2**29)
        self.now, self.said, self.step = 0.0, [], 0
        self.pace = Pace(steps, StepTimer(lambda: self.now), self.said.append)
        self.pace.begin()

    def take(self, *seconds, max_steps=104, left=math.inf):
        for each in seconds:
            self.now += each
            self.step += 1
            self.pace.end_step(600, self.step, max_steps, left)
        return self.said


def test_it_is_said_once_and_the_first_step_and_a_pause_do_not_count(monkeypatch):
    run = Run(monkeypatch)
    assert run.take(50, 6, 6) == []
    (line,) = run.take(90)
    expected = "about 10.0 minutes of steps to go, 100 tokens/s, peak memory 0.50 GiB"
    assert line == f"Step 4 of 104: {expected}"
    assert len(run.take(*[6] * 20)) == 1


def test_what_max_minutes_leave_is_said(monkeypatch):
    (line,) = Run(monkeypatch).take(50, 6, 6, 6, left=123)
    assert "about 2.0 minutes to go, to step 25 when max_minutes are over" in line


def test_nothing_is_said_at_the_end_or_by_other_processes(monkeypatch):
    assert Run(monkeypatch).take(1, 1, 1, 1, max_steps=4) == []
    run = Run(monkeypatch)
    run.pace.tell = None
    assert run.take(1, 1, 1, 1) == []


def test_a_single_step_is_timed_although_it_warms_up():
    clock = iter((1.0, 3.0))
    timer = StepTimer(lambda: next(clock))
    timer.begin()
    timer.end_step(4)
    assert (timer.step_seconds(), timer.token_seconds(), timer.mean_tokens()) == (2, 0.5, 4)


def test_steps_of_other_tokens_weigh_by_them():
    clock = iter((0.0, 9.0, 10.0, 13.0))
    timer = StepTimer(lambda: next(clock))
    timer.begin()
    for tokens in (1, 2, 6):
        timer.end_step(tokens)
    assert timer.token_seconds() == pytest.approx(0.5) and timer.mean_tokens() == 4
