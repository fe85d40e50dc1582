"""One training of the study, in a process of its own, and what its output folder says of it.

It has one thread, and its seconds are those of its processor: other processes on the machine change
them little (by 8 % where a second training ran beside it).
"""

import json
import math
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import Trainer

from reformer_hf.training import fitting_steps
from reformer_hf.training.arguments import (
    DataTrainingArguments,
    PretrainedModelArguments,
    ReformerTrainingArguments,
)
from reformer_hf.training.callbacks import Clock, TellPace
from reformer_hf.training.parsing import parse_arguments
from reformer_hf.training.record import RUN_RECORD
from reformer_hf.training.storage import write_json
from reformer_hf.training.tasks.language_model import Task, train_clm
from scripts.benchmarks.common.processes import run_process
from scripts.studies.learning.peers import PEERS

MODULE = "scripts.studies.learning.training"
BITS = "eval_bits_per_byte"


class ProcessorClock(Clock):
    """A clock whose seconds of steps are the processor's."""

    def now(self) -> float:
        """Of the processor."""
        return time.process_time()


class StepClock(ProcessorClock):
    """A clock on which only the processor's time in steps counts, and which asks for evaluations.

    Args:
        max_minutes: limit on the seconds of steps; None for no limit.
        evaluations: how many there are in this time, or else in all steps; the last at the end.
    """

    def __init__(self, max_minutes: float | None, evaluations: int):
        super().__init__(max_minutes)
        self._evaluations, self._done = evaluations, 0

    def on_step_end(self, args, state, control, **kwargs):
        super().on_step_end(args, state, control, **kwargs)
        control.should_save = control.should_evaluate = False  # one of each at the end
        is_timed = math.isfinite(self.max_seconds)
        seconds = self.step_seconds / self.max_seconds
        share = seconds if is_timed else state.global_step / state.max_steps
        if self._done < (done := int(share * self._evaluations)):
            control.should_evaluate = done < self._evaluations and not control.should_training_stop
            self._done = done

    def _tick(self) -> None:
        self.seconds = self.step_seconds


def train_once(
    folder: Path,
    settings: Mapping[str, Any],
    timeout: float,
    peer: str | None = None,
    evaluations: int = 1,
) -> dict[str, Any]:
    """Train in a process of its own, unless the folder holds the finished run.

    Args:
        folder: for the run; its settings file stands beside it. What an interrupted run or one with
            other settings left there is deleted.
        settings: arguments of `train_clm.py` but `output_dir`.
        timeout: seconds.
        peer: one of `PEERS` in place of this package's model.
        evaluations: in `max_minutes`, or else in `max_steps`.

    Returns:
        What :func:`read_results` returns, or an `error`.
    """
    file = folder.parent / f"{folder.name}.json"
    settings = {**settings, "output_dir": str(folder.absolute())}
    is_same = file.exists() and json.loads(file.read_text(encoding="utf-8")) == settings
    if not (is_same and is_finished(folder)):
        if file.exists():
            shutil.rmtree(folder, ignore_errors=True)
        folder.parent.mkdir(parents=True, exist_ok=True)
        write_json(file, settings)
        request = {"settings": str(file.absolute()), "peer": peer, "evaluations": evaluations}
        result = run_process(MODULE, request, timeout)
        if "error" in result:
            return result
    return read_results(folder)


def is_finished(folder: Path) -> bool:
    """Whether a run has written all its files, of which the state is the last."""
    return all((folder / name).exists() for name in ("all_results.json", "trainer_state.json"))


def read_results(folder: Path) -> dict[str, Any]:
    """What the output folder of a finished run says.

    Returns:
        JSON values: `date`, `parameters`, `steps`, `max_steps`, `tokens`, `seconds` of steps,
        `peak_memory_bytes`, `bits_per_byte`, `bytes_scored`, `curve`: seconds and bits per byte of
        each evaluation, and `curve_steps`: of the same. Seconds are the processor's.
    """
    record, results, state = (
        json.loads((folder / name).read_text(encoding="utf-8"))
        for name in (RUN_RECORD, "all_results.json", "trainer_state.json")
    )
    evaluations = [entry for entry in state["log_history"] if BITS in entry]
    curve = {entry["step"]: (entry["step_seconds"], entry[BITS]) for entry in evaluations}
    return {
        "date": record["machine"]["date"],
        "parameters": record["model"]["parameters"],
        "steps": state["global_step"],
        "max_steps": state["max_steps"],
        "tokens": results["train_tokens"],
        "seconds": results["train_step_seconds"],
        "peak_memory_bytes": results["train_peak_memory_bytes"],
        "bits_per_byte": results[BITS],
        "bytes_scored": results["eval_bytes"],
        "curve": list(curve.values()),
        "curve_steps": list(curve),
    }


def answer(request: dict) -> dict:
    """Do the run of a request; see `run_process`."""
    torch.set_num_threads(1)
    fitting_steps.now = time.process_time
    fitting_steps.PLANNED_SHARE = 0.85  # as in all recorded runs
    kinds = (PretrainedModelArguments, DataTrainingArguments, ReformerTrainingArguments)
    model, data, training = parse_arguments(kinds, [request["settings"]])
    peer = request["peer"]
    task = None if peer is None else Task(model_class=PEERS[peer])

    def prepare(trainer: Trainer) -> None:
        for kind in (Clock, TellPace):
            trainer.remove_callback(kind)
        trainer.add_callback(StepClock(training.max_minutes, request["evaluations"]))

    train_clm(model, data, training, task=task, prepare=prepare)
    return {}
