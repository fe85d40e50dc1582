"""Peak memory of forward and backward against depth, of models with random weights."""

import os
from collections.abc import Mapping
from typing import Any

import torch
from transformers import set_seed

from reformer_hf import (
    ReformerHFConfig,
    ReformerHFForCausalLM,
    ReformerHFForConditionalGeneration,
)
from scripts.benchmarks.common.memory import RETURN_LARGE, PeakMemory
from scripts.benchmarks.common.processes import run_process
from scripts.benchmarks.common.tables import table
from scripts.studies.learning.peers import use_one_stream

REVERSIBLE, STORED, ONE_STREAM = "reversible", "stored", "one stream"
"""Activations rebuilt; the same model with all stored; the plain Transformer of its parts."""

VARIANTS: dict[str, dict[str, Any]] = {
    REVERSIBLE: {"reversible": True, "activation_budget": 0},
    STORED: {"reversible": False},
    ONE_STREAM: {"reversible": False},
}
"""What the configuration has for each; the budget would store the first layers of a small model."""

_RETURN_MORE = RETURN_LARGE | {"MALLOC_TRIM_THRESHOLD_": str(2**24)}  # the models are small


def measure_steps(
    variant: str, models: Mapping[str, Mapping[str, Any]], rows: int, length: int
) -> dict[str, Any]:
    """Measure two steps of each model, one behind the other in a process of its own.

    Args:
        variant: of `VARIANTS`.
        models: fields of the configurations, by name.
        rows: of random tokens.
        length: tokens of a row, and of a target.

    Returns:
        For each name `peak_bytes` of the process and `before_bytes`; or an `error`.
    """
    request = {"variant": variant, "models": models, "rows": rows, "length": length}
    module, environment = "scripts.studies.reproduce.memory", os.environ | _RETURN_MORE
    return run_process(module, request, timeout=1800, environment=environment)


def answer(request: dict) -> dict:
    """Do the measurements of a request; see `run_process`."""
    torch.set_num_threads(1)
    return {name: _measure(fields, request) for name, fields in request["models"].items()}


def _measure(fields: dict[str, Any], request: dict) -> dict[str, Any]:
    set_seed(0)
    config = ReformerHFConfig(**{**fields, **VARIANTS[request["variant"]]})
    is_pair = config.is_encoder_decoder
    model: Any = (ReformerHFForConditionalGeneration if is_pair else ReformerHFForCausalLM)(config)
    model.train()
    if request["variant"] == ONE_STREAM:
        use_one_stream(model)
    source, target = torch.randint(3, config.vocab_size, (2, request["rows"], request["length"]))
    memory = PeakMemory()
    with memory.phase("steps"):
        for _ in range(2):
            model(input_ids=source, labels=target).loss.backward()
            model.zero_grad()
    return memory.entries("steps")


def memory_section(measured: Mapping[str, Mapping[str, dict]]) -> list[str]:
    """A row for each variant, a column for each number of layers; nothing where there is none.

    Args:
        measured: by variant, what `measure_steps` returns.
    """
    if not measured:
        return []
    names = sorted({name for entries in measured.values() for name in entries}, key=int)
    rows = [
        [variant, *(megabytes(entries[name]) if name in entries else "" for name in names)]
        for variant, entries in measured.items()
    ]
    return [
        "Peak memory of forward and backward, MB, and (in brackets) above what the process held "
        "before, by layers:",
        "",
        *table(["activations", *names], rows),
    ]


def megabytes(entry: Mapping[str, int | None]) -> str:
    """The peak, MB, and in brackets above what the process held before."""
    peak, before = entry["peak_bytes"] or 0, entry["before_bytes"] or 0
    return f"{peak / 1e6:.0f} ({(peak - before) / 1e6:.0f})"


def draw_memory(axes: Any, measured: Mapping[str, Mapping[str, dict]]) -> None:
    """Draw the peaks against layers, a line for each variant."""
    for variant, entries in measured.items():
        points = sorted((int(n), (entry["peak_bytes"] or 0) / 1e6) for n, entry in entries.items())
        axes.plot(*zip(*points, strict=True), "o-", label=variant)
    axes.set(xlabel="layers", ylabel="MB", title="peak memory of forward and backward")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    if axes.lines:
        axes.legend()
