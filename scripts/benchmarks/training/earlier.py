"""Compare a training step with that of an earlier commit, step by step in turn.

    python -m scripts.benchmarks.training.earlier --commit 110483b

Three processes: one imports the package as it was at the commit, two as it is in this tree, with
glibc's allocator as it is and as the training scripts set it; the commit has it as it is. Each has
a model of local and LSH layers in turn. They take turns with steps of forward and backward, so that
a machine that is shared slows all of them alike. A run's ratio is the median of those of its turns.
Writes results.json and results.md to the output folder, and goes on where it stopped.
"""

import shutil
import subprocess
import sys
import tarfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from io import BytesIO
from pathlib import Path
from statistics import median
from typing import NamedTuple

from reformer_hf.training.arguments import argument
from scripts.benchmarks.common.arguments import BenchmarkArguments, make_parser
from scripts.benchmarks.common.peers import ModelShape
from scripts.benchmarks.common.processes import ROOT, answering, exit_when_terminated
from scripts.benchmarks.common.runs import benchmark_header, do_runs, plan_cases
from scripts.benchmarks.common.tables import Repeats, describe_machine, short, spread, table
from scripts.benchmarks.training.arguments import (
    DTYPES,
    TrainingBenchmarkArguments,
    allocator_environment,
)

ALONE = Path(__file__).with_name("alone.py")
# Without the folder of the file on the path, whose modules have names of the standard library's.
CHILD = """
import json, runpy, sys
answers, sys.stdout = sys.stdout, sys.stderr
step = runpy.run_path(sys.argv[1])["make_step"](json.loads(sys.stdin.readline()))
print(json.dumps("ready"), file=answers, flush=True)
for _ in sys.stdin:
    print(json.dumps(step()), file=answers, flush=True)
"""
EARLIER, HERE = "earlier", "this tree"
CODES = ((EARLIER, "default"), (HERE, "default"), (HERE, "scripts"))
"""Which package takes turns, with which of `ALLOCATORS`."""


@dataclass
class EarlierArguments(BenchmarkArguments):
    """What is compared."""

    commit: str = argument("HEAD", "What git calls the earlier code.")
    output_dir: str = argument("outputs/benchmark_earlier", "Output folder.")
    lengths: list[int] = argument([2**12, 2**14], "Tokens of the row.")
    dtypes: list[str] = argument(["float32"], "float32, and bfloat16 for autocast.")
    depths: list[int] = argument([4], "Numbers of layers.")
    repeats: int = argument(3, "Runs of each case, with new processes.")
    steps: int = argument(8, "Timed steps of each process of a run.")
    warmup: int = argument(1, "Steps before them.")
    timeout: float = argument(1800.0, "Seconds that a step may take.")
    # Other processes disturb all of a run's alike; the range of its ratios says how quiet it was.
    max_waiting: float = field(default=0.0, init=False)
    attempts: int = field(default=1, init=False)

    def problem(self) -> str | None:
        """What is wrong with the arguments, or None."""
        if problem := self.first_problem({"dtypes": DTYPES}, ("warmup",)):
            return problem
        for name in ("lengths", "depths"):
            if not getattr(self, name) or min(getattr(self, name)) < 1:
                return f"{name}={getattr(self, name)}: give at least one, and each at least 1"
        return TrainingBenchmarkArguments(allocator="scripts").allocator_problem()


class EarlierCase(NamedTuple):
    """What is measured.

    Attributes:
        length: tokens of the row.
        dtype: `float32`, or `bfloat16` for autocast.
        layers: of the model.
    """

    length: int
    dtype: str
    layers: int

    def __str__(self) -> str:
        return f"{self.layers} layers at {short(self.length)}, {self.dtype}"


def extract_package(commit: str, folder: Path) -> str:
    """Write the package as it was.

    Args:
        commit: what git calls it.
        folder: gets the folder `reformer_hf`.

    Returns:
        The commit's short name.

    Raises:
        ValueError: if git does not know it.
    """
    git = ["git", "-C", str(ROOT)]
    named = subprocess.run(
        [*git, "rev-parse", "--short", f"{commit}^{{commit}}"], capture_output=True, text=True
    )
    if named.returncode:
        raise ValueError(f"commit={commit}: git does not know it: {named.stderr.strip()}")
    archive = subprocess.run([*git, "archive", commit, "reformer_hf"], capture_output=True)
    if archive.returncode:
        raise ValueError(f"commit={commit} has no folder reformer_hf: choose a later one")
    shutil.rmtree(folder, ignore_errors=True)  # files of another commit would stay
    with tarfile.open(fileobj=BytesIO(archive.stdout)) as files:
        files.extractall(folder, filter="data")
    return named.stdout.strip()


def plan(arguments: EarlierArguments) -> list[tuple[EarlierCase, int]]:
    """All runs."""
    return [
        (EarlierCase(length, dtype, layers), repeat)
        for repeat in range(arguments.repeats)
        for length in arguments.lengths
        for dtype in arguments.dtypes
        for layers in arguments.depths
    ]


def take_turns(
    case: EarlierCase, arguments: EarlierArguments, shape: ModelShape, earlier: Path
) -> dict:
    """Do the steps of a case.

    Args:
        case: what is measured.
        arguments: of the benchmark.
        shape: of the models, but for their layers.
        earlier: folder of the earlier package.

    Returns:
        For each of `CODES` the `seconds` and `cpu_seconds` of its steps and `peak_bytes`; or an
        `error`.
    """
    fields = replace(shape, num_hidden_layers=case.layers).reformer_fields()
    request = {"fields": fields, "length": case.length, "dtype": case.dtype}
    request["num_threads"] = arguments.num_threads
    found: list[list[dict]] = [[] for _ in CODES]
    with ExitStack() as stack:
        children = []
        for code, allocator in CODES:
            paths = {"PYTHONPATH": str(earlier if code == EARLIER else ROOT)}
            environment = {**allocator_environment(allocator, case.layers), **paths}
            words = ["-P", "-c", CHILD, str(ALONE)]
            child = stack.enter_context(answering(words, environment, arguments.timeout))
            children.append(child)
        try:
            for child in children:
                child.ask(request)
            for turn in range(arguments.warmup + arguments.steps):
                order = list(zip(children, found, strict=True))
                for child, steps in reversed(order) if turn % 2 else order:
                    steps.append(child.ask("step"))
        except ChildProcessError as error:
            return {"error": str(error)}
    measured = [summarise(steps[arguments.warmup :]) for steps in found]
    return {"codes": measured, "waiting": None}


def summarise(steps: Sequence[dict]) -> dict:
    """The steps of a process, in lists, and its peak."""
    lists = {name: [step[name] for step in steps] for name in ("seconds", "cpu_seconds")}
    return {**lists, "peak_bytes": steps[-1]["peak_bytes"]}


def over_earlier(codes: Sequence[dict], index: int) -> float:
    """Time of one of `CODES` over the earlier code's: the median of a run's turns."""
    pairs = zip(codes[index]["seconds"], codes[0]["seconds"], strict=True)
    return median(mine / earlier for mine, earlier in pairs)


def render(header: dict, runs: Sequence[dict]) -> str:
    """The results as Markdown."""
    results = Repeats(runs, lambda run: EarlierCase(*(run[name] for name in EarlierCase._fields)))
    rows = []
    for case in sorted(results.finished):
        repeats = [run["codes"] for run in results.finished[case].values()]
        for index, (code, allocator) in enumerate(CODES):
            ratios = [over_earlier(codes, index) for codes in repeats] if index else []
            rows.append(
                [
                    short(case.length),
                    case.dtype,
                    str(case.layers),
                    header["settings"]["commit"] if code == EARLIER else code,
                    "glibc as it is" if allocator == "default" else "as the scripts set it",
                    spread([median(codes[index]["seconds"]) for codes in repeats]),
                    spread(ratios) if index else "",
                    spread([codes[index]["peak_bytes"] / 1e6 for codes in repeats], ",.0f"),
                ]
            )
    columns = ["tokens", "dtype", "layers", "code", "allocator", "seconds of a step"]
    columns += ["over the earlier code, turn by turn", "peak, MB"]
    failed = results.failure_section(["case"], lambda case: [str(case)])
    return "\n".join([describe_machine(header), "", *table(columns, rows), *failed])


def main(argv: list[str] | None = None) -> int:
    """Run what is missing; ends with status 1 if a run failed."""
    parser = make_parser([EarlierArguments, ModelShape], "benchmarks.training.earlier", __doc__)
    arguments, shape = parser.parse_args_into_dataclasses(argv)
    if problem := arguments.problem():
        parser.error(problem)
    earlier = Path(arguments.output_dir).absolute() / "code"
    try:
        commit = extract_package(arguments.commit, earlier)
    except ValueError as error:
        parser.error(str(error))
    text = (
        f"{shape}, but for their number; random weights and tokens, one row; bfloat16 is autocast. "
        f"The earlier code is that of commit {commit}. Peak memory is that of the whole process."
    )
    header = benchmark_header(arguments, ("steps", "warmup", "num_threads"), shape, text)
    header["settings"]["commit"] = commit
    planned = plan_cases(
        plan(arguments),
        arguments,
        lambda case: take_turns(case, arguments, shape, earlier),
        lambda case: {},
    )
    return do_runs(parser, arguments.output_dir, header, planned, render)


if __name__ == "__main__":
    exit_when_terminated()
    sys.exit(main())
