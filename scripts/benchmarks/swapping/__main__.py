"""Measure the peak memory of a training step with and without the optimizer in backward.

Each run has a process of its own. Writes results.json and results.md to the output folder after
every run, and goes on where it was interrupted.
"""

import os
import sys
from dataclasses import asdict, dataclass

from reformer_hf.training.arguments import argument
from scripts.benchmarks.common.arguments import make_parser
from scripts.benchmarks.common.cores import usable_cores
from scripts.benchmarks.common.memory import RETURN_LARGE
from scripts.benchmarks.common.processes import exit_when_terminated, run_process
from scripts.benchmarks.common.runs import Planned, benchmark_header, do_runs
from scripts.benchmarks.common.tables import counts, describe_machine, table
from scripts.benchmarks.swapping.run import MUON, Case

SETTINGS = ("length", "steps", "num_threads")
"""Arguments that must be equal for runs to be comparable."""
TINY = {"num_hidden_layers": 2, "hidden_size": 16, "num_attention_heads": 2}


@dataclass(frozen=True)
class Shape:
    """Sizes of the model."""

    num_hidden_layers: int = argument(10, "Layers: local, LSH in turn.")
    hidden_size: int = argument(1024, "Width of a stream.")
    num_attention_heads: int = argument(16, "Heads.")
    feed_forward_size: int = argument(4096, "Width inside feed-forward.")


@dataclass
class SwappingArguments:
    """What is measured."""

    output_dir: str = argument("outputs/benchmark_swapping", "Output folder.")
    optimizers: list[str] = argument(list(MUON), f"Optimizers: {', '.join(MUON)}.")
    length: int = argument(128, "Tokens of the one row of a step.")
    steps: int = argument(2, "Measured steps of a run, after one that warms up.")
    timeout: float = argument(3600.0, "Seconds after which a run is given up as failed.")
    num_threads: int = argument(usable_cores(), "Threads of torch; all cores by default.")
    smoke: bool = argument(False, "A tiny model, to see that everything runs.")

    def problem(self) -> str | None:
        """What is wrong with the arguments, or None."""
        if unknown := set(self.optimizers) - set(MUON):
            return f"unknown optimizers {sorted(unknown)}: choose from {list(MUON)}"
        for name in ("length", "steps", "num_threads"):
            if getattr(self, name) < 1:
                return f"{name}={getattr(self, name)} must be at least 1"
        return None


def run_child(case: Case, arguments: SwappingArguments, shape: Shape) -> dict:
    """Measure a case in a process of its own, which returns memory at once; see `run_process`."""
    request = {"case": case._asdict(), "arguments": asdict(arguments), "shape": asdict(shape)}
    environment = {**os.environ, **RETURN_LARGE}
    return run_process("scripts.benchmarks.swapping.run", request, arguments.timeout, environment)


def render(header: dict, runs: list[dict]) -> str:
    """The table of all runs, and what the step in backward saves with each optimizer."""
    done = {Case(run["optimizer"], run["in_backward"]): run for run in runs if counts(run)}
    sizes = ("parameter_bytes", "optimizer_bytes", "held_gradient_bytes", "peak_bytes")
    rows = [
        [
            case.optimizer,
            "in backward, layer by layer" if case.in_backward else "after backward",
            *(megabytes(run[name]) for name in sizes),
            f"{run['seconds_fastest_step']:.2f}",
        ]
        for case, run in done.items()
    ]
    names = ["parameters", "optimizer's state", "gradients held", "peak"]
    columns = ["optimizer", "its step", *(f"{name}, MB" for name in names), "fastest step, s"]
    lines = ["# Peak memory of a training step", "", describe_machine(header), ""]
    lines += table(columns, rows)
    for optimizer in dict.fromkeys(case.optimizer for case in done):
        usual, ours = (done.get(Case(optimizer, value)) for value in (False, True))
        if usual and ours and usual["peak_bytes"] is not None:
            saved = megabytes(usual["peak_bytes"] - ours["peak_bytes"])
            losses = "the same" if usual["losses"] == ours["losses"] else "not the same"
            lines.append(
                f"- {optimizer}: the peak is {saved} MB lower; all gradients take "
                f"{megabytes(usual['parameter_bytes'])}. The losses of the steps are {losses}."
            )
    lines += [f"- {run['optimizer']} failed: {run['error']}" for run in runs if "error" in run]
    return "\n".join(lines).rstrip() + "\n"


def megabytes(count: int | None) -> str:
    """Bytes in MB; a dash where they are unknown."""
    return "-" if count is None else f"{count / 1e6:,.1f}"


def main(argv: list[str] | None = None) -> int:
    """Run what is missing; ends with status 1 if a run failed."""
    parser = make_parser([SwappingArguments, Shape], "benchmarks.swapping", __doc__)
    arguments, shape = parser.parse_args_into_dataclasses(argv)
    if problem := arguments.problem():
        parser.error(problem)
    if arguments.smoke:
        shape, arguments.length, arguments.steps = Shape(**TINY, feed_forward_size=24), 32, 1
    summary = (
        f"{shape.num_hidden_layers} layers (local, LSH in turn), hidden {shape.hidden_size}, "
        f"feed-forward {shape.feed_forward_size}, float32, reversible, one row of "
        f"{arguments.length} random tokens; {arguments.steps} steps after one that warms up. glibc "
        "gives large tensors' memory back at once. MB are 10^6 bytes; the peak is that of the "
        "process. Other processes may have slowed the steps down."
    )
    header = benchmark_header(arguments, SETTINGS, shape, summary)
    planned = [
        Planned(
            case._asdict(),
            f"{case.optimizer}, {'in' if case.in_backward else 'after'} backward",
            lambda case=case: run_child(case, arguments, shape),
        )
        for case in (Case(name, value) for name in arguments.optimizers for value in (False, True))
    ]
    return do_runs(parser, arguments.output_dir, header, planned, render)


if __name__ == "__main__":
    exit_when_terminated()
    sys.exit(main())
