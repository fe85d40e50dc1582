"""Measure cached generation: milliseconds per token against the length of the context.

Compares this package's Reformer in both scopes with transformers' Reformer and a full-attention
model of the same widths. Each run has a process of its own; the variants take turns within a
repeat, so that runs of the same repeat can be compared in pairs. Writes results.json, results.md
and a plot to the output folder, after every run, and goes on where it was interrupted.

`--profile` counts the operators of a decode step instead, and writes profile.md.
"""

import signal
import sys
from collections.abc import Iterator
from dataclasses import asdict
from functools import partial
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
from scripts.benchmarks.generation.arguments import BenchmarkArguments
from scripts.benchmarks.generation.plot import plot
from scripts.benchmarks.generation.profile import render_profile
from scripts.benchmarks.generation.report import Case, case_of, render
from scripts.benchmarks.generation.run import Run

CHILD = "scripts.benchmarks.generation.run"
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


def planned_runs(arguments: BenchmarkArguments) -> Iterator[Run]:
    """All runs in order: within a repeat by context, and at a context in turns that rotate."""
    for repeat in range(arguments.repeats):
        for context in arguments.contexts:
            cases = [Case(variant, context, 1) for variant in arguments.variants]
            if "band" in arguments.variants and context in arguments.batch_contexts:
                cases.append(Case("band", context, arguments.batch_size))
            turn = repeat % len(cases)
            for case in cases[turn:] + cases[:turn]:
                if arguments.allows(case):
                    yield arguments.run_of(case, repeat)


def run_child(run: Run, shape: ModelShape, timeout: float, profile: bool = False) -> dict:
    """Do a run in a process of its own.

    Args:
        run: what to measure.
        shape: the sizes.
        timeout: seconds.
        profile: profile it instead.

    Returns:
        What it measured, or an `error` that says how it ended.
    """
    request = {"run": asdict(run), "shape": asdict(shape), "profile": profile}
    return run_process(CHILD, request, timeout)


def summary(arguments: BenchmarkArguments, shape: ModelShape) -> str:
    """The setting in a sentence or two."""
    return (
        f"{shape.num_hidden_layers} layers (local, LSH in turn), hidden {shape.hidden_size}, "
        f"{shape.num_attention_heads} heads, feed-forward {shape.feed_forward_size}, "
        f"{shape.num_hashes} hashes, {shape.num_buckets} buckets (also in transformers' "
        f"Reformer), chunks of {shape.attn_chunk_length}, float32, random weights; "
        f"{arguments.repeats} repeats of up to {arguments.steps} steps. `band` prefills in blocks "
        f"of {arguments.prefill_tokens:,} tokens."
    )


def write_results(folder: Path, header: dict, runs: list[dict]) -> None:
    """Write all runs so far: JSON, tables and plot."""
    write_json(folder / "results.json", {**header, "runs": runs})
    (folder / "results.md").write_text(render(header, runs), encoding="utf-8")
    plot(runs, folder / "milliseconds_per_token.png")


def benchmark(
    arguments: BenchmarkArguments, shape: ModelShape, header: dict, runs: list[dict]
) -> None:
    """Do what is missing, and write the results after each run."""
    planned = []
    for run in planned_runs(arguments):
        case = Case(run.variant, run.context, run.batch)
        label = f"{case.variant} at {short(case.context)}, batch {case.batch}"
        attempt = partial(run_child, run, shape, arguments.timeout)
        notes = {"random_states": run.random_states}
        planned.append(Planned(case, run.repeat, label, attempt, notes))
    save = partial(write_results, Path(arguments.output_dir), header, runs)
    do_missing(planned, runs, case_of, arguments.attempts, arguments.max_waiting, save)


def write_profile(arguments: BenchmarkArguments, shape: ModelShape, header: dict) -> int:
    """Write profile.md; returns the exit status."""
    run = arguments.run_of(Case("band", arguments.contexts[0], 1), repeat=0)
    result = run_child(run, shape, arguments.timeout, profile=True)
    if "error" in result:
        print(f"The profile failed: {result['error']}", file=sys.stderr)
        return 1
    text = render_profile(header, run.context, result)
    (Path(arguments.output_dir) / "profile.md").write_text(text, encoding="utf-8")
    print(text)
    return 0


def main(argv: list[str] | None = None) -> int:
    """Run what is missing; ends with status 1 if a run failed or was disturbed."""
    kinds = [BenchmarkArguments, ModelShape]
    parser = HfArgumentParser(kinds, description=__doc__)  # type: ignore[arg-type]
    arguments, shape = parser.parse_args_into_dataclasses(argv)
    if problem := arguments.problem(shape):
        parser.error(problem)
    folder = Path(arguments.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    machine = machine_record() | {"torch_threads": arguments.num_threads}
    settings = settings_of(arguments, SETTINGS, shape, machine)
    header = {"machine": machine, "summary": summary(arguments, shape), "settings": settings}
    if arguments.profile:
        return write_profile(arguments, shape, header)
    try:
        runs = earlier_runs(folder / "results.json", settings)
    except ValueError as error:
        parser.error(str(error))
    benchmark(arguments, shape, header, runs)
    return conclude(folder, runs)


if __name__ == "__main__":
    # Ends by an exception, or the process of the present run would go on alone.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("Terminated"))
    sys.exit(main())
