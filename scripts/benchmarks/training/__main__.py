"""Measure training: seconds per step and peak memory against the length of a row.

Compares this package's Reformer in both scopes with transformers' Reformer, reformer-pytorch and a
full-attention model of the same widths, and with the matrix products of such a step alone. Each run
has a process of its own; the variants take turns within a repeat, so that runs of the same repeat
can be compared in pairs. Also profiles our own step by stage.
Writes results.json, results.md and plots to the output folder, and goes on where it stopped.
"""

import sys
from dataclasses import asdict
from functools import partial
from importlib.metadata import version

from scripts.benchmarks.common.arguments import make_parser
from scripts.benchmarks.common.peers import ModelShape
from scripts.benchmarks.common.processes import exit_when_terminated, run_process
from scripts.benchmarks.common.runs import benchmark_header, do_runs, plan_cases
from scripts.benchmarks.training.arguments import (
    TrainingBenchmarkArguments,
    allocator_environment,
    allocator_settings,
)
from scripts.benchmarks.training.plot import plot_all
from scripts.benchmarks.training.report import TrainingCase
from scripts.benchmarks.training.targets import render

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
    "keep_pages": "glibc keeps freed memory, for all variants",
    "return_large": "glibc gives large tensors' memory back at once, for all variants",
    "scripts": "as the training scripts set it, for all variants",
}


def run_child(case: TrainingCase, arguments: TrainingBenchmarkArguments, shape: ModelShape) -> dict:
    """Measure a case in a process of its own; see `run_process`."""
    request = {"case": case._asdict(), "arguments": asdict(arguments), "shape": asdict(shape)}
    module = "scripts.benchmarks.training.run"
    environment = allocator_environment(arguments.allocator, case.layers)
    return run_process(module, request, arguments.timeout, environment)


def summary(arguments: TrainingBenchmarkArguments, shape: ModelShape) -> str:
    """The setting in some sentences."""
    allocator = ALLOCATOR_NOTES[arguments.allocator]
    if variables := allocator_settings(arguments.allocator, shape.num_hidden_layers):
        allocator += f" ({', '.join(f'{name}={value}' for name, value in variables.items())})"
    text = (
        f"{shape}, vocabulary {shape.vocab_size}, no dropout, random weights and tokens; batches "
        f"of {arguments.tokens_per_batch:,} tokens, or of one longer row; bfloat16 is autocast. Up "
        f"to {arguments.repeats} repeats of up to {arguments.steps} steps, of which a run's time "
        f"is the median. Allocator: {allocator}."
    )
    if "lucid" in arguments.variants:
        text += (
            f" reformer-pytorch {version('reformer-pytorch')} has no local layers: all of its are "
            "LSH, with as many buckets as chunks, and it does not split its feed-forward."
        )
    return text


def main(argv: list[str] | None = None) -> int:
    """Run what is missing; ends with status 1 if a run failed or was disturbed."""
    parser = make_parser([TrainingBenchmarkArguments, ModelShape], "benchmarks.training", __doc__)
    arguments, shape = parser.parse_args_into_dataclasses(argv)
    if message := arguments.leave_out_missing():
        print(message)
    if problem := arguments.problem(shape):
        parser.error(problem)
    header = benchmark_header(arguments, SETTINGS, shape, summary(arguments, shape))
    repeats = range(arguments.repeats)
    planned = plan_cases(
        ((case, repeat) for repeat in repeats for case in arguments.cases(repeat, shape)),
        arguments,
        lambda case: run_child(case, arguments, shape),
        lambda case: {"rows": arguments.rows_of(case)},
    )
    plot = partial(plot_all, shape.num_hidden_layers, arguments.tokens_per_batch)
    return do_runs(parser, arguments.output_dir, header, planned, render, plot)


if __name__ == "__main__":
    exit_when_terminated()
    sys.exit(main())
