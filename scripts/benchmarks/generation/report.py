"""Tables and the plot of the generation benchmark, from the runs in results.json."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from scripts.benchmarks.common.peers import VARIANTS
from scripts.benchmarks.common.plot import draw_spreads, new_figure, scale_lengths
from scripts.benchmarks.common.tables import (
    Repeats,
    describe_machine,
    disturbance,
    length_table,
    short,
    spread,
    table,
)


class Case(NamedTuple):
    """What is measured once in each repeat.

    Attributes:
        variant: of `peers.VARIANTS`.
        context: tokens per row in the cache.
        batch: rows.
    """

    variant: str
    context: int
    batch: int

    def __str__(self) -> str:
        return f"{self.variant} at {short(self.context)}, batch {self.batch}"


class Results(Repeats[Case]):
    """The recorded runs by case and repeat.

    Args:
        runs: as in results.json; only those that count enter the tables.
    """

    def __init__(self, runs: Sequence[dict]):
        super().__init__(runs, lambda run: Case(*(run[name] for name in Case._fields)))
        self.contexts = sorted({case.context for case in self.cases})
        self.variants = [name for name in VARIANTS if name in {case.variant for case in self.cases}]

    def ratios(self, above: Case, below: Case) -> list[float]:
        """Milliseconds per step of one case over those of another, repeat by repeat."""
        return self.paired(above, below, milliseconds)

    def has_random_states(self, case: Case) -> bool:
        """Whether a case's cache was filled with random states."""
        return any(run["random_states"] for run in self.finished.get(case, {}).values())


def milliseconds(run: dict) -> float:
    """Milliseconds per step, which is one token per row."""
    return run["ms_per_step"]


def tokens_per_second(run: dict) -> float:
    """Generated tokens per second of all rows."""
    return 1000 * run["batch"] / run["ms_per_step"]


def prefill_rate(run: dict) -> float:
    """Tokens per second of the prefill."""
    return run["batch"] * run["context"] / run["prefill_seconds"]


def time_section(results: Results) -> list[str]:
    """Milliseconds per token at batch 1."""

    def cell(variant: str, context: int) -> str:
        case = Case(variant, context, 1)
        mark = " *" if results.has_random_states(case) else ""
        return results.spread(case, milliseconds) + mark

    rows = [(VARIANTS[variant], partial(cell, variant)) for variant in results.variants]
    return [
        "## Milliseconds per generated token, batch 1",
        "",
        "A step's time is the median of its run; here the median and range over the repeats. "
        "`*`: the cache was filled with random states instead of a prefill. "
        + disturbance(results, "waiting", "decoding"),
        "",
        *length_table(results.contexts, rows, "context"),
    ]


def ratio_section(results: Results) -> list[str]:
    """Ratios of milliseconds per token, in pairs of the same repeat."""
    first = results.contexts[0]

    def between(above: str, below: str, context: int) -> str:
        return spread(results.ratios(Case(above, context, 1), Case(below, context, 1)))

    def growth(variant: str, context: int) -> str:
        return spread(results.ratios(Case(variant, context, 1), Case(variant, first, 1)))

    pairs = [(peer, ours) for ours in ("band", "chunk") for peer in ("stock", "gpt2")]
    rows = [
        (f"{VARIANTS[above]} / {VARIANTS[below]}", partial(between, above, below))
        for above, below in pairs
        if {above, below} <= set(results.variants)
    ]
    rows += [
        (f"{VARIANTS[variant]} / itself at {short(first)}", partial(growth, variant))
        for variant in results.variants
    ]
    return [
        "## Ratios of milliseconds per token",
        "",
        "Median and range of the ratios of runs of the same repeat.",
        "",
        *length_table(results.contexts, rows, "context"),
    ]


def batch_section(results: Results) -> list[str]:
    """Generated tokens per second of batches, and as multiples of batch 1."""
    rows = []
    for case in sorted(case for case in results.finished if case.batch > 1):
        alone = case._replace(batch=1)
        # One step serves `batch` rows.
        gains = [case.batch / ratio for ratio in results.ratios(case, alone)]
        rates = [results.spread(each, tokens_per_second, ",.0f") for each in (alone, case)]
        rows.append([*cells_of(case), *rates, spread(gains)])
    header = ["", "context", "batch", "tokens/s at batch 1", "tokens/s of the batch", "ratio"]
    return ["## Batches", "", *table(header, rows)] if rows else []


def prefill_section(results: Results) -> list[str]:
    """Prefill tokens per second at batch 1."""

    def cell(variant: str, context: int) -> str:
        case = Case(variant, context, 1)
        if results.has_random_states(case):
            return "-"
        return results.spread(case, prefill_rate, ",.0f")

    rows = [(VARIANTS[variant], partial(cell, variant)) for variant in results.variants]
    return [
        "## Prefill, tokens per second",
        "",
        disturbance(results, "waiting_in_prefill", "prefill"),
        "",
        *length_table(results.contexts, rows, "context"),
    ]


def bytes_section(results: Results) -> list[str]:
    """Cache bytes: totals, and the slope and intercept between the ends of the contexts."""
    rows = []
    for variant in results.variants:
        sizes: dict[int, tuple[int, int]] = {}
        for context in results.contexts:
            for run in results.finished.get(Case(variant, context, 1), {}).values():
                sizes[context] = (run["cache_used_bytes"], run["cache_allocated_bytes"])
        if not sizes:
            continue
        first, last = min(sizes), max(sizes)
        rate, fixed = "-", "-"
        if last > first:
            slope = (sizes[last][0] - sizes[first][0]) / (last - first)
            rate, fixed = f"{slope:,.0f}", f"{sizes[first][0] - slope * first:,.0f}"
        totals = [
            "-" if c not in sizes else " of ".join(f"{size / 1e6:,.1f}" for size in sizes[c])
            for c in results.contexts
        ]
        rows.append([VARIANTS[variant], rate, fixed, *totals])
    return [
        "## Cache bytes, batch 1",
        "",
        "Bytes per token and fixed bytes: the straight line through the used bytes at a variant's "
        "shortest and longest context. Columns of contexts: MB used of MB allocated.",
        "",
        *table(["", "bytes per token", "fixed bytes", *map(short, results.contexts)], rows),
    ]


def cells_of(case: Case) -> list[str]:
    """A case in a table."""
    return [VARIANTS[case.variant], short(case.context), str(case.batch)]


def render(header: dict, runs: Sequence[dict]) -> str:
    """All tables as Markdown."""
    results = Results(runs)
    lines = [describe_machine(header), ""]
    for section in (time_section, ratio_section, batch_section, prefill_section, bytes_section):
        lines += section(results)
    lines += results.failure_section(["", "context", "batch"], cells_of)
    return "\n".join(lines).rstrip() + "\n"


def plot(runs: Sequence[dict], folder: Path) -> None:
    """Draw milliseconds_per_token.png: batch 1 against the context, both logarithmic.

    Points are medians over the repeats, bars the ranges. Nothing is written before a run has
    finished.

    Args:
        runs: as in results.json.
        folder: for the plot.
    """
    results = Results(runs)
    figure = new_figure(7, 4.5)
    axes = figure.add_subplot()
    for variant in results.variants:
        cases = [Case(variant, context, 1) for context in results.contexts]
        points = {c.context: list(results.per_repeat(c, milliseconds).values()) for c in cases}
        random = [case.context for case in cases if results.has_random_states(case)]
        draw_spreads(axes, points, variant, VARIANTS[variant], random)
    if not axes.lines:
        return
    scale_lengths(
        axes,
        results.contexts,
        xlabel="tokens of context (open markers: a cache of random states)",
        ylabel="milliseconds per token",
        title="Cached generation, batch 1",
    )
    axes.legend()
    figure.savefig(folder / "milliseconds_per_token.png", dpi=120)
