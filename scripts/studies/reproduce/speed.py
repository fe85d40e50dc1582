"""Figure 5 of the paper, right: seconds of attention against length, at constant tokens of a batch.

    python -m scripts.studies.reproduce speed

A layer of full shared-QK attention, and of LSH attention of several rounds in both scopes, forward
and backward, each run in a process of its own. Says where LSH attention becomes the faster one.
Goes on where it was interrupted.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from reformer_hf.training.arguments import argument
from scripts.benchmarks.common.plot import new_figure, scale_lengths
from scripts.benchmarks.common.runs import do_runs
from scripts.benchmarks.common.tables import (
    Repeats,
    describe_machine,
    disturbance,
    length_table,
    table,
)
from scripts.studies.reproduce.common import PAPER, parse
from scripts.studies.reproduce.costs import Subject
from scripts.studies.reproduce.timed import TimedArguments, make_timed_header, plan_subjects

CLAIM = "speed"
SCOPES = ("band", "chunk")
FULL = "full"


class SpeedCase(NamedTuple):
    """What is timed.

    Attributes:
        attention: `full`, or a scope of LSH attention.
        rounds: of hashing; 0 for full attention.
        length: tokens of a row.
    """

    attention: str
    rounds: int
    length: int

    @property
    def line(self) -> tuple[str, int]:
        """What has a line in the plot."""
        return self.attention, self.rounds

    def __str__(self) -> str:
        return f"{name_of(self.line)} at {self.length:,}"


def name_of(line: tuple[str, int]) -> str:
    """A line's name."""
    attention, rounds = line
    return f"LSH-{rounds}, {attention}" if rounds else attention


@dataclass
class SpeedArguments(TimedArguments):
    """What is timed, and how often."""

    tokens: int = argument(2**15, "Tokens of a batch; the paper's 32,768.")
    lengths: list[int] = argument(
        [2**10, 2**11, 2**12, 2**13, 2**14, 2**15], "Tokens of a row; shorter ones first."
    )
    rounds: list[int] = argument([1, 2, 4, 8], "Rounds of hashing.")
    scopes: list[str] = argument(list(SCOPES), "Scopes of LSH attention.")

    def smoke_values(self) -> dict[str, Any]:
        """Arguments that are tiny with `smoke`."""
        more = {"tokens": 64, "lengths": [32, 64], "rounds": [1], "scopes": ["band"]}
        return super().smoke_values() | more

    def cases(self) -> Iterator[tuple[SpeedCase, Subject]]:
        """What is timed, length by length."""
        for length in self.lengths:
            rows = max(1, self.tokens // length)
            subject = Subject("full_shared_qk", "blockwise", rows, length)
            yield SpeedCase(FULL, 0, length), subject
            for scope in self.scopes:
                for count in self.rounds:
                    subject = Subject(scope, "blockwise", rows, length, count)
                    yield SpeedCase(scope, count, length), subject


def case_of(run: dict) -> SpeedCase:
    """The case of a recorded run."""
    return SpeedCase(*(run[name] for name in SpeedCase._fields))


def curves(results: Repeats[SpeedCase]) -> dict[tuple[str, int], dict[int, float]]:
    """Seconds by length, for each line; full attention first."""
    found: dict[tuple[str, int], dict[int, float]] = {}
    for case in sorted(results.cases, key=lambda one: (one.attention != FULL, one)):
        values = results.per_repeat(case, lambda run: run["seconds"]).values()
        if values:
            found.setdefault(case.line, {})[case.length] = median(values)
    return found


def crossing(full: dict[int, float], other: dict[int, float]) -> str:
    """The length from which on full attention takes longer, between measured ones by their logs."""
    lengths = sorted(full.keys() & other.keys())
    gaps = [math.log(other[length] / full[length]) for length in lengths]
    slower = [index for index, gap in enumerate(gaps) if gap >= 0]
    if not lengths:
        return "-"
    if not slower:
        return f"below {lengths[0]:,}"
    last = slower[-1]
    if last == len(lengths) - 1:
        return f"above {lengths[-1]:,}"
    share = gaps[last] / (gaps[last] - gaps[last + 1])
    return f"{round(lengths[last] * (lengths[last + 1] / lengths[last]) ** share):,}"


def render(header: dict, runs: Sequence[dict]) -> str:
    """The results as Markdown."""
    results = Repeats(runs, case_of)
    lengths = sorted({case.length for case in results.cases})
    found = curves(results)
    rows: list[tuple[str, Callable[[int], str]]] = [
        (name_of(line), partial(_seconds, results, line)) for line in found
    ]
    lines = [describe_machine(header), disturbance(results, "waiting", "steps"), ""]
    lines += ["## Seconds of forward and backward", "", *length_table(lengths, rows, "tokens")]
    full = found.get((FULL, 0), {})
    crossings = [[name_of(line), crossing(full, c)] for line, c in found.items() if line[1]]
    columns = ["", "tokens of a row from which on it is faster than full attention"]
    lines += ["## Where the curves cross", "", *table(columns, crossings)]
    lines.append(f"Published: figure 5, right, of the paper ({PAPER}); the talk says 4,000 tokens.")
    failed = results.failure_section(["case"], lambda case: [str(case)])
    return "\n".join([*lines, "", *failed])


def _seconds(results: Repeats[SpeedCase], line: tuple[str, int], length: int) -> str:
    return results.spread(SpeedCase(*line, length), lambda run: run["seconds"], ".3f")


def plot(runs: Sequence[dict], folder: Path) -> None:
    """Draw seconds over the length."""
    results = Repeats(runs, case_of)
    figure = new_figure(7.5, 5)
    axes = figure.subplots()
    styles = {FULL: "k^-", "band": "o-", "chunk": "s--"}
    colours: dict[int, str] = {}
    for line, points in curves(results).items():
        attention, rounds = line
        colour = "k" if attention == FULL else colours.setdefault(rounds, f"C{len(colours)}")
        style = styles[attention].removeprefix("k")
        axes.plot(*zip(*sorted(points.items()), strict=True), style, c=colour, label=name_of(line))
    lengths = sorted({case.length for case in results.cases})
    title = "A layer of attention at constant tokens of a batch"
    scale_lengths(axes, lengths, xlabel="tokens of a row", ylabel="seconds", title=title)
    axes.legend(fontsize=8)
    figure.savefig(folder / "results.png", dpi=120)


def run(argv: list[str] | None = None) -> int:
    """Measure what is missing; ends with status 1 if a run failed or was disturbed."""
    parser, arguments = parse(SpeedArguments, CLAIM, __doc__, argv)
    if problem := arguments.first_problem({"scopes": SCOPES}, ("warmup", "tokens")):
        parser.error(problem)
    summary = f"A layer of attention on batches of {arguments.tokens:,} tokens."
    header = make_timed_header(arguments, summary)
    header["settings"]["tokens"] = arguments.tokens
    planned = plan_subjects(arguments.cases(), arguments, exact_memory=False)
    folder = str(Path(arguments.results_dir, CLAIM))
    return do_runs(parser, folder, header, planned, render, plot)
