"""How many steps fit into the minutes of a run, by timing some of each kind before it begins."""

import copy
import json
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch

from reformer_hf.training.optimizers import make_optimizer, muon_settings
from reformer_hf.training.resuming import ROWS
from reformer_hf.training.row_schedule import RowSchedule

STEPS_SHARE = 0.85
"""Of the time is for steps. The rest is for evaluations, checkpoints and a machine that slows."""

_WARM_UP, _TIMED = 2, 5

now = time.perf_counter
"""Gives seconds; a study that shares its machine sets it to the processor's own time."""


def steps_of_checkpoint(checkpoint: Path | str | None) -> int | None:
    """Steps that the run of a checkpoint was planned for, where its rows grow."""
    file = Path(checkpoint or "", ROWS)
    if checkpoint is None or not file.exists():
        return None
    return json.loads(file.read_text(encoding="utf-8")).get("max_steps")


def fitting_steps(model: Any, arguments: Any, schedule: RowSchedule) -> int:
    """Time some steps on random tokens, and say how many fit into `max_minutes`.

    Args:
        model: of the run; a copy of it is trained.
        arguments: of the Trainer.
        schedule: of the run, for any number of steps.

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
    with torch.random.fork_rng():
        seconds = [_seconds(model, arguments, rows, length) for _, rows, length in schedule.phases]
    steps = steps_in(60 * minutes * STEPS_SHARE, seconds, schedule)
    listed = ", ".join(f"{each:.2f}" for each in seconds)
    print(f"{steps:,} steps fit into {minutes} minutes: by row length a step takes {listed} s")
    return steps


def steps_in(seconds: float, step_seconds: list[float], schedule: RowSchedule) -> int:
    """Steps that fit into a time.

    Args:
        seconds: for all steps.
        step_seconds: of a step of each row length.
        schedule: gives each of them the same number of tokens.

    Returns:
        Steps, at least 1.
    """
    shares = [1 / (rows * length) for _, rows, length in schedule.phases]
    mean = sum(share * each for share, each in zip(shares, step_seconds, strict=True)) / sum(shares)
    return max(1, int(seconds / mean))


def _seconds(model: Any, arguments: Any, rows: int, length: int) -> float:
    """Seconds of a step, in the median."""
    device, half = arguments.device, torch.bfloat16 if arguments.bf16 else torch.float16
    model = copy.deepcopy(model).to(device).train()
    if arguments.gradient_checkpointing:
        model.gradient_checkpointing_enable(arguments.gradient_checkpointing_kwargs)
    settings: Any = muon_settings(arguments) | {"fused": "fused" in str(arguments.optim)}
    optimizer = make_optimizer(model, 1e-4, **settings)
    ids = torch.randint(model.config.vocab_size, (rows, length), device=device)
    parts, taken = ids.chunk(arguments.gradient_accumulation_steps), []
    in_half = torch.autocast(device.type, half, enabled=arguments.bf16 or arguments.fp16)
    for _ in range(_WARM_UP + _TIMED):
        start = now()
        for part in parts:
            with in_half:
                loss = model(input_ids=part, labels=part).loss
            loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()
        taken.append(now() - start)
    return median(taken[_WARM_UP:])
