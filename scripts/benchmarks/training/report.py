"""Tables of the training benchmark, from the runs in results.json."""

from collections.abc import Callable, Sequence
from functools import partial
from statistics import median
from typing import NamedTuple

from scripts.benchmarks.common.peers import OURS
from scripts.benchmarks.common.tables import (
    Repeats,
    describe_machine,
    disturbance,
    length_table,
    short,
    spread,
    table,
)
from scripts.benchmarks.training.peers import FLOOR, TRAINING_VARIANTS
from scripts.benchmarks.training.profile import PHASES

FORWARD, TRAINING, PROFILE = "forward", "training", "profile"
MODE_NAMES = {FORWARD: "forward only, without gradients", TRAINING: "forward and backward"}


class TrainingCase(NamedTuple):
    """What is measured once in each repeat.

    Attributes:
        variant: of `peers.TRAINING_VARIANTS`.
        length: tokens of a row.
        dtype: `float32`, or `bfloat16` for autocast.
        mode: `forward` without gradients; `training` for forward and backward; `profile` to
            profile the latter by stage.
        layers: of the model.
    """

    variant: str
    length: int
    dtype: str
    mode: str
    layers: int

    def __str__(self) -> str:
        return f"{self.variant} at {short(self.length)}, {self.dtype}, {self.mode}"


class TrainingResults(Repeats[TrainingCase]):
    """The recorded runs by case and repeat.

    Args:
        runs: as in results.json; only those that count enter the tables.
        layers: of the models that are compared.
    """

    def __init__(self, runs: Sequence[dict], layers: int):
        super().__init__(runs, lambda run: TrainingCase(*(run[n] for n in TrainingCase._fields)))
        self.layers = layers
        compared = [c for c in self.cases if c.layers == layers and c.mode in MODE_NAMES]
        self.lengths = sorted({case.length for case in compared})
        self.dtypes = [d for d in ("float32", "bfloat16") if d in {c.dtype for c in compared}]
        self.modes = [mode for mode in MODE_NAMES if mode in {case.mode for case in compared}]
        present = {case.variant for case in compared}
        self.variants = [name for name in TRAINING_VARIANTS if name in present]

    def case(self, variant: str, length: int, dtype: str, mode: str) -> TrainingCase:
        """A case of the models that are compared."""
        return TrainingCase(variant, length, dtype, mode, self.layers)

    def ratios(
        self,
        above: str,
        below: str,
        length: int,
        dtype: str,
        mode: str,
        value: Callable[[dict], float],
    ) -> list[float]:
        """A value of one variant over that of another, repeat by repeat."""
        numerator = self.case(above, length, dtype, mode)
        return self.paired(numerator, self.case(below, length, dtype, mode), value)

    @property
    def knows_memory(self) -> bool:
        """Whether the system told the peaks of forward and backward apart."""
        runs = [run for repeats in self.finished.values() for run in repeats.values()]
        return all(run["memory"]["forward"] is not None for run in runs if "memory" in run)


def seconds(run: dict) -> float:
    """Seconds per step."""
    return run["seconds_per_step"]


def tokens_per_second(run: dict) -> float:
    """Tokens of all rows per second."""
    return run["tokens_per_second"]


def peak_bytes(run: dict) -> float:
    """Peak of resident memory while steps were done; of the whole process where that is unknown."""
    memory = run["memory"]
    peaks = [memory[name] for name in ("forward", "backward") if memory[name] is not None]
    return max(peaks) if peaks else memory["whole"] or float("nan")


def panel_tables(
    results: TrainingResults, rows: Sequence[tuple[str, Callable[..., str]]]
) -> list[str]:
    """A table for each mode and dtype; `rows` are names and what fills a cell of a length."""
    lines = []
    for mode in results.modes:
        for dtype in results.dtypes:
            filled: list[tuple[str, Callable[[int], str]]] = [
                (name, partial(cell, dtype=dtype, mode=mode)) for name, cell in rows
            ]
            lines += [f"### {MODE_NAMES[mode]}, {dtype}", ""]
            lines += length_table(results.lengths, filled, "tokens of a row")
    return lines


def speed_section(results: TrainingResults) -> list[str]:
    """Tokens per second."""

    def cell(length: int, dtype: str, mode: str, variant: str) -> str:
        case = results.case(variant, length, dtype, mode)
        return results.spread(case, tokens_per_second, ",.0f")

    rows = [(TRAINING_VARIANTS[v], partial(cell, variant=v)) for v in results.variants]
    waiting = disturbance(results, "waiting", "steps")
    return ["## Tokens per second", "", waiting, "", *panel_tables(results, rows)]


def ratio_section(results: TrainingResults) -> list[str]:
    """Ratios of seconds per step."""

    def cell(length: int, dtype: str, mode: str, above: str, below: str) -> str:
        return spread(results.ratios(above, below, length, dtype, mode, seconds))

    pairs = [(peer, ours) for ours in OURS for peer in ("stock", "lucid", "gpt2")]
    pairs += [(ours, FLOOR) for ours in OURS]
    rows = [
        (
            f"{TRAINING_VARIANTS[above]} / {TRAINING_VARIANTS[below]}",
            partial(cell, above=above, below=below),
        )
        for above, below in pairs
        if {above, below} <= set(results.variants)
    ]
    return [
        "## Ratios of seconds per step",
        "",
        "Median and range of the ratios of runs of the same repeat, in the same dtype. The floor "
        "is the matrix products of the `band` model alone (forward, the recomputation of a "
        "reversible model, backward; a chunk of queries meets its own keys and those before it) in "
        "that dtype, in blocks that stay in the caches. Where a processor has no bfloat16 "
        "arithmetic they take longer in it than in float32, in which this package computes "
        "attention on a CPU: a ratio may then be below 1.",
        "",
        *(panel_tables(results, rows) if rows else []),
    ]


def memory_section(results: TrainingResults) -> list[str]:
    """Peak resident memory by phase."""

    def cell(length: int, dtype: str, mode: str, variant: str) -> str:
        case = results.case(variant, length, dtype, mode)
        runs = list(results.finished.get(case, {}).values())
        phases = ("built", "forward", "backward")[: 3 if mode == "training" else 2]
        known = [[run["memory"][phase] for run in runs] for phase in phases]
        return " / ".join(map(megabytes, known)) if runs else "-"

    text = "Resident memory of the whole process in MB: after the model was built / peak of "
    text += "forward / peak of backward. Medians over the repeats."
    if not results.knows_memory:
        text += " Where this system does not tell the peak of a phase there is a dash."
    rows = [(TRAINING_VARIANTS[v], partial(cell, variant=v)) for v in results.variants]
    return ["## Peak memory", "", text, "", *panel_tables(results, rows)]


def megabytes(values: Sequence[float | None]) -> str:
    """The median of some bytes in MB; a dash where one is unknown."""
    known = [value for value in values if value is not None]
    return f"{median(known) / 1e6:,.0f}" if known and len(known) == len(values) else "-"


def profile_section(results: TrainingResults) -> list[str]:
    """Where our own time goes."""
    lines: list[str] = []
    cases = [case for case in results.finished if case.mode == "profile"]
    for case in sorted(cases):
        run = next(iter(results.finished[case].values()))
        totals = [sum(stage[i] for stage in run["stages"]) for i in range(1, len(PHASES) + 1)]
        whole = sum(totals) or 1.0
        rows = [
            [name, *(f"{one:,.1f}" for one in (*spent, sum(spent))), f"{sum(spent) / whole:.1%}"]
            for name, *spent in [*run["stages"], ["all", *totals]]
        ]
        lines += [
            f"## Time by stage: `{case.variant}` at {short(case.length)}, {case.dtype}",
            "",
            f"Milliseconds of a step, mean of {run['steps']} under the profiler; a step without it "
            f"took {run['plain_milliseconds']:,.1f} ms. A stage is some functions of the package, "
            "without those of other stages inside them; a gradient belongs to the stage that "
            "recorded it. `gather` and `attend` make up attention; `reversal` is the sums of the "
            "streams and the bookkeeping of the replay; `other` is not attributed: checks of the "
            "inputs, the last concatenation, sums of gradients.",
            "",
            *table(["stage", *PHASES, "sum", "share"], rows),
        ]
        if run["missing"]:
            lines += [f"Not found, so in the stage around them: {', '.join(run['missing'])}.", ""]
    return lines


def render_tables(header: dict, results: TrainingResults) -> list[str]:
    """All tables as lines of Markdown."""
    sections = (speed_section, ratio_section, memory_section, profile_section)
    lines = [line for section in sections for line in section(results)]
    lines += results.failure_section(TrainingCase._fields, lambda case: [*map(str, case)])
    return [describe_machine(header), "", *lines]
