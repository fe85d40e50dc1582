"""What a run will cost, from the time of a few steps and from the steps that it plans."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from reformer_hf.training.costs import describe_peak, duration, size
from reformer_hf.training.memory import MemoryUse
from reformer_hf.training.pace import WARM_UP_STEPS, StepTimer

MEASURED_STEPS = WARM_UP_STEPS + 3
"""Of a dry run."""


class PlannedStep(NamedTuple):
    """A step that a run will make, and what follows it.

    Attributes:
        tokens: of the step, in all processes.
        evaluates: whether an evaluation follows.
        saves: whether a checkpoint follows.
    """

    tokens: float
    evaluates: bool = False
    saves: bool = False


@dataclass(frozen=True)
class PartCosts:
    """Seconds of the parts of a run.

    Attributes:
        token: of a token in training; a step takes as long as its tokens.
        evaluation: of a whole evaluation.
        checkpoint: of a checkpoint.
    """

    token: float
    evaluation: float = 0.0
    checkpoint: float = 0.0


@dataclass(frozen=True)
class RunEstimate:
    """What a run will do and how long that takes.

    Attributes:
        steps: of the optimizer.
        tokens: that are trained on.
        evaluations: that are made, the one at the end included.
        checkpoints: that are written.
        costs: of the parts.
        stopped_by_the_clock: whether `max_minutes` end the run before its last step.
    """

    steps: int
    tokens: float
    evaluations: int
    checkpoints: int
    costs: PartCosts
    stopped_by_the_clock: bool

    @property
    def seconds(self) -> float:
        """Of the whole run."""
        costs = self.costs
        return (
            self.tokens * costs.token
            + self.evaluations * costs.evaluation
            + self.checkpoints * costs.checkpoint
        )


def estimate_run(
    costs: PartCosts,
    plan: Iterable[PlannedStep],
    max_seconds: float = math.inf,
    final_evaluations: int = 0,
) -> RunEstimate:
    """Add up the steps that a run plans, until its clock stops it.

    Args:
        costs: as measured.
        plan: all steps of the run. Their tokens may differ.
        max_seconds: after which the clock ends the run, with an evaluation and a checkpoint, as
            `Clock` does.
        final_evaluations: after training, which no clock stops.
    """
    steps = evaluations = checkpoints = 0
    seconds = tokens = 0.0
    is_up = stopped = False
    last = PlannedStep(0)
    for planned in plan:
        if stopped := is_up:
            evaluations += not last.evaluates
            checkpoints += not last.saves
            break
        steps, tokens, last = steps + 1, tokens + planned.tokens, planned
        seconds += planned.tokens * costs.token
        is_up = seconds >= max_seconds  # the clock looks before the evaluation
        evaluations, checkpoints = evaluations + planned.evaluates, checkpoints + planned.saves
        seconds += planned.evaluates * costs.evaluation + planned.saves * costs.checkpoint
    evaluations += final_evaluations
    return RunEstimate(steps, tokens, evaluations, checkpoints, costs, stopped)


def describe_estimate(
    run: RunEstimate, step_seconds: float, memory: MemoryUse, max_steps: int, left_out: str
) -> str:
    """Write an estimate for a person, some lines.

    Args:
        run: up to its last step or its clock.
        step_seconds: of a step that was timed.
        memory: of this process.
        max_steps: that the run would make without a clock.
        left_out: what the estimate leaves out, in words.
    """
    parts = {
        f"{run.steps:,} steps": run.tokens * run.costs.token,
        f"evaluations ({run.evaluations:,})": run.evaluations * run.costs.evaluation,
        f"checkpoints ({run.checkpoints:,})": run.checkpoints * run.costs.checkpoint,
    }
    listed = ", ".join(f"{name} {duration(seconds)}" for name, seconds in parts.items() if seconds)
    clock = f", when max_minutes stop it at step {run.steps:,} of {max_steps:,}"
    held = {
        "parameters": memory.parameters,
        "gradients": memory.gradients,
        "optimizer": memory.optimizer,
        "activations and what else the steps need": memory.activations,
    }
    known = ", ".join(f"{name} {size(b)}" for name, b in held.items() if b is not None)
    return "\n".join(
        (
            "Dry run: nothing is kept of these steps, and output_dir stays as it is",
            f"  a step: {step_seconds:.3g} s, {1 / run.costs.token:,.0f} tokens/s",
            f"  the run: about {duration(run.seconds)}{clock * run.stopped_by_the_clock}",
            f"    {listed}; {run.tokens:,.0f} tokens",
            f"    left out: {left_out}",
            f"  {describe_peak(memory.peak)} of this process",
            f"    {known}",
        )
    )


def conclude(
    timer: StepTimer,
    memory: MemoryUse,
    plan: Iterable[PlannedStep],
    max_steps: int,
    evaluation: float | None,
    checkpoint: float | None,
    max_seconds: float = math.inf,
    final_evaluations: int = 0,
    left_out: Sequence[str] = (),
    tell: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Say what a run will cost, after a few steps of it.

    Args:
        timer: of those steps.
        memory: that they took.
        plan: all steps of the run.
        max_steps: how many these are.
        evaluation: seconds of one; None if they are not known.
        checkpoint: seconds of one; None if they are not known.
        max_seconds: see :func:`estimate_run`.
        final_evaluations: see :func:`estimate_run`.
        left_out: what is not measured, in words.
        tell: what is done with the text.

    Returns:
        The numbers by name, JSON values.
    """
    costs = PartCosts(timer.token_seconds(), evaluation or 0.0, checkpoint or 0.0)
    run = estimate_run(costs, plan, max_seconds, final_evaluations)
    missing = [
        *(["evaluations"] if run.evaluations and evaluation is None else []),
        *(["checkpoints"] if run.checkpoints and checkpoint is None else []),
    ]
    left_out = ["preparing the data", *missing, *left_out]
    tell(describe_estimate(run, timer.step_seconds(), memory, max_steps, ", ".join(left_out)))
    return {
        "steps": run.steps,
        "tokens": round(run.tokens),
        "tokens_per_second": 1 / costs.token,
        "step_seconds": timer.step_seconds(),
        "seconds": run.seconds,
        "evaluations": run.evaluations,
        "checkpoints": run.checkpoints,
        "stopped_by_the_clock": run.stopped_by_the_clock,
        "memory_bytes": asdict(memory),
    }
