"""Measure sparse layers and quantised weights in decoding: milliseconds per token at batch 1.

Compares dense layers with Terraformer's sparse feed-forward, sparse QKV, both, and both with a
sparse output layer, with weights in float32, bfloat16 and int8, of the same shapes, and says how
many bytes of weights a token reads. Each run has a process of its own; the variants take turns
within a repeat, so that runs of the same repeat can be compared in pairs. Writes results.json and
results.md to the output folder after every run and a plot at the end, and goes on where it was
interrupted.
"""

import sys
from dataclasses import asdict

from scripts.benchmarks.common.arguments import make_parser
from scripts.benchmarks.common.processes import exit_when_terminated, run_process
from scripts.benchmarks.common.runs import benchmark_header, do_runs, plan_cases
from scripts.benchmarks.sparse.arguments import SHAPES, Case, SparseArguments
from scripts.benchmarks.sparse.report import plot, render

SETTINGS = ("context", "steps", "warmup", "max_waiting")
"""Arguments that must be equal for runs to be comparable."""


def run_child(case: Case, arguments: SparseArguments) -> dict:
    """Measure a case in a process of its own; see `run_process`."""
    request = {"case": case._asdict(), "arguments": asdict(arguments)}
    return run_process("scripts.benchmarks.sparse.run", request, arguments.timeout)


def main(argv: list[str] | None = None) -> int:
    """Run what is missing; ends with status 1 if a run failed or was disturbed."""
    parser = make_parser([SparseArguments], "benchmarks.sparse", __doc__)
    (arguments,) = parser.parse_args_into_dataclasses(argv)
    if problem := arguments.problem():
        parser.error(problem)
    summary = (
        f"Full attention, random weights, batch 1, {arguments.context} tokens before; "
        f"{arguments.steps} steps of a run."
    )
    header = benchmark_header(arguments, SETTINGS, SHAPES[arguments.shapes[0]], summary)
    del header["settings"]["shape"]  # each run has its own
    planned = plan_cases(
        arguments.cases(),
        arguments,
        lambda case: run_child(case, arguments),
        lambda case: {"sizes": asdict(SHAPES[case.shape])},
    )
    return do_runs(parser, arguments.output_dir, header, planned, render, plot)


if __name__ == "__main__":
    exit_when_terminated()
    sys.exit(main())
