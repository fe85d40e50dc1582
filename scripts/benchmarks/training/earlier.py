"""Compare a training step with that of an earlier commit, in turn.

    python -m scripts.benchmarks.training.earlier --commit 110483b

Each run has a process of its own, which imports the package as it was at the commit, or as it is in
this tree: a model of local and LSH layers in turn, forward and backward. The commit runs with
glibc's allocator as it is; this tree also as the training scripts set it.
Writes results.json and results.md to the output folder, and goes on where it stopped.
"""

import shutil
import subprocess
import sys
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

from reformer_hf.training.arguments import argument
from scripts.benchmarks.common.arguments import BenchmarkArguments, make_parser
from scripts.benchmarks.common.peers import ModelShape
from scripts.benchmarks.common.processes import ROOT, exit_when_terminated, run_command
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
print(json.dumps(runpy.run_path(sys.argv[1])["measure"](json.load(sys.stdin))), flush=True)
"""
HERE = "this tree"


@dataclass
class EarlierArguments(BenchmarkArguments):
    """What is compared."""

    commit: str = argument("HEAD", "What git calls the earlier code.")
    output_dir: str = argument("outputs/benchmark_earlier", "Output folder.")
    lengths: list[int] = argument([2**12, 2**14], "Tokens of the row.")
    dtypes: list[str] = argument(["float32"], "float32, and bfloat16 for autocast.")
    depths: list[int] = argument([4], "Numbers of layers.")
    repeats: int = argument(5, "Runs of each case.")
    steps: int = argument(3, "Timed steps of a run.")
    warmup: int = argument(1, "Steps before them.")
    # `alone.py` does not watch its threads; pairs and their range say how quiet it was.
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
        code: the commit, or `this tree`.
        allocator: of `ALLOCATORS`.
        length: tokens of the row.
        dtype: `float32`, or `bfloat16` for autocast.
        layers: of the model.
    """

    code: str
    allocator: str
    length: int
    dtype: str
    layers: int

    def __str__(self) -> str:
        return f"{self.layers} layers at {short(self.length)}, {self.code}, {self.allocator}"


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


def plan(arguments: EarlierArguments, commit: str) -> list[tuple[EarlierCase, int]]:
    """All runs: the codes of a case take turns."""
    return [
        (EarlierCase(*code, length, dtype, layers), repeat)
        for repeat in range(arguments.repeats)
        for length in arguments.lengths
        for dtype in arguments.dtypes
        for layers in arguments.depths
        for code in ((commit, "default"), (HERE, "default"), (HERE, "scripts"))
    ]


def run_child(
    case: EarlierCase, arguments: EarlierArguments, shape: ModelShape, earlier: Path
) -> dict:
    """Measure a case in a process of its own; see `run_command`."""
    fields = replace(shape, num_hidden_layers=case.layers).reformer_fields()
    names = ("steps", "warmup", "num_threads")
    request = {name: getattr(arguments, name) for name in names}
    request |= {"fields": fields, "length": case.length, "dtype": case.dtype}
    code = ROOT if case.code == HERE else earlier
    environment = {**allocator_environment(case.allocator, case.layers), "PYTHONPATH": str(code)}
    words = ["-P", "-c", CHILD, str(ALONE)]
    measured = run_command(words, request, arguments.timeout, environment)
    return measured | {"waiting": None}


def render(header: dict, runs: Sequence[dict]) -> str:
    """The results as Markdown."""
    results = Repeats(runs, lambda run: EarlierCase(*(run[name] for name in EarlierCase._fields)))
    rows = []
    for case in sorted(results.finished, key=lambda case: (case[2:], case.code == HERE, case[1])):
        before = case._replace(code=header["settings"]["commit"], allocator="default")
        ratios = results.paired(case, before, lambda run: run["seconds_per_step"])
        rows.append(
            [
                short(case.length),
                case.dtype,
                str(case.layers),
                case.code,
                "glibc as it is" if case.allocator == "default" else "as the scripts set it",
                results.spread(case, lambda run: run["seconds_per_step"]),
                spread(ratios) if case.code == HERE else "",
                results.spread(case, lambda run: run["peak_bytes"] / 1e6, ",.0f"),
            ]
        )
    columns = ["tokens", "dtype", "layers", "code", "allocator", "seconds of a step"]
    columns += ["over the earlier code, pair by pair", "peak, MB"]
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
        plan(arguments, commit),
        arguments,
        lambda case: run_child(case, arguments, shape, earlier),
        lambda case: {},
    )
    return do_runs(parser, arguments.output_dir, header, planned, render)


if __name__ == "__main__":
    exit_when_terminated()
    sys.exit(main())
