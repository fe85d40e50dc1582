"""Measure cached generation: milliseconds per token against the length of the context.

Compares this package's Reformer in both scopes with transformers' Reformer and a full-attention
model of the same widths. Each run has a process of its own; the variants take turns within a
repeat, so that runs of the same repeat can be compared in pairs. Writes results.json and results.md
to the output folder after every run and a plot at the end, and goes on where it was interrupted.

`--profile` counts the operators of a decode step instead, and writes profile.md.
"""

import sys
from dataclasses import asdict
from pathlib import Path

from scripts.benchmarks.common.arguments import make_parser
from scripts.benchmarks.common.peers import ModelShape
from scripts.benchmarks.common.processes import exit_when_terminated, run_process
from scripts.benchmarks.common.runs import benchmark_header, do_runs, plan_cases
from scripts.benchmarks.generation.arguments import GenerationArguments
from scripts.benchmarks.generation.profile import render_profile
from scripts.benchmarks.generation.report import Case, plot, render

SETTINGS = (
    "steps",
    "warmup",
    "max_seconds_per_run",
    "max_prefill",
    "prefill_tokens",
    "num_threads",
    "max_waiting",
)
"""Arguments that must be equal for runs to be comparable."""


def run_child(case: Case, arguments: GenerationArguments, shape: ModelShape) -> dict:
    """Measure a case in a process of its own, or profile it; see `run_process`."""
    request = {"case": case._asdict(), "arguments": asdict(arguments), "shape": asdict(shape)}
    return run_process("scripts.benchmarks.generation.run", request, arguments.timeout)


def write_profile(arguments: GenerationArguments, shape: ModelShape, header: dict) -> int:
    """Write profile.md; returns the exit status."""
    case = Case("band", arguments.contexts[0], 1)
    result = run_child(case, arguments, shape)
    if "error" in result:
        print(f"The profile failed: {result['error']}", file=sys.stderr)
        return 1
    text, folder = render_profile(header, case.context, result), Path(arguments.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "profile.md").write_text(text, encoding="utf-8")
    print(text)
    return 0


def main(argv: list[str] | None = None) -> int:
    """Run what is missing; ends with status 1 if a run failed or was disturbed."""
    parser = make_parser([GenerationArguments, ModelShape], "benchmarks.generation", __doc__)
    arguments, shape = parser.parse_args_into_dataclasses(argv)
    if problem := arguments.problem(shape):
        parser.error(problem)
    summary = (
        f"{shape}, float32, random weights; {arguments.repeats} repeats of up to {arguments.steps} "
        f"steps. `band` prefills in blocks of {arguments.prefill_tokens:,} tokens."
    )
    header = benchmark_header(arguments, SETTINGS, shape, summary)
    if arguments.profile:
        return write_profile(arguments, shape, header)
    planned = plan_cases(
        arguments.cases(),
        arguments,
        lambda case: run_child(case, arguments, shape),
        lambda case: {"random_states": arguments.needs_random_states(case)},
    )
    return do_runs(parser, arguments.output_dir, header, planned, render, plot)


if __name__ == "__main__":
    exit_when_terminated()
    sys.exit(main())
