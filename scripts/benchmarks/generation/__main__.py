"""Measure cached generation: milliseconds per token against the length of the context.

Compares this package's Reformer in both scopes with transformers' Reformer and a full-attention
model of the same widths. Each run has a process of its own; the variants take turns within a
repeat, so that runs of the same repeat can be compared in pairs. Writes results.json and results.md
to the output folder after every run and a plot at the end, and goes on where it was interrupted.

`--profile` counts the operators of a decode step instead, and writes profile.md.
"""

import sys
from dataclasses import asdict
from functools import partial
from pathlib import Path

from scripts.benchmarks.common.arguments import make_parser
from scripts.benchmarks.common.peers import ModelShape
from scripts.benchmarks.common.processes import exit_when_terminated, run_process
from scripts.benchmarks.common.runs import Planned, Record, benchmark_header, least_disturbed
from scripts.benchmarks.common.tables import short
from scripts.benchmarks.generation.arguments import GenerationArguments
from scripts.benchmarks.generation.plot import plot
from scripts.benchmarks.generation.profile import render_profile
from scripts.benchmarks.generation.report import Case, render

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


def plan(arguments: GenerationArguments, shape: ModelShape) -> list[Planned]:
    """All runs, in order."""
    planned = []
    for case, repeat in arguments.cases():
        attempt = partial(run_child, case, arguments, shape)
        attempt = partial(least_disturbed, attempt, arguments.attempts, arguments.max_waiting)
        label = f"{case.variant} at {short(case.context)}, batch {case.batch}"
        identity = {**case._asdict(), "repeat": repeat}
        notes = {"random_states": arguments.needs_random_states(case)}
        planned.append(Planned(identity, label, attempt, notes))
    return planned


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
    try:
        record = Record(Path(arguments.output_dir), header, render, plot)
    except ValueError as error:
        parser.error(str(error))
    record.do_missing(plan(arguments, shape))
    return record.conclude()


if __name__ == "__main__":
    exit_when_terminated()
    sys.exit(main())
