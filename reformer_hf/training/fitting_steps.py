"""How many steps fit into the minutes of a run, by timing some of each kind before it begins."""

import copy
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch

from reformer_hf.training.optimizers import make_optimizer, muon_settings
from reformer_hf.training.resuming import ROWS
from reformer_hf.training.row_schedule import RowSchedule

PLANNED_SHARE = 0.93
"""Of the time is planned. The rest is for checkpoints, and for a machine that slows."""

_WARM_UP, _TIMED = 2, 5

now = time.perf_counter
"""Gives seconds; a study that shares its machine sets it to the processor's own time."""


def steps_of_checkpoint(checkpoint: Path | str | None) -> int | None:
    """Steps that the run of a checkpoint was planned for, where its rows grow."""
    file = Path(checkpoint or "", ROWS)
    if checkpoint is None or not file.exists():
        return None
    return json.loads(file.read_text(encoding="utf-8")).get("max_steps")


def fitting_steps(model: Any, arguments: Any, schedule: RowSchedule, evaluated: int = 0) -> int:
    """Time some steps on random tokens, and say how many fit into `max_minutes`.

    Steps are those of AdamW, or of Muon and AdamW. Evaluations every so many steps take their time
    from the steps, up to a half of all.

    Args:
        model: of the run; a copy of it is trained.
        arguments: of the Trainer.
        schedule: of the run, for any number of steps.
        evaluated: rows of an evaluation, each as long as the longest of training.

    Returns:
        Steps, at least 1.

    Raises:
        ValueError: with several processes, whose numbers would differ.
    """
    minutes = arguments.max_minutes
    if arguments.world_size > 1:
        raise ValueError(
            f"max_minutes={minutes} and row_lengths with {arguments.world_size} processes: say how "
            "many steps they take (max_steps)"
        )
    seconds, evaluation = [], 0.0
    with torch.random.fork_rng():
        for _, rows, length in schedule.phases:
            seconds.append(_step_seconds(model, arguments, rows, length))
        if evaluated and arguments.eval_strategy == "steps":
            evaluation = _evaluation_seconds(model, arguments, evaluated, schedule.row_lengths[-1])
    planned = 60 * minutes * PLANNED_SHARE
    if arguments.eval_on_start:
        planned -= min(evaluation, planned / 2)
    steps = steps_in(planned, seconds, schedule, evaluation, arguments.eval_steps or 1.0)
    listed = ", ".join(f"{each:.2f}" for each in seconds)
    print(f"{steps:,} steps fit into {minutes} minutes: by row length a step takes {listed} s")
    return steps


def steps_in(
    seconds: float,
    step_seconds: list[float],
    schedule: RowSchedule,
    evaluation_seconds: float = 0.0,
    eval_steps: float = 1.0,
) -> int:
    """Steps that fit into a time.

    Args:
        seconds: for all steps.
        step_seconds: of a step of each row length.
        schedule: gives each of them the same number of tokens.
        evaluation_seconds: of an evaluation. There is one behind the last step, too.
        eval_steps: from one to the next, or below 1 the part of all steps that this is.

    Returns:
        Steps, at least 1; half as many as without evaluations where these take longer.
    """
    shares = [1 / (rows * length) for _, rows, length in schedule.phases]
    mean = sum(share * each for share, each in zip(shares, step_seconds, strict=True)) / sum(shares)
    if eval_steps < 1:
        steps = (seconds - math.ceil(1 / eval_steps) * evaluation_seconds) / mean
    else:
        steps = (seconds - evaluation_seconds) / (mean + evaluation_seconds / eval_steps)
    if steps < (half := seconds / mean / 2):
        print(
            f"An evaluation takes {evaluation_seconds:,.0f} s, so evaluations take more than half "
            "of max_minutes: choose fewer rows (max_eval_samples), or a larger eval_steps"
        )
        steps = half
    return max(1, int(steps))


def _step_seconds(model: Any, arguments: Any, rows: int, length: int) -> float:
    """Seconds of a step of training, in the median."""
    model = copy.deepcopy(model).to(arguments.device).train()
    if arguments.gradient_checkpointing:
        model.gradient_checkpointing_enable(arguments.gradient_checkpointing_kwargs)
    settings: Any = muon_settings(arguments) | {"fused": "fused" in arguments.optim}
    optimizer = make_optimizer(model, 1e-4, **settings)
    ids = torch.randint(model.config.vocab_size, (rows, length), device=arguments.device)
    parts = ids.chunk(arguments.gradient_accumulation_steps)

    def step() -> None:
        for part in parts:
            with _in_half(arguments):
                loss = model(input_ids=part, labels=part).loss
            loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return _median_seconds(step)


def _evaluation_seconds(model: Any, arguments: Any, rows: int, length: int) -> float:
    """Seconds of an evaluation, by the median of a batch."""
    model = copy.deepcopy(model).to(arguments.device).eval()
    together = arguments.per_device_eval_batch_size
    ids = torch.randint(model.config.vocab_size, (together, length), device=arguments.device)

    def evaluate() -> None:
        with torch.no_grad(), _in_half(arguments):
            model(input_ids=ids, labels=ids)

    return _median_seconds(evaluate) * math.ceil(rows / together)


def _in_half(arguments: Any) -> torch.autocast:
    half = torch.bfloat16 if arguments.bf16 else torch.float16
    return torch.autocast(arguments.device.type, half, enabled=arguments.bf16 or arguments.fp16)


def _median_seconds(work: Callable[[], None]) -> float:
    taken = []
    for _ in range(_WARM_UP + _TIMED):
        start = now()
        work()
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()
        taken.append(now() - start)
    return median(taken[_WARM_UP:])
