"""What a run was and what it ran on, for its record and its model card."""

import json
import math
import os
import platform
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, TrainerCallback, TrainerState, TrainingArguments

from reformer_hf.training.callbacks import recorded_peak, recorded_seconds
from reformer_hf.training.costs import run_costs
from reformer_hf.training.optimizer_in_backward import in_backward_settings
from reformer_hf.training.optimizers import muon_settings
from reformer_hf.training.row_schedule import RowSchedule
from reformer_hf.training.storage import write_json

RUN_RECORD = "run_record.json"

_PACKAGES = ("reformer_hf", "torch", "transformers", "accelerate", "datasets", "tokenizers")

_HYPERPARAMETERS = (
    "learning_rate",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "world_size",
    "max_steps",
    "num_train_epochs",
    "optim",
    "lr_scheduler_type",
    "warmup_steps",
    "weight_decay",
    "max_grad_norm",
    "bf16",
    "fp16",
    "seed",
)
_NO_RESULT = (
    "runtime",
    "samples_per_second",
    "steps_per_second",
    "model_preparation_time",
    "epoch",
)


def describe_data(arguments: Any) -> dict[str, Any]:
    """Say in words which data a training script reads.

    Args:
        arguments: with the fields `dataset_name`, `dataset_config_name`, `train_file` and
            `validation_file` of transformers' example scripts.

    Returns:
        Arguments of :class:`RunRecord`. Files are named without their folders.
    """
    dataset, config = arguments.dataset_name, arguments.dataset_config_name
    if dataset is not None and Path(dataset).exists():
        dataset, description = None, f"the dataset {Path(dataset).absolute().name}"
    elif dataset is not None:
        description = f"the dataset {dataset}" + (f" ({config})" if config else "")
    else:
        description = _describe_files(arguments.train_file or "")
    file = arguments.validation_file
    held_out = "rows that are held out" if file is None else _describe_files(file)
    return {"data": description, "dataset": dataset, "evaluated_on": held_out}


def _describe_files(pattern: str) -> str:
    path = Path(pattern)
    kind = "files in" if path.is_dir() else "files" if "*" in pattern else "file"
    return f"the {kind} {path.name}"


def make_record(
    model: PreTrainedModel,
    data: Mapping[str, Any],
    training: Mapping[str, Any],
    hyperparameters: Mapping[str, Any],
    evaluation: Mapping[str, Any],
) -> dict[str, Any]:
    """Make what `run_record.json` holds.

    Args:
        model: that was trained.
        data: what :func:`describe_data` returns, and `kind` if they are not `texts`.
        training: `steps`, `epochs`, `timed_from_step`, `last_loss` and what :func:`run_costs` of
            `costs` returns.
        hyperparameters: by name; none of them may be a secret.
        evaluation: metrics of the model as it is saved; empty if there are none.

    Returns:
        JSON values.
    """
    description = {"description": data["data"], "kind": data.get("kind", "texts")}
    return {
        "model": _describe_model(model),
        "data": description | {name: data[name] for name in ("dataset", "evaluated_on")},
        "training": dict(training),
        "hyperparameters": {name: _plain(value) for name, value in hyperparameters.items()},
        "evaluation": _finite_numbers(evaluation),
        "machine": machine_record(),
    }


def with_schedule(
    hyperparameters: Mapping[str, Any], schedule: RowSchedule | None
) -> dict[str, Any]:
    """Put a schedule of rows in the place of the batch size, if there is one."""
    if schedule is None:
        return dict(hyperparameters)
    batch = "per_device_train_batch_size"
    rows = {name: v for name, v in schedule.record().items() if name != "max_steps"}
    return rows | {name: v for name, v in hyperparameters.items() if name != batch}


def add_to_record(folder: Path, parts: Mapping[str, Any]) -> None:
    """Add parts to the `run_record.json` of a folder, or replace them."""
    file = folder / RUN_RECORD
    write_json(file, json.loads(file.read_text(encoding="utf-8")) | dict(parts))


def _finite_numbers(metrics: Mapping[str, Any]) -> dict[str, float]:
    """The metrics that a card can show."""
    return {
        name: value
        for name, value in metrics.items()
        if isinstance(value, int | float) and math.isfinite(value)
    }


class RunRecord(TrainerCallback):
    """Writes `run_record.json` into `output_dir` when training ends and at each evaluation.

    `reformer_hf.hub.card` makes a card of it. It holds no token: only named arguments are read.

    Args:
        data: what was trained on, in words.
        dataset: its name on the Hub, if it is there.
        evaluated_on: what the evaluation was on, in words.
        kind: `texts` or `images`.
        row_schedule: of rows that grow; it takes the place of the batch size.
    """

    def __init__(
        self,
        data: str,
        dataset: str | None = None,
        evaluated_on: str = "the evaluation split",
        kind: str = "texts",
        row_schedule: RowSchedule | None = None,
    ):
        self.row_schedule = row_schedule
        self.data = {"data": data, "dataset": dataset, "evaluated_on": evaluated_on, "kind": kind}
        self._evaluation: dict[str, float] = {}
        self._evaluated_step: int | None = None
        self._start: tuple[int, float] | None = None

    def on_train_begin(self, args, state, control, **kwargs):
        self._start = (state.global_step, time.perf_counter())
        self._evaluated_step = None

    def on_train_end(self, args, state, control, model, **kwargs):
        if args.load_best_model_at_end:  # those weights may be older than the last evaluation
            self._evaluated_step = None
        self._write(args, state, model)

    def on_evaluate(self, args, state, control, model, metrics, **kwargs):
        results = {
            name: value
            for key, value in metrics.items()
            if not (name := key.removeprefix("eval_")).endswith(_NO_RESULT)
        }
        # Each of several evaluation sets comes by itself.
        is_same_model = self._evaluated_step == state.global_step
        self._evaluation = (self._evaluation if is_same_model else {}) | results
        self._evaluated_step = state.global_step
        self._write(args, state, model)

    def _write(self, args: TrainingArguments, state: TrainerState, model) -> None:
        if not state.global_step or not state.is_world_process_zero:
            return  # an evaluation alone is no run
        is_evaluated = self._evaluated_step == state.global_step
        record = make_record(
            model,
            self.data,
            self._describe_training(state),
            with_schedule(
                {name: getattr(args, name) for name in _HYPERPARAMETERS}, self.row_schedule
            )
            | muon_settings(args)
            | in_backward_settings(args),
            self._evaluation if is_evaluated else {},
        )
        write_json(Path(str(args.output_dir), RUN_RECORD), record)

    def _describe_training(self, state: TrainerState) -> dict:
        """Count steps and seconds; those before a resumption only where the log has them."""
        # A run that had come to its end when it was resumed does not train again.
        first_step, start = self._start or (state.global_step, time.perf_counter())
        logged = recorded_seconds(state)
        costs = run_costs(state.num_input_tokens_seen, **logged, peak_bytes=recorded_peak(state))
        losses = [entry["loss"] for entry in state.log_history if "loss" in entry]
        return {
            "steps": state.global_step,
            "epochs": round(state.epoch or 0.0, 4),
            **costs,
            "seconds": logged["seconds"] or round(time.perf_counter() - start, 3),
            "timed_from_step": 0 if logged["seconds"] else first_step,
            "last_loss": losses[-1] if losses else None,
        }


def _describe_model(model: Any) -> Mapping:
    if hasattr(model, "get_base_model"):  # of an adapter
        model = model.get_base_model()
    config = model.config
    layers = (
        [*config.encoder_attn_layers, *config.decoder_attn_layers]
        if config.is_encoder_decoder
        else list(config.attn_layers)
    )
    return {
        "architecture": type(model).__name__,
        "parameters": model.num_parameters(),
        "trained_parameters": model.num_parameters(only_trainable=True),
        "attention_scope": config.attention_scope,
        "attn_layers": layers,
        "hidden_size": config.hidden_size,
        "num_attention_heads": config.num_attention_heads,
        "num_hashes": config.num_hashes,
        "position_embedding_type": config.position_embedding_type,
        "positions": config.position_limit,
        "ngram_sizes": list(config.ngram_sizes),
        "started_from": _public_name(config._name_or_path),
    }


def _public_name(source: str | None) -> str | None:
    """Name of a checkpoint; of a folder only its last part, since paths are private."""
    if not source:
        return None
    return Path(source).absolute().name if Path(source).exists() else source


def _plain(value):
    return (
        value
        if isinstance(value, int | float | bool | None)
        else str(getattr(value, "value", value))
    )


def machine_record() -> dict:
    """Describe the date, the machine and the versions of what matters."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "platform": platform.platform(),
        "processor": _processor(),
        "cpu_count": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "versions": {"python": platform.python_version()} | {p: _version(p) for p in _PACKAGES},
    }


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


@cache  # it reads a file, and each checkpoint has a record
def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
