"""Measure the memory of a training step against the number of layers, by allocator.

    python -m scripts.benchmarks.training.depth

Each run has a process of its own: a model of local and LSH layers in turn, forward and backward.
Memory does not depend on what else the machine does, so disturbed runs count. For times give a
quiet machine and `--repeats`: the allocators of a case take turns.
Writes results.json, results.md and a plot to the output folder, and goes on where it stopped.
"""

import math
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import NamedTuple

from reformer_hf.training.arguments import argument
from scripts.benchmarks.common.arguments import BenchmarkArguments, make_parser
from scripts.benchmarks.common.peers import ModelShape
from scripts.benchmarks.common.plot import new_figure
from scripts.benchmarks.common.processes import exit_when_terminated, run_process
from scripts.benchmarks.common.runs import benchmark_header, do_runs, plan_cases
from scripts.benchmarks.common.tables import Repeats, describe_machine, short, spread, table
from scripts.benchmarks.training.arguments import (
    ALLOCATORS,
    DTYPES,
    TrainingBenchmarkArguments,
    allocator_environment,
)
from scripts.benchmarks.training.report import (
    TRAINING,
    TrainingCase,
    megabytes,
    peak_bytes,
    seconds,
)

NAMES = {"default": "glibc as it is", "scripts": "as the training scripts set it"}


class DepthCase(NamedTuple):
    """What is measured.

    Attributes:
        allocator: of `ALLOCATORS`.
        length: tokens of the row.
        dtype: `float32`, or `bfloat16` for autocast.
        layers: of the model.
    """

    allocator: str
    length: int
    dtype: str
    layers: int

    def __str__(self) -> str:
        return f"{self.layers} layers at {short(self.length)}, {self.dtype}, {self.allocator}"


@dataclass
class DepthArguments(BenchmarkArguments):
    """What is measured, and how long."""

    output_dir: str = argument("outputs/benchmark_depth", "Output folder.")
    allocators: list[str] = argument(
        ["scripts", "default"], f"Of {', '.join(ALLOCATORS)}; see scripts.benchmarks.training."
    )
    lengths: list[int] = argument([2**14, 2**16], "Tokens of the row.")
    dtypes: list[str] = argument(list(DTYPES), "float32, and bfloat16 for autocast.")
    depths: list[int] = argument([4, 8, 24], "Numbers of layers.")
    max_length_default: int = argument(2**14, "Longest length with glibc as it is.")
    steps: int = argument(1, "Timed steps of a run.")
    warmup: int = argument(1, "Steps before them.")
    repeats: int = argument(1, "Runs of each case.")
    # Memory knows no disturbance.
    max_waiting: float = field(default=math.inf, init=False)
    attempts: int = field(default=1, init=False)

    def problem(self) -> str | None:
        """What is wrong with the arguments, or None."""
        choices = {"allocators": ALLOCATORS, "dtypes": DTYPES}
        if problem := self.first_problem(choices, ("warmup",)):
            return problem
        own = (TrainingBenchmarkArguments(allocator=name) for name in self.allocators)
        return next(filter(None, (each.allocator_problem() for each in own)), None)

    def cases(self) -> list[DepthCase]:
        """The cases in order."""
        return [
            DepthCase(allocator, length, dtype, layers)
            for length in self.lengths
            for dtype in self.dtypes
            for layers in self.depths
            for allocator in self.allocators
            if allocator != "default" or length <= self.max_length_default
        ]


def run_child(case: DepthCase, arguments: DepthArguments, shape: ModelShape) -> dict:
    """Measure a case in a process of its own; see `run_process`."""
    measured = TrainingCase("band", case.length, case.dtype, TRAINING, case.layers)
    names = ("steps", "warmup", "num_threads")
    own = TrainingBenchmarkArguments(
        **{name: getattr(arguments, name) for name in names}, tokens_per_batch=case.length
    )
    request = {"case": measured._asdict(), "arguments": asdict(own), "shape": asdict(shape)}
    environment = allocator_environment(case.allocator, case.layers)
    return run_process("scripts.benchmarks.training.run", request, arguments.timeout, environment)


def bytes_beyond_parameters(run: dict) -> float:
    """Peak less the parameters and as many gradients."""
    return peak_bytes(run) - 2 * run["parameter_bytes"]


def activation_bytes(run: dict) -> float:
    """The same less what the process held before it had a model."""
    return bytes_beyond_parameters(run) - (run["memory"]["imported"] or 0)


def results_of(runs: Sequence[dict]) -> Repeats[DepthCase]:
    """The recorded runs by case."""
    return Repeats(runs, lambda run: DepthCase(*(run[name] for name in DepthCase._fields)))


def render(header: dict, runs: Sequence[dict]) -> str:
    """The results as Markdown."""
    results, rows = results_of(runs), []
    for case in sorted(results.finished, key=lambda case: (case[1:3], case.allocator, case.layers)):
        fewest = min(other for other in results.finished if other[:3] == case[:3])
        sizes = [
            median(results.per_repeat(case, value).values())
            for value in (peak_bytes, bytes_beyond_parameters, activation_bytes)
        ]
        few = median(results.per_repeat(fewest, bytes_beyond_parameters).values())
        untouched = results.paired(case, case._replace(allocator="default"), seconds)
        rows.append(
            [
                short(case.length),
                case.dtype,
                NAMES.get(case.allocator, case.allocator),
                str(case.layers),
                *(megabytes([size]) for size in sizes),
                f"{sizes[1] / few:.3f}",
                results.spread(case, seconds),
                spread(untouched) if case.allocator != "default" else "",
            ]
        )
    columns = ["tokens", "dtype", "allocator", "layers", "peak, MB"]
    columns += ["less parameters and gradients", "and less the process before"]
    columns += ["the former over that of the fewest layers", "seconds of a step"]
    columns += ["over those with glibc as it is"]
    failed = results.failure_section(["case"], lambda case: [str(case)])
    return "\n".join([describe_machine(header), "", *table(columns, rows), *failed])


def plot(runs: Sequence[dict], folder: Path) -> None:
    """Draw the peak less parameters and gradients over the layers."""
    results = results_of(runs)
    figure = new_figure(6.5, 4.5)
    axes = figure.subplots()
    for name in sorted({case[:3] for case in results.finished}):
        cases = sorted(case for case in results.finished if case[:3] == name)
        sizes = [
            median(results.per_repeat(c, bytes_beyond_parameters).values()) / 1e6 for c in cases
        ]
        label = f"{NAMES.get(name[0], name[0])}, {short(name[1])}, {name[2]}"
        axes.plot([case.layers for case in cases], sizes, "o-", label=label)
    axes.set(xlabel="layers", ylabel="MB", title="Peak less parameters and gradients")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    if axes.lines:
        axes.legend(fontsize="small")
    figure.savefig(folder / "results.png", dpi=120)


def main(argv: list[str] | None = None) -> int:
    """Run what is missing; ends with status 1 if a run failed."""
    parser = make_parser([DepthArguments, ModelShape], "benchmarks.training.depth", __doc__)
    arguments, shape = parser.parse_args_into_dataclasses(argv)
    if problem := arguments.problem():
        parser.error(problem)
    text = (
        f"{shape}, but for their number; vocabulary {shape.vocab_size}, half a GiB of activations "
        "kept, random weights and tokens, one row; bfloat16 is autocast. Resident memory of the "
        "whole process at its peak."
    )
    header = benchmark_header(arguments, ("steps", "warmup", "num_threads"), shape, text)
    planned = plan_cases(
        ((case, repeat) for repeat in range(arguments.repeats) for case in arguments.cases()),
        arguments,
        lambda case: run_child(case, arguments, shape),
        lambda case: {},
    )
    return do_runs(parser, arguments.output_dir, header, planned, render, plot)


if __name__ == "__main__":
    exit_when_terminated()
    sys.exit(main())
