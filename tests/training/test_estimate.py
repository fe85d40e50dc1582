"""What a run will cost, added up from the costs of its parts."""

import math

import pytest

from reformer_hf.training.estimate import PartCosts, PlannedStep, conclude, estimate_run
from reformer_hf.training.memory import MemoryUse
from reformer_hf.training.pace import StepTimer

COSTS = PartCosts(token=0.5, evaluation=7.0, checkpoint=3.0)


def plan(steps=10, tokens=2, evaluates=4, saves=5):
    return [
        PlannedStep(tokens, step % evaluates == 0, step % saves == 0)
        for step in range(1, steps + 1)
    ]


def test_a_run_is_the_sum_of_its_parts():
    run = estimate_run(COSTS, plan(), final_evaluations=1)
    assert (run.steps, run.tokens, run.evaluations, run.checkpoints) == (10, 20, 3, 2)
    assert run.seconds == 20 * 0.5 + 3 * 7 + 2 * 3 and not run.stopped_by_the_clock


def test_steps_may_grow():
    run = estimate_run(COSTS, [PlannedStep(tokens) for tokens in (1, 2, 4)])
    assert run.seconds == 3.5 and run.tokens == 7


@pytest.mark.parametrize(
    ("limit", "steps", "evaluations", "checkpoints", "stopped"),
    [
        (3.0, 3, 1, 1, True),  # evaluates and saves, as the clock has it
        (2.5, 3, 1, 1, True),
        (4.0, 4, 1, 1, True),  # step 4 evaluates in any case
        (4.5, 5, 2, 1, True),  # the evaluation takes long, and then there is one step more
        (1000, 10, 2, 2, False),
    ],
)
def test_the_clock_stops_after_the_step_in_which_its_time_is_up(
    limit, steps, evaluations, checkpoints, stopped
):
    run = estimate_run(COSTS, plan(), limit)
    assert (run.steps, run.stopped_by_the_clock) == (steps, stopped)
    assert (run.evaluations, run.checkpoints) == (evaluations, checkpoints)


def test_a_run_whose_time_is_up_at_its_last_step_is_not_stopped():
    run = estimate_run(COSTS, [PlannedStep(2)] * 3, 3.0)
    assert (run.steps, run.evaluations, run.stopped_by_the_clock) == (3, 0, False)


def timer_of(*ends, tokens=100):
    """A timer whose steps end at these seconds."""
    clock = iter((0, *ends))
    timer = StepTimer(lambda: next(clock))
    timer.begin()
    for _ in ends:
        timer.end_step(tokens)
    return timer


def test_what_is_said_and_what_is_returned():
    said = []
    memory = MemoryUse(3 * 2**30, None, 4 * 2**20, 2**20, 2**21, None)
    found = conclude(
        timer_of(60, 62, 64, 66),
        memory,
        plan(300, tokens=100, evaluates=100, saves=1000),
        300,
        evaluation=30.0,
        checkpoint=None,
        max_seconds=400,
        left_out=["samples"],
        tell=said.append,
    )
    assert (found["steps"], found["stopped_by_the_clock"]) == (185, True)  # 370 s, and 30 s
    assert found["tokens_per_second"] == 50 and found["step_seconds"] == 2
    assert found["seconds"] == 185 * 2 + 2 * 30 and found["tokens"] == 18_500
    assert found["memory_bytes"]["optimizer"] == 2**21
    (text,) = said
    for part in (
        "a step: 2 s, 50 tokens/s",
        "about 7.2 minutes, when max_minutes stop it at step 185 of 300",
        "185 steps 6.2 minutes, evaluations (2) 1.0 minutes",
        "left out: preparing the data, checkpoints, samples",
        "peak memory 3.00 GiB",
        "parameters 4.0 MiB, gradients 1.0 MiB, optimizer 2.0 MiB",
    ):
        assert part in text
    assert "activations" not in text  # which are not known


def test_without_a_limit_no_clock_is_named():
    said = []
    memory = MemoryUse(None, None, 0, 0, 0, 2**30)
    conclude(timer_of(1, 2), memory, plan(3), 3, None, None, math.inf, tell=said.append)
    assert "max_minutes" not in said[0] and "peak memory unknown" in said[0]
    assert "activations and what else the steps need 1.00 GiB" in said[0]
