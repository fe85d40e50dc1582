"""Measure training: seconds per step and peak memory against the length of a row.

Compares this package's Reformer in both scopes with transformers' Reformer, reformer-pytorch and a
full-attention model of the same widths, and with the matrix products of such a step alone. Each run
has a process of its own; the variants take turns within a repeat, so that runs of the same repeat
can be compared in pairs. Also measures memory against depth, and profiles our own step by stage.
Writes results.json, results.md and plots to the output folder, and goes on where it stopped.
"""

import signal
import sys
from dataclasses import asdict, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path

from transformers import HfArgumentParser

from reformer_hf.training.machine import machine_record
from reformer_hf.training.storage import write_json
from scripts.benchmarks.common.peers import ModelShape
from scripts.benchmarks.common.processes import (
    Planned,
    conclude,
    do_missing,
    earlier_runs,
    run_process,
    settings_of,
)
from scripts.benchmarks.common.tables import short
from scripts.benchmarks.training.arguments import ALLOCATORS, TrainingBenchmarkArguments
from scripts.benchmarks.training.plot import plot_all
from scripts.benchmarks.training.report import TrainingCase, case_of
from scripts.benchmarks.training.run import TrainingRun
from scripts.benchmarks.training.targets import render

CHILD = "scripts.benchmarks.training.run"
SETTINGS = (
    "tokens_per_batch",
    "steps",
    "warmup",
    "max_seconds_per_run",
    "num_threads",
    "max_waiting",
    "allocator",
)
"""Arguments that must be equal for runs to be comparable."""
ALLOCATOR_NOTES = {
    "default": "glibc's allocator (or this system's) as users have it",
    "keep_pages": "glibc keeps freed memory, for all variants ("
    + ", ".join(f"{name}={value}" for name, value in ALLOCATORS["keep_pages"].items())
    + ")",
    "return_large": "glibc gives large tensors' memory back at once, for all variants ("
    + ", ".join(f"{name}={value}" for name, value in ALLOCATORS["return_large"].items())
    + ")",
}


def run_child(run: TrainingRun, shape: ModelShape, arguments: TrainingBenchmarkArguments) -> dict:
    """Do a run in a process of its own; see `run_process`."""
    request = {"run": asdict(run), "shape": asdict(shape)}
    return run_process(CHILD, request, arguments.timeout, arguments.environment())


def summary(arguments: TrainingBenchmarkArguments, shape: ModelShape) -> str:
    """The setting in some sentences."""
    text = (
        f"{shape.num_hidden_layers} layers (local, LSH in turn), hidden {shape.hidden_size}, "
        f"{shape.num_attention_heads} heads, feed-forward {shape.feed_forward_size}, "
        f"{shape.num_hashes} hashes, {shape.num_buckets} buckets (also in transformers' "
        f"Reformer), chunks of {shape.attn_chunk_length}, vocabulary {shape.vocab_size}, no "
        f"dropout, random weights and tokens; batches of {arguments.tokens_per_batch:,} tokens, or "
        "of one longer row; bfloat16 is autocast. Up to "
        f"{arguments.repeats} repeats of up to {arguments.steps} steps, of which a run's time is "
        f"the median. Allocator: {ALLOCATOR_NOTES[arguments.allocator]}."
    )
    if "lucid" in arguments.variants:
        text += (
            f" reformer-pytorch {version('reformer-pytorch')} has no local layers: all of its are "
            "LSH, with as many buckets as chunks, and it does not split its feed-forward."
        )
    return text


def write_results(folder: Path, header: dict, runs: list[dict]) -> None:
    """Write all runs so far: JSON and tables."""
    write_json(folder / "results.json", {**header, "runs": runs})
    (folder / "results.md").write_text(render(header, runs), encoding="utf-8")


def planned_runs(arguments: TrainingBenchmarkArguments, shape: ModelShape) -> list[Planned]:
    """All runs, in order."""
    planned: list[Planned] = []
    for repeat in range(arguments.repeats):
        for case in arguments.cases(repeat, shape):
            run = arguments.run_of(case)
            its_shape = replace(shape, num_hidden_layers=case.layers)
            attempt = partial(run_child, run, its_shape, arguments)
            planned.append(Planned(case, repeat, label_of(case), attempt, {"rows": run.rows}))
    return planned


def label_of(case: TrainingCase) -> str:
    """A case in the progress bar."""
    return f"{case.variant} at {short(case.length)}, {case.dtype}, {case.mode}"


def main(argv: list[str] | None = None) -> int:
    """Run what is missing; ends with status 1 if a run failed or was disturbed."""
    kinds = [TrainingBenchmarkArguments, ModelShape]
    parser = HfArgumentParser(kinds, description=__doc__)  # type: ignore[arg-type]
    arguments, shape = parser.parse_args_into_dataclasses(argv)
    if message := arguments.leave_out_missing():
        print(message)
    if problem := arguments.problem(shape):
        parser.error(problem)
    folder = Path(arguments.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    machine = machine_record() | {"torch_threads": arguments.num_threads}
    settings = settings_of(arguments, SETTINGS, shape, machine)
    header = {"machine": machine, "summary": summary(arguments, shape), "settings": settings}
    try:
        runs = earlier_runs(folder / "results.json", settings)
    except ValueError as error:
        parser.error(str(error))
    planned = planned_runs(arguments, shape)
    save = partial(write_results, folder, header, runs)
    do_missing(planned, runs, case_of, arguments.attempts, arguments.max_waiting, save)
    save()
    plot_all(runs, shape.num_hidden_layers, arguments.tokens_per_batch, folder)
    return conclude(folder, runs)


if __name__ == "__main__":
    # Ends by an exception, or the process of the present run would go on alone.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("Terminated"))
    sys.exit(main())
