"""Table 2 of the paper: full and LSH attention on duplication, trained with one, asked with others.

    python -m scripts.studies.reproduce duplication

Sequences 0w0w, of which the second w is to be predicted. One layer of width 256 with 4 heads is
trained with full shared-QK attention and with LSH attention of several rounds, in both scopes, and
each model is evaluated with each attention. Trains first on stretches of w at their positions, then
on the whole. Goes on where it was interrupted.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any

from reformer_hf.training.arguments import argument
from scripts.benchmarks.common.plot import new_figure
from scripts.benchmarks.common.runs import Planned, do_runs, timed
from scripts.benchmarks.common.tables import counts, describe_machine, table
from scripts.studies.reproduce.common import PAPER, ClaimArguments, make_header, parse
from scripts.studies.reproduce.duplication_run import (
    HEADS,
    LEARNING_RATE,
    MUON_RATE,
    WIDTH,
    Attention,
    Stage,
    Task,
    evaluate,
    train,
)

CLAIM = "duplication"
SCOPES = ("chunk", "band")
PUBLISHED = {
    "Full": {"Full": 100, "LSH-8": 94.8, "LSH-4": 92.5, "LSH-2": 76.9, "LSH-1": 52.5},
    "LSH-4": {"Full": 0.8, "LSH-8": 100, "LSH-4": 99.9, "LSH-2": 99.4, "LSH-1": 91.9},
    "LSH-2": {"Full": 0.8, "LSH-8": 100, "LSH-4": 99.9, "LSH-2": 98.1, "LSH-1": 86.8},
    "LSH-1": {"Full": 0.8, "LSH-8": 99.9, "LSH-4": 99.6, "LSH-2": 94.8, "LSH-1": 77.9},
}
"""Percent, by attention in training and in evaluation. Table 2 of the paper: |w| = 511, 127
symbols, 150,000 steps."""


@dataclass
class DuplicationArguments(ClaimArguments):
    """What is trained and asked."""

    length: int = argument(511, "Symbols of w; the paper's 511.")
    symbols: int = argument(127, "Symbols to draw w from; the paper's 127.")
    window: int = argument(64, "Places that LSH attention looks at in a round.")
    scopes: list[str] = argument(list(SCOPES), "Scopes of LSH attention.")
    train_hashes: list[int] = argument([0, 4, 2, 1], "Rounds in training; 0 for full attention.")
    eval_hashes: list[int] = argument([0, 8, 4, 2, 1], "Rounds in evaluation; 0 for full.")
    stretch: int = argument(64, "Symbols of w that rows show twice in the first stage.")
    stretch_rows: int = argument(16, "Rows of a step of the first stage.")
    stretch_steps: int = argument(250, "Steps of the first stage; 0 for the second one alone.")
    rows: int = argument(4, "Rows of a step of the second stage, which show all of w twice.")
    steps: int = argument(250, "Steps of the second stage.")
    eval_rows: int = argument(24, "Rows of an evaluation, each with rotations of its own.")
    seeds: int = argument(1, "Models of each attention.")

    def smoke_values(self) -> dict[str, Any]:
        """Arguments that are tiny with `smoke`."""
        sizes = {
            "length": 15,
            "symbols": 7,
            "window": 8,
            "stretch": 5,
            "stretch_rows": 2,
            "rows": 2,
        }
        counted = {"stretch_steps": 2, "steps": 2, "eval_rows": 2}
        return sizes | counted | {"train_hashes": [0, 1], "eval_hashes": [0, 2, 1]}

    def stages(self) -> list[Stage]:
        """Parts of the training."""
        stages = [
            Stage(self.stretch, self.stretch_rows, self.stretch_steps),
            Stage(self.length, self.rows, self.steps),
        ]
        return [stage for stage in stages if stage.steps]

    def first_problem(self) -> str | None:
        """The first field whose value cannot be, and the fix; None if all can."""
        if unknown := set(self.scopes) - set(SCOPES):
            return f"unknown scopes {sorted(unknown)}: choose from {list(SCOPES)}"
        if self.window < 8 or self.window % 8:
            return f"window={self.window}: give a multiple of 8"
        if not 0 < self.stretch <= self.length:
            return f"stretch={self.stretch}: give 1 to length={self.length}"
        names = ("train_hashes", "eval_hashes")
        small = [name for name in names if min(getattr(self, name)) < 0]
        return f"{small[0]} must not be negative" if small else None


def plan(arguments: DuplicationArguments) -> list[Planned]:
    """Each training, and each evaluation of what it made; full attention once for both scopes."""
    task = Task(arguments.length, arguments.symbols, arguments.window)
    stages = " ".join(str(number) for stage in arguments.stages() for number in stage)
    size = f"{task.length} {task.symbols} {task.window}, {stages},"
    planned = []
    for seed in range(arguments.seeds):
        for rounds in arguments.train_hashes:
            for scope in arguments.scopes if rounds else [SCOPES[0]]:
                trained = Attention(scope, rounds)
                name = f"{trained.name} {scope}" if rounds else trained.name
                path = Path(arguments.output_dir, CLAIM, f"{name} {size} {seed}.pt")
                identity = {"seed": seed, "trained": trained.name}
                identity |= {"scope": scope if rounds else None}
                do = partial(train, task, trained, arguments.stages(), seed, path)
                one = {**identity, "part": "training"}
                planned.append(Planned(one, f"train {name}", partial(timed, do)))
                # A model that was trained with LSH is asked in its own scope.
                asked = [scope] if rounds else arguments.scopes
                for attention in _evaluations(arguments, asked):
                    do = partial(evaluate, task, attention, path, arguments.eval_rows)
                    one = {**identity, "part": "evaluation", "evaluated": attention.name}
                    one |= {"eval_scope": attention.scope if attention.rounds else None}
                    label = f"{name} as {attention.name}"
                    planned.append(Planned(one, label, partial(timed, do)))
    return planned


def _evaluations(arguments: DuplicationArguments, scopes: Sequence[str]) -> list[Attention]:
    """How a model is asked: with full attention once, and with LSH in each scope."""
    full = [Attention(SCOPES[0], 0)] if 0 in arguments.eval_hashes else []
    rounds = [count for count in arguments.eval_hashes if count]
    return full + [Attention(scope, count) for scope in scopes for count in rounds]


def accuracies(runs: Sequence[dict], scope: str) -> dict[str, dict[str, list[float]]]:
    """Percent of right answers in a scope, by attention in training, then in evaluation."""
    found: dict[str, dict[str, list[float]]] = {}
    for run in filter(counts, runs):
        own = {run["scope"], run.get("eval_scope")} <= {scope, None}
        if run["part"] == "evaluation" and own:
            cells = found.setdefault(run["trained"], {}).setdefault(run["evaluated"], [])
            cells.append(100 * run["accuracy"])
    return found


def render(header: dict, runs: Sequence[dict]) -> str:
    """The results as Markdown."""
    lines = [describe_machine(header), "", f"In brackets: the paper's ({PAPER}, table 2).", ""]
    for scope in SCOPES:
        found = accuracies(runs, scope)
        if not any(run["scope"] == scope for run in runs):
            continue
        columns = [name for name in PUBLISHED["Full"] if any(name in row for row in found.values())]
        rows = []
        for name, cells in sorted(found.items(), key=lambda item: [*PUBLISHED].index(item[0])):
            rows.append([name, *(_cell(cells, name, column) for column in columns)])
        heading = f"## Scope `{scope}`: right symbols, %"
        lines += [heading, "", *table(["trained \\ evaluated", *columns], rows)]
    rows = [
        [run["trained"], run["scope"] or "-", f"{run['steps']:,}", f"{run['tokens']:,}"]
        + [f"{run['curve'][-1][2]:.4f}", f"{run['seconds'] / 60:.1f}"]
        for run in filter(counts, runs)
        if run["part"] == "training"
    ]
    columns = ["trained", "scope", "steps", "tokens", "share right in the last steps", "minutes"]
    return "\n".join([*lines, "## Trainings", "", *table(columns, rows)])


def _cell(cells: dict[str, list[float]], trained: str, evaluated: str) -> str:
    values = cells.get(evaluated)
    ours = "-" if not values else f"{mean(values):.1f}"
    return f"{ours} ({PUBLISHED[trained][evaluated]:g})"


def plot(runs: Sequence[dict], folder: Path) -> None:
    """Draw a panel for each scope: right symbols by rounds in evaluation."""
    scopes = [scope for scope in SCOPES if any(run["scope"] == scope for run in runs)]
    figure = new_figure(6 * max(1, len(scopes)), 4.5)
    panels = figure.subplots(1, max(1, len(scopes)), squeeze=False)[0]
    for axes, scope in zip(panels, scopes, strict=False):
        for index, (trained, published) in enumerate(PUBLISHED.items()):
            cells = accuracies(runs, scope).get(trained, {})
            points = {name: mean(cells[name]) for name in published if name in cells}
            axes.plot(*_points(points), f"C{index}o-", label=f"trained with {trained}")
            axes.plot(*_points(published), f"C{index}x:", alpha=0.5)
        axes.set_xticks(range(len(PUBLISHED["Full"])), list(PUBLISHED["Full"]))
        axes.set(title=f"scope {scope} (dotted: the paper's)", xlabel="evaluated with")
        axes.set(ylabel="right symbols, %", ylim=(-3, 103))
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    figure.savefig(folder / "results.png", dpi=120)


def _points(values: dict[str, float]) -> tuple[list[int], list[float]]:
    places = [*PUBLISHED["Full"]]
    return [places.index(name) for name in values], list(values.values())


def run(argv: list[str] | None = None) -> int:
    """Do the parts that are missing."""
    parser, arguments = parse(DuplicationArguments, CLAIM, __doc__, argv)
    if problem := arguments.first_problem():
        parser.error(problem)
    stages = arguments.stages()
    summary = (
        f"0w0w of {arguments.length} of {arguments.symbols} symbols; one layer, width {WIDTH}, "
        f"{HEADS} heads, learned positions, window {arguments.window}. Muon {MUON_RATE:g} and "
        f"AdamW {LEARNING_RATE:g}, "
        + ", then ".join(f"{s.steps} steps of {s.rows} stretches of {s.stretch}" for s in stages)
        + "."
    )
    settings = {
        "task": Task(arguments.length, arguments.symbols, arguments.window)._asdict(),
        "stages": [stage._asdict() for stage in stages],
        "learning_rates": [MUON_RATE, LEARNING_RATE],
        "eval_rows": arguments.eval_rows,
    }
    header = make_header(arguments, summary, settings)
    folder = str(Path(arguments.results_dir, CLAIM))
    return do_runs(parser, folder, header, plan(arguments), render, plot)
