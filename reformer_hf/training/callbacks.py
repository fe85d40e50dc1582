"""Callbacks of the Trainer: the clock, signals to stop, the check that the loss is a number."""

import math
import time
from typing import Any

import torch.distributed as dist
from transformers import TrainerCallback, TrainerState

from reformer_hf.training.memory import peak_memory_bytes
from reformer_hf.training.pace import Pace
from reformer_hf.training.processes import StopSignals


class Clock(TrainerCallback):
    """Measures training, resumed runs included, and stops it when its time is up, if it is limited.

    Each entry of the log gets `seconds` (all of training, with evaluations and checkpoints),
    `step_seconds` (forward, backward and optimiser alone) and `peak_memory_bytes` (the largest of a
    process of this run so far), so they are in the checkpoints.

    Args:
        max_minutes: limit on `seconds`; None for no limit.
    """

    def __init__(self, max_minutes: float | None = None):
        self.max_seconds = math.inf if max_minutes is None else 60 * max_minutes
        self.seconds = self.step_seconds = 0.0
        self._last = self._step_start = 0.0

    def is_up(self, state: TrainerState) -> bool:
        """Say whether a run in this state has used its time."""
        return recorded_seconds(state)["seconds"] >= self.max_seconds

    def on_train_begin(self, args, state, control, **kwargs):
        recorded = recorded_seconds(state)
        self.seconds, self.step_seconds = recorded["seconds"], recorded["step_seconds"]
        self._last = time.perf_counter()

    def on_step_begin(self, args, state, control, **kwargs):
        self._step_start = self.now()

    def on_step_end(self, args, state, control, **kwargs):
        self.step_seconds += self.now() - self._step_start
        self._tick()
        if self._is_up_anywhere() and state.global_step < state.max_steps:
            control.should_log = control.should_evaluate = control.should_save = True
            control.should_training_stop = True

    def _is_up_anywhere(self) -> bool:
        """Let all processes, whose clocks differ, end with the same step."""
        is_up = self.seconds >= self.max_seconds
        if math.isinf(self.max_seconds) or not (dist.is_available() and dist.is_initialized()):
            return is_up
        found = [is_up] * dist.get_world_size()
        dist.all_gather_object(found, is_up)
        return any(found)

    def on_log(self, args, state, control, **kwargs):
        self._tick()
        state.log_history[-1].update(
            seconds=round(self.seconds, 3),
            step_seconds=round(self.step_seconds, 3),
            peak_memory_bytes=max(peak_memory_bytes() or 0, recorded_peak(state)),
        )

    def now(self) -> float:
        """The seconds of which `step_seconds` are made."""
        return time.perf_counter()

    def _tick(self) -> None:
        now = time.perf_counter()
        self.seconds, self._last = self.seconds + now - self._last, now


def recorded_seconds(state: TrainerState) -> dict[str, float]:
    """Read the clock of a state, 0 for a run that has logged nothing."""
    entries = [entry for entry in state.log_history if "step_seconds" in entry]
    last = entries[-1] if entries else {}
    return {name: last.get(name, 0.0) for name in ("seconds", "step_seconds")}


def recorded_peak(state: TrainerState) -> int:
    """Read the largest resident memory, bytes, that the log of a state knows of; 0 if of none."""
    entries = [entry for entry in state.log_history if "peak_memory_bytes" in entry]
    return int(entries[-1]["peak_memory_bytes"]) if entries else 0


class TellPace(TrainerCallback):
    """Says once, after the first steps, how long the others will take.

    Args:
        clock: that may stop the run; it comes before this callback.
        pace: of the run.
    """

    def __init__(self, clock: Clock, pace: Pace | None = None):
        self.clock, self.pace, self._tokens = clock, pace or Pace(), 0

    def on_train_begin(self, args, state, control, **kwargs):
        self._tokens = state.num_input_tokens_seen
        if not state.is_world_process_zero:
            self.pace.tell = None
        self.pace.begin()

    def on_step_end(self, args, state, control, **kwargs):
        tokens = state.num_input_tokens_seen - self._tokens
        self._tokens += tokens
        left = self.clock.max_seconds - self.clock.seconds
        self.pace.end_step(tokens, state.global_step, state.max_steps, left)


class StopOnSignal(TrainerCallback):
    """Saves a checkpoint after the step in which a signal came, and stops.

    Args:
        signals: that are caught while training.
        accelerator: of the Trainer.
    """

    def __init__(self, signals: StopSignals, accelerator: Any):
        self.signals, self.accelerator, self.stopped = signals, accelerator, False

    def on_step_end(self, args, state, control, **kwargs):
        if not self.stopped and self.signals.agreed(self.accelerator):
            self.stopped = True
            # The log too, or the next entry would be the mean of too few losses.
            control.should_log = control.should_save = control.should_training_stop = True


class StopOnDivergence(TrainerCallback):
    """Ends a run whose loss is no longer a finite number."""

    def on_log(self, args, state, control, logs, **kwargs):
        for name in ("loss", "eval_loss"):
            if name in logs and not math.isfinite(logs[name]):
                raise FloatingPointError(
                    f"{name} is {logs[name]} at step {state.global_step}: training diverged. "
                    f"Start anew with a lower learning_rate (now {args.learning_rate})"
                )
