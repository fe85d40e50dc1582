"""Tables of the generation benchmark, from the runs in results.json."""

from collections.abc import Callable, Sequence
from statistics import median
from typing import NamedTuple

from scripts.benchmark_peers import VARIANTS


class Case(NamedTuple):
    """What is measured once in each repeat.

    Attributes:
        variant: of `benchmark_peers.VARIANTS`.
        context: tokens per row in the cache.
        batch: rows.
    """

    variant: str
    context: int
    batch: int


def case_of(run: dict) -> Case:
    """The case that a recorded run is of."""
    return Case(run["variant"], run["context"], run["batch"])


def counts(run: dict) -> bool:
    """Whether a recorded run finished, and without being disturbed."""
    return "error" not in run and not run["disturbed"]


class Results:
    """The recorded runs by case and repeat.

    Args:
        runs: as in results.json; only those that count enter the tables.
    """

    def __init__(self, runs: Sequence[dict]):
        self.failed = [run for run in runs if "error" in run]
        self.disturbed = [run for run in runs if "error" not in run and not counts(run)]
        self.finished: dict[Case, dict[int, dict]] = {}
        for run in runs:
            if counts(run):
                self.finished.setdefault(case_of(run), {})[run["repeat"]] = run
        cases = {case_of(run) for run in runs}
        self.contexts = sorted({case.context for case in cases})
        self.batches = sorted({case.batch for case in cases} - {1})
        self.variants = [name for name in VARIANTS if name in {case.variant for case in cases}]

    def per_repeat(self, case: Case, value: Callable[[dict], float]) -> dict[int, float]:
        """A value of each repeat of a case; empty where none has finished."""
        return {repeat: value(run) for repeat, run in self.finished.get(case, {}).items()}

    def ratios(self, above: Case, below: Case) -> list[float]:
        """Milliseconds per step of one case over those of another, repeat by repeat."""
        numerators = self.per_repeat(above, milliseconds)
        denominators = self.per_repeat(below, milliseconds)
        return [numerators[i] / denominators[i] for i in numerators if i in denominators]

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


def short(tokens: int) -> str:
    """A length such as 16K."""
    return f"{tokens // 1024}K" if tokens % 1024 == 0 else str(tokens)


def spread(values: Sequence[float], form: str = ",.2f") -> str:
    """The median of some values and, of several, their range; a dash where there are none."""
    if len(values) < 2:
        return f"{values[0]:{form}}" if values else "-"
    return f"{median(values):{form}} ({min(values):{form}} to {max(values):{form}})"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a Markdown table."""
    ruled = [header, ["---"] * len(header), *rows]
    return ["| " + " | ".join(cells) + " |" for cells in ruled] + [""]


def context_table(
    results: Results, rows: Sequence[tuple[str, Callable[[int], str]]], corner: str
) -> list[str]:
    """A table with a column per context; `rows` are names and what fills a cell of a context."""
    header = [corner, *map(short, results.contexts)]
    return table(header, [[name, *map(cell, results.contexts)] for name, cell in rows])


def describe_machine(header: dict) -> str:
    """Date, machine, versions and setting in a paragraph."""
    machine = header["machine"]
    versions = ", ".join(f"{p} {machine['versions'][p]}" for p in ("torch", "transformers"))
    return (
        f"{machine['date'][:10]}, {machine['processor']}, {machine['torch_threads']} threads, "
        f"{versions}. {header['summary']}"
    )


def disturbance(results: Results, name: str, what: str) -> str:
    """A sentence on what other processes did to the machine meanwhile; empty if unknown."""
    runs = [run for repeats in results.finished.values() for run in repeats.values()]
    shares = [run[name] for run in runs if run[name] is not None]
    text = ""
    if shares:
        text = f"Seconds that threads waited for a core in each second of {what}: {spread(shares)}."
    if results.disturbed:
        text += f" {len(results.disturbed)} runs are left out, because they waited longer."
    return text.strip()


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
        *context_table(results, rows, "context"),
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
        *context_table(results, rows, "context"),
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
        *context_table(results, rows, "context"),
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
