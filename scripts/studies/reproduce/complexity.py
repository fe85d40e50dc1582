"""Tables 1 and 3 of the paper: how time and memory grow, fitted from runs, beside the formulas.

    python -m scripts.studies.reproduce complexity

Table 1: a layer of scaled dot-product, memory-efficient and LSH attention. Table 3: a Transformer,
made reversible, then with a chunked feed-forward sub-layer, or with LSH attention; and the
Reformer, which is all of these. Each is measured at several lengths, depths, feed-forward widths
and rounds, with one of them changed at a time, and a power of it is fitted. Goes on where it was
interrupted.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from reformer_hf.training.arguments import argument
from scripts.benchmarks.common.plot import new_figure
from scripts.benchmarks.common.runs import do_runs
from scripts.benchmarks.common.tables import Repeats, describe_machine, disturbance, table
from scripts.studies.reproduce.common import PAPER, parse
from scripts.studies.reproduce.costs import Subject
from scripts.studies.reproduce.timed import TimedArguments, make_timed_header, plan_subjects

CLAIM = "complexity"
AXES = {
    "length": "length",
    "layers": "layers",
    "feed_forward_size": "feed-forward width",
    "rounds": "rounds",
}
_BASE = ("length", "layers", "width", "rounds")
QUANTITIES = {"seconds": "time", "memory_bytes": "memory"}


class Variant(NamedTuple):
    """A line of the paper's tables.

    Attributes:
        table: its number.
        fields: of the subject.
        powers: of time and of memory by axis, as the formula has them where its largest term
            decides; `0 to 1` where that depends on the sizes. An axis that is missing is not
            measured.
        formulas: of time and of memory, for rows of l tokens, d_k wide heads, n_h of them, n_r
            rounds, chunks of c tokens and n_l layers; of one row.
    """

    table: int
    fields: Mapping[str, Any]
    powers: Mapping[str, tuple[str, str]]
    formulas: tuple[str, str]


_FULL = {"attention": "full", "implementation": "eager"}
_LSH = {"attention": "band", "implementation": "blockwise"}
_SQUARE = "max(n_h l d_k, n_h l²)"
_ROUNDS = "max(n_h l d_k, n_h l n_r c)"
_TIME, _LSH_TIME = "(l d_ff + n_h l²) n_l", "(l d_ff + n_h n_r l c) n_l"
VARIANTS = {
    "scaled dot-product": Variant(1, _FULL, {"length": ("2", "2")}, (_SQUARE, _SQUARE)),
    "memory-efficient": Variant(
        1, {**_FULL, "implementation": "blockwise"}, {"length": ("2", "1")}, (_SQUARE, "n_h l d_k")
    ),
    "LSH attention": Variant(
        1, _LSH, {"length": ("1", "1"), "rounds": ("1", "0 to 1")}, (_ROUNDS, _ROUNDS)
    ),
    "Transformer": Variant(
        3,
        _FULL,
        {"length": ("2", "2"), "layers": ("1", "1"), "feed_forward_size": ("0 to 1", "0 to 1")},
        (_TIME, "max(l d_ff, n_h l²) n_l"),
    ),
    "reversible Transformer": Variant(
        3,
        {**_FULL, "reversible": True},
        {"length": ("2", "2"), "layers": ("1", "0"), "feed_forward_size": ("0 to 1", "0 to 1")},
        (_TIME, "max(l d_ff, n_h l²)"),
    ),
    "chunked reversible Transformer": Variant(
        3,
        {**_FULL, "reversible": True, "chunked": True},
        {"length": ("2", "2"), "layers": ("1", "0"), "feed_forward_size": ("0 to 1", "0")},
        (_TIME, "max(l d_model, n_h l²)"),
    ),
    "LSH Transformer": Variant(
        3,
        _LSH,
        {
            "length": ("1", "1"),
            "layers": ("1", "1"),
            "feed_forward_size": ("0 to 1", "0 to 1"),
            "rounds": ("0 to 1", "0 to 1"),
        },
        (_LSH_TIME, "max(l d_ff, n_h l n_r c) n_l"),
    ),
    "Reformer": Variant(
        3,
        {**_LSH, "reversible": True, "chunked": True},
        {
            "length": ("1", "1"),
            "layers": ("1", "0"),
            "feed_forward_size": ("0 to 1", "0"),
            "rounds": ("0 to 1", "0 to 1"),
        },
        (_LSH_TIME, "max(l d_model, n_h l n_r c)"),
    ),
}


class ComplexityCase(NamedTuple):
    """What is measured: a variant where one axis has some value, and the others their own."""

    variant: str
    axis: str
    value: int

    def __str__(self) -> str:
        return f"{self.variant}, {AXES[self.axis]} {self.value:,}"


@dataclass
class ComplexityArguments(TimedArguments):
    """What is measured, at which sizes."""

    variants: list[str] = argument(list(VARIANTS), "Lines of the tables.")
    axes: list[str] = argument(list(AXES), "What is changed.")
    lengths: list[int] = argument([2**10, 2**11, 2**12, 2**13, 2**14], "Tokens of a row.")
    max_length_eager: int = argument(2**12, "Longest row where all scores are held.")
    layer_counts: list[int] = argument([2, 4, 8], "Layers of a model.")
    widths: list[int] = argument([2**10, 2**11, 2**12, 2**13], "Widths inside feed-forward.")
    round_counts: list[int] = argument([1, 2, 4, 8], "Rounds of hashing.")
    base_length: int = argument(2**11, "Tokens of a row where something else is changed.")
    base_layers: int = argument(2, "Layers likewise.")
    base_width: int = argument(2**10, "Width inside feed-forward likewise.")
    base_rounds: int = argument(2, "Rounds likewise.")

    def smoke_values(self) -> dict[str, Any]:
        """Arguments that are tiny with `smoke`."""
        sizes = {"lengths": [16, 32], "layer_counts": [1, 2], "widths": [8, 16]}
        sizes |= {"round_counts": [1, 2], "base_length": 16, "base_layers": 1, "base_width": 8}
        return super().smoke_values() | sizes

    def values(self, axis: str) -> list[int]:
        """The sizes along an axis."""
        fields = ("lengths", "layer_counts", "widths", "round_counts")
        return getattr(self, dict(zip(AXES, fields, strict=True))[axis])

    def cases(self) -> Iterator[tuple[ComplexityCase, Subject]]:
        """What is measured: the variants take turns at each size."""
        for axis in self.axes:
            for value in self.values(axis):
                for name in self.variants:
                    if axis not in VARIANTS[name].powers:
                        continue
                    subject = self.subject(VARIANTS[name], {axis: value})
                    is_eager = subject.implementation == "eager"
                    if not is_eager or subject.length <= self.max_length_eager:
                        yield ComplexityCase(name, axis, value), subject

    def subject(self, variant: Variant, changes: Mapping[str, int]) -> Subject:
        """A variant of the usual sizes, of which `changes` replace one."""
        sizes = {"rows": 1, "length": self.base_length, "rounds": self.base_rounds}
        if variant.table == 3:
            sizes |= {"layers": self.base_layers, "feed_forward_size": self.base_width}
        return Subject(**{**sizes, **variant.fields, **changes})


def case_of(run: dict) -> ComplexityCase:
    """The case of a recorded run."""
    return ComplexityCase(*(run[name] for name in ComplexityCase._fields))


def points(results: Repeats[ComplexityCase], name: str, axis: str, quantity: str) -> dict:
    """Medians over the repeats, by size along an axis."""
    found = {}
    for case in sorted(results.cases):
        if (case.variant, case.axis) == (name, axis):
            runs = results.finished.get(case, {}).values()
            values = [run[quantity] for run in runs if run[quantity]]
            if values:
                found[case.value] = median(values)
    return found


def fit_power(values: Mapping[int, float]) -> float:
    """The power of x that y grows with: the slope of the line through the logarithms.

    >>> round(fit_power({1: 3.0, 2: 12.0, 4: 48.0}), 6)
    2.0
    """
    xs, ys = [math.log(x) for x in values], [math.log(y) for y in values.values()]
    middle_x, middle_y = sum(xs) / len(xs), sum(ys) / len(ys)
    spread = sum((x - middle_x) ** 2 for x in xs)
    return sum((x - middle_x) * (y - middle_y) for x, y in zip(xs, ys, strict=True)) / spread


def render(header: dict, runs: Sequence[dict]) -> str:
    """The results as Markdown."""
    results = Repeats(runs, case_of)
    lines = [describe_machine(header), disturbance(results, "waiting", "steps"), ""]
    lines += [
        "Powers: the formula's; in brackets those fitted to all runs along the axis, and to its "
        "two largest sizes. Memory is what a pass takes above weights and their gradients. "
        f"Formulas: what the algorithms take, in the letters of {PAPER}, tables 1 and 3.",
        "",
    ]
    for number in (1, 3):
        rows, formulas = [], []
        for name, variant in VARIANTS.items():
            if variant.table != number:
                continue
            formulas.append([name, *variant.formulas])
            for index, (quantity, word) in enumerate(QUANTITIES.items()):
                cells = [
                    _power(points(results, name, axis, quantity), variant.powers, axis, index)
                    for axis in AXES
                ]
                rows.append([name, word, *cells])
        lines += [f"## Table {number}", "", *table(["", "time", "memory"], formulas)]
        lines += table(["", "", *AXES.values()], rows)
    failed = results.failure_section(["case"], lambda case: [str(case)])
    return "\n".join([*lines, *failed])


def _power(
    values: Mapping[int, float], powers: Mapping[str, tuple[str, str]], axis: str, index: int
) -> str:
    if axis not in powers:
        return ""
    if len(values) < 2:
        return f"{powers[axis][index]} (-)"
    last = fit_power(dict(list(values.items())[-2:]))
    return f"{powers[axis][index]} ({fit_power(values):.2f}, {last:.2f})"


def plot(runs: Sequence[dict], folder: Path) -> None:
    """Draw time and memory over each axis, a line for each variant; dashed in table 1."""
    results = Repeats(runs, case_of)
    figure = new_figure(4.2 * len(AXES), 7.5)
    panels = figure.subplots(len(QUANTITIES), len(AXES))
    for row, quantity in zip(panels, QUANTITIES, strict=True):
        for axes, axis in zip(row, AXES, strict=True):
            for index, (name, variant) in enumerate(VARIANTS.items()):
                values = points(results, name, axis, quantity)
                style = "o--" if variant.table == 1 else "o-"
                if values:
                    xs, ys = list(values), list(values.values())
                    axes.plot(xs, ys, style, c=f"C{index}", label=name, ms=4)
            axes.set_xscale("log", base=2)
            axes.set_yscale("log")
            word = {"seconds": "seconds", "memory_bytes": "bytes"}[quantity]
            axes.set(xlabel=AXES[axis], ylabel=word)
            axes.grid(alpha=0.3)
    handles = {}
    for axes in panels.flat:
        handles |= dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=4)
    figure.savefig(folder / "results.png", dpi=120)


def run(argv: list[str] | None = None) -> int:
    """Measure what is missing; ends with status 1 if a run failed or was disturbed."""
    parser, arguments = parse(ComplexityArguments, CLAIM, __doc__, argv)
    if problem := arguments.first_problem({"variants": VARIANTS, "axes": AXES}, ("warmup",)):
        parser.error(problem)
    base = {name: getattr(arguments, f"base_{name}") for name in _BASE}
    usual = ", ".join(f"{name} {value:,}" for name, value in base.items())
    header = make_timed_header(arguments, f"One row; where it is not changed: {usual}.")
    header["settings"] |= base
    planned = plan_subjects(arguments.cases(), arguments, exact_memory=True)
    folder = str(Path(arguments.results_dir, CLAIM))
    return do_runs(parser, folder, header, planned, render, plot)
