"""Tables of the generation benchmark, from the runs in results.json."""

from collections.abc import Sequence
from typing import NamedTuple

from scripts.benchmarks.common.peers import VARIANTS
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


def case_of(run: dict) -> Case:
    """The case that a recorded run is of."""
    return Case(run["variant"], run["context"], run["batch"])


class Results(Repeats[Case]):
    """The recorded runs by case and repeat.

    Args:
        runs: as in results.json; only those that count enter the tables.
    """

    def __init__(self, runs: Sequence[dict]):
        super().__init__(runs, case_of)
        self.contexts = sorted({case.context for case in self.cases})
        self.batches = sorted({case.batch for case in self.cases} - {1})
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
        return spread(list(results.per_repeat(case, milliseconds).values())) + mark

    rows = [(VARIANTS[v], lambda context, v=v: cell(v, context)) for v in results.variants]
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
    pairs = [("stock", "band"), ("gpt2", "band"), ("stock", "chunk"), ("gpt2", "chunk")]
    rows = [
        (
            f"{VARIANTS[above]} / {VARIANTS[below]}",
            lambda c, a=above, b=below: spread(results.ratios(Case(a, c, 1), Case(b, c, 1))),
        )
        for above, below in pairs
        if {above, below} <= set(results.variants)
    ]
    first = results.contexts[0]
    rows += [
        (
            f"{VARIANTS[v]} / itself at {short(first)}",
            lambda c, v=v: spread(results.ratios(Case(v, c, 1), Case(v, first, 1))),
        )
        for v in results.variants
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
    for case in sorted(case for case in results.finished if case.batch in results.batches):
        alone = Case(case.variant, case.context, 1)
        # One step serves `batch` rows.
        gains = [case.batch / ratio for ratio in results.ratios(case, alone)]
        rates = [
            spread(list(results.per_repeat(each, tokens_per_second).values()), ",.0f")
            for each in (alone, case)
        ]
        names = [VARIANTS[case.variant], short(case.context), str(case.batch)]
        rows.append([*names, *rates, spread(gains)])
    if not rows:
        return []
    header = ["", "context", "batch", "tokens/s at batch 1", "tokens/s of the batch", "ratio"]
    return ["## Batches", "", *table(header, rows)]


def prefill_section(results: Results) -> list[str]:
    """Prefill tokens per second at batch 1."""

    def cell(variant: str, context: int) -> str:
        case = Case(variant, context, 1)
        if results.has_random_states(case):
            return "-"
        return spread(list(results.per_repeat(case, prefill_rate).values()), ",.0f")

    rows = [(VARIANTS[v], lambda context, v=v: cell(v, context)) for v in results.variants]
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
            runs = results.finished.get(Case(variant, context, 1), {})
            for run in runs.values():
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
    header = ["", "bytes per token", "fixed bytes"]
    return [
        "## Cache bytes, batch 1",
        "",
        "Bytes per token and fixed bytes: the straight line through the used bytes at a variant's "
        "shortest and longest context. Columns of contexts: MB used of MB allocated.",
        "",
        *table(header + [short(c) for c in results.contexts], rows),
    ]


def failure_section(results: Results) -> list[str]:
    """Runs that did not finish."""
    if not results.failed:
        return []
    rows = [
        [VARIANTS[run["variant"]], short(run["context"]), str(run["batch"]), run["error"]]
        for run in results.failed
    ]
    return ["## Runs that failed", "", *table(["", "context", "batch", "error"], rows)]


def render(header: dict, runs: Sequence[dict]) -> str:
    """All tables as Markdown."""
    results = Results(runs)
    lines = [describe_machine(header), ""]
    for section in (
        time_section,
        ratio_section,
        batch_section,
        prefill_section,
        bytes_section,
        failure_section,
    ):
        lines += section(results)
    return "\n".join(lines).rstrip() + "\n"
