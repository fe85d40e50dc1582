"""Measure training steps on rows over one and several processes of this machine.

Each run has processes of its own, with one thread each. Writes results.json and results.md to the
output folder after every run, and goes on where it was interrupted.
"""

import sys
from dataclasses import asdict, dataclass

from reformer_hf.training.arguments import argument
from scripts.benchmarks.common.arguments import make_parser
from scripts.benchmarks.common.cores import usable_cores
from scripts.benchmarks.common.processes import exit_when_terminated, run_process
from scripts.benchmarks.common.runs import Planned, benchmark_header, do_runs
from scripts.benchmarks.common.tables import counts, describe_machine, short, table
from scripts.benchmarks.sequence_parallel.run import Case, tail_bytes

SETTINGS = ("steps",)
"""Arguments that must be equal for runs to be comparable."""
BANDWIDTHS = {"1.25 GB/s": 1.25e9, "25 GB/s": 25e9}
"""Between neighbours: Ethernet of 10 Gbit/s, InfiniBand of 200 Gbit/s."""
MODELLED_LENGTH = 100_000_000
MODELLED_PROCESSES = (8, 64, 256, 1024)


@dataclass(frozen=True)
class Shape:
    """Sizes of the model."""

    num_hidden_layers: int = argument(4, "Layers: local, LSH in turn.")
    hidden_size: int = argument(256, "Width of a stream.")
    num_attention_heads: int = argument(4, "Heads.")
    feed_forward_size: int = argument(512, "Width inside feed-forward.")
    num_hashes: int = argument(2, "Rounds.")
    hash_length: int = argument(2048, "Tokens at which a bucket fills its window.")


@dataclass
class SequenceParallelArguments:
    """What is measured."""

    output_dir: str = argument("outputs/benchmark_sequence_parallel", "Output folder.")
    lengths: list[int] = argument([16384, 32768], "Tokens of a row.")
    processes: list[int] = argument([1, 2, 4], "Processes that hold it.")
    steps: int = argument(1, "Measured steps of a run, after one that warms up.")
    timeout: float = argument(600.0, "Seconds after which a run is given up as failed.")
    smoke: bool = argument(False, "A tiny model, to see that everything runs.")

    num_threads = 1  # of each process

    def problem(self) -> str | None:
        """What is wrong with the arguments, or None."""
        for name in ("lengths", "processes", "steps"):
            value = getattr(self, name)
            if not value or min([value] if isinstance(value, int) else value) < 1:
                return f"{name}={value} must be at least 1"
        return None


def run_child(case: Case, arguments: SequenceParallelArguments, shape: Shape) -> dict:
    """Measure a case in processes of its own; see `run_process`."""
    request = {"case": case._asdict(), "steps": arguments.steps, "shape": asdict(shape)}
    return run_process("scripts.benchmarks.sequence_parallel.run", request, arguments.timeout)


def render(header: dict, runs: list[dict]) -> str:
    """The table of all runs, and what follows from them for many processes."""
    done = {Case(run["processes"], run["length"]): run for run in runs if counts(run)}
    rows = [
        [
            short(case.length),
            str(case.processes),
            f"{run['seconds_fastest_step']:.2f}",
            f"{((run['peak_bytes'] or 0) - (run['before_bytes'] or 0)) / 1e6:,.0f}",
            f"{run['received_bytes'] / 1e6:,.1f}",
            f"{run['waiting']:.2f}",
        ]
        for case, run in sorted(done.items(), key=lambda item: (item[0].length, item[0].processes))
    ]
    columns = ["row", "processes", "step, s", "memory of the step, MB", "received, MB", "waiting"]
    lines = ["# Rows over several processes", "", describe_machine(header), ""]
    lines += table(columns, rows)
    alone = [case for case in done if case.processes == 1]
    if alone:
        longest = max(alone, key=lambda case: case.length)
        lines += model(header["settings"]["shape"], longest, done[longest])
    lines += [
        f"- {run['processes']} processes failed: {run['error']}" for run in runs if "error" in run
    ]
    return "\n".join(lines).rstrip() + "\n"


def model(shape: dict, case: Case, run: dict) -> list[str]:
    """A step on a long row over many processes, from the seconds per token of one.

    Tails count as tokens of their own, since a layer attends from them, too: more than they take.
    Waiting: P - 1 hops in forward, and in backward 2 (P - 1) of each LSH layer.
    """
    seconds_per_token = run["seconds_fastest_step"] / case.length
    layers, tokens = shape["num_hidden_layers"] // 2, shape["num_hashes"] * shape["hash_length"]
    hop = tail_bytes(shape)
    rows = []
    for processes in MODELLED_PROCESSES:
        part = MODELLED_LENGTH / processes
        hops = (processes - 1) * (1 + 2 * layers)
        rows.append(
            [
                f"{processes:,}",
                f"{part:,.0f}",
                f"{(part + tokens) * seconds_per_token:,.0f}",
                f"{3 * layers * hop / 1e6:,.0f}",
                *(f"{hops * hop / bandwidth:,.2f}" for bandwidth in BANDWIDTHS.values()),
            ]
        )
    waits = [f"the chain at {name}, s" for name in BANDWIDTHS]
    text = (
        f"A step on a row of {MODELLED_LENGTH:,} tokens, computed from the "
        f"{seconds_per_token * 1e6:.0f} microseconds per token of one process at "
        f"{short(case.length)} and tails of {hop / 1e6:.1f} MB. Not measured."
    )
    columns = ["processes", "tokens of each", "arithmetic, s", "tails received, MB", *waits]
    return [text, "", *table(columns, rows)]


def main(argv: list[str] | None = None) -> int:
    """Run what is missing; ends with status 1 if a run failed."""
    parser = make_parser(
        [SequenceParallelArguments, Shape], "benchmarks.sequence_parallel", __doc__
    )
    arguments, shape = parser.parse_args_into_dataclasses(argv)
    if problem := arguments.problem():
        parser.error(problem)
    if arguments.smoke:
        shape = Shape(2, 16, 2, 24, 2, 64)
        arguments.lengths, arguments.processes = [256], [1, 2]
    summary = (
        f"{shape.num_hidden_layers} layers (local, LSH in turn), hidden {shape.hidden_size}, "
        f"{shape.num_attention_heads} heads, {shape.num_hashes} rounds, hash_length "
        f"{shape.hash_length}, float32, reversible, a row of random tokens, forward and backward. "
        f"Processes of one thread on {usable_cores()} cores: more processes than cores share them. "
        "Seconds are of the fastest step, memory is what a step adds to a process, the largest of "
        "all processes; waiting is seconds in each that a thread waited for a core."
    )
    header = benchmark_header(arguments, SETTINGS, shape, summary)
    planned = [
        Planned(
            case._asdict(),
            f"{short(case.length)} over {case.processes}",
            lambda case=case: run_child(case, arguments, shape),
        )
        for case in (Case(p, n) for n in arguments.lengths for p in arguments.processes)
    ]
    return do_runs(parser, arguments.output_dir, header, planned, render)


if __name__ == "__main__":
    exit_when_terminated()
    sys.exit(main())
