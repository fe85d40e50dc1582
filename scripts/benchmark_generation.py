"""Measure cached generation: milliseconds per token against the length of the context.

Compares this package's Reformer in both scopes with transformers' Reformer and a full-attention
model of the same widths. Each run has a process of its own; the variants take turns within a
repeat, so that runs of the same repeat can be compared in pairs. Writes results.json, results.md
and a plot to the output folder, after every run, and goes on where it was interrupted.

`--profile` counts the operators of a decode step instead, and writes profile.md.
"""

import hashlib
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from tqdm import tqdm
from transformers import HfArgumentParser

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import reformer_hf
from reformer_hf.training.machine import machine_record
from reformer_hf.training.storage import write_json
from scripts.benchmark_arguments import BenchmarkArguments
from scripts.benchmark_peers import ModelShape
from scripts.benchmark_plot import plot
from scripts.benchmark_profile import render_profile
from scripts.benchmark_report import Case, case_of, counts, render, short
from scripts.benchmark_run import Run

CHILD = Path(__file__).with_name("benchmark_run.py")


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
    try:
        child = subprocess.run(
            [sys.executable, str(CHILD)],
            input=json.dumps(request),
            capture_output=True,
            text=True,
            timeout=timeout,
        )
    except subprocess.TimeoutExpired:
        return {"error": f"given up after {timeout:.0f} seconds"}
    if child.returncode == 0:
        return json.loads(child.stdout.splitlines()[-1])
    if child.returncode < 0:
        return {"error": f"killed by signal {-child.returncode}"}
    last_words = child.stderr.strip().splitlines()[-1:] or ["no message"]
    return {"error": last_words[0]}


def source_digest() -> str:
    """Digest of the package's source: runs of different code must not be mixed."""
    package = Path(reformer_hf.__file__).parent
    digest = hashlib.sha256()
    for file in sorted(package.rglob("*.py")):
        digest.update(file.relative_to(package).as_posix().encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()[:16]


def settings_of(arguments: BenchmarkArguments, shape: ModelShape, machine: dict) -> dict:
    """All that must be equal for runs to be comparable."""
    names = ("steps", "warmup", "max_seconds_per_run", "max_prefill", "prefill_tokens")
    return {
        "shape": asdict(shape),
        **{name: getattr(arguments, name) for name in names},
        "num_threads": arguments.num_threads,
        "processor": machine["processor"],
        "versions": machine["versions"],
        "max_waiting": arguments.max_waiting,
        "source": source_digest(),
    }


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


def earlier_runs(path: Path, settings: dict) -> list[dict]:
    """The runs of an earlier call; those that failed or were disturbed are tried again.

    Raises:
        ValueError: if they were made with other settings, or with other code.
    """
    if not path.exists():
        return []
    earlier = json.loads(path.read_text(encoding="utf-8"))
    if earlier["settings"] != settings:
        changed = [name for name in settings if earlier["settings"].get(name) != settings[name]]
        raise ValueError(f"{path} has runs with other {changed}: choose another output_dir")
    return [run for run in earlier["runs"] if counts(run)]


def write_results(folder: Path, header: dict, runs: list[dict]) -> None:
    """Write all runs so far: JSON, tables and plot."""
    write_json(folder / "results.json", {**header, "runs": runs})
    (folder / "results.md").write_text(render(header, runs), encoding="utf-8")
    plot(runs, folder / "milliseconds_per_token.png")


def run_quietly(run: Run, shape: ModelShape, arguments: BenchmarkArguments) -> dict:
    """Do a run, again where other processes disturbed it; the least disturbed attempt counts.

    How long threads waited for a core decides, never the times that were measured.

    Returns:
        What was measured, `attempts`, and whether even the best attempt was `disturbed`; or an
        `error`.
    """
    results: list[dict] = []
    for _ in range(arguments.attempts):
        result = run_child(run, shape, arguments.timeout)
        if "error" in result:
            return result
        results.append(result)
        if (result["waiting"] or 0.0) <= arguments.max_waiting:
            break
    best = min(results, key=lambda result: result["waiting"] or 0.0)
    disturbed = (best["waiting"] or 0.0) > arguments.max_waiting
    return best | {"attempts": len(results), "disturbed": disturbed}


def benchmark(
    arguments: BenchmarkArguments, shape: ModelShape, header: dict, runs: list[dict]
) -> None:
    """Do what is missing; a case that has failed is not repeated in this call."""
    folder = Path(arguments.output_dir)
    done = {(case_of(run), run["repeat"]) for run in runs}
    planned = [(Case(run.variant, run.context, run.batch), run) for run in planned_runs(arguments)]
    missing = [(case, run) for case, run in planned if (case, run.repeat) not in done]
    failed: set[Case] = set()
    progress = tqdm(missing, unit="run")
    for case, run in progress:
        if case in failed:
            continue
        progress.set_postfix_str(f"{case.variant} at {short(case.context)}, batch {case.batch}")
        result = run_quietly(run, shape, arguments)
        if "error" in result:
            failed.add(case)
        record = {**case._asdict(), "repeat": run.repeat, "random_states": run.random_states}
        runs.append(record | result)
        write_results(folder, header, runs)


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
    settings = settings_of(arguments, shape, machine)
    header = {"machine": machine, "summary": summary(arguments, shape), "settings": settings}
    if arguments.profile:
        return write_profile(arguments, shape, header)
    try:
        runs = earlier_runs(folder / "results.json", settings)
    except ValueError as error:
        parser.error(str(error))
    if runs:
        print(f"Going on after {len(runs)} finished runs")
    benchmark(arguments, shape, header, runs)
    print((folder / "results.md").read_text(encoding="utf-8"))
    return int(not all(map(counts, runs)))


if __name__ == "__main__":
    # Ends by an exception, or the process of the present run would go on alone.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("Terminated"))
    sys.exit(main())
