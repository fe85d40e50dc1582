"""What the reports of benchmarks and studies share: runs by case and repeat, Markdown tables."""

from collections.abc import Callable, Hashable, Sequence
from statistics import median
from typing import Generic, TypeVar

CaseT = TypeVar("CaseT", bound=Hashable)
"""Says what is measured once in each repeat."""


def counts(run: dict) -> bool:
    """Whether a recorded run finished, and without being disturbed."""
    return "error" not in run and not run.get("disturbed")


class Repeats(Generic[CaseT]):
    """The recorded runs by case and repeat.

    Args:
        runs: as in results.json; only those that count enter the tables.
        case_of: the case of a run.
    """

    def __init__(self, runs: Sequence[dict], case_of: Callable[[dict], CaseT]):
        self.case_of = case_of
        self.failed = [run for run in runs if "error" in run]
        self.disturbed = [run for run in runs if "error" not in run and not counts(run)]
        self.cases = {case_of(run) for run in runs}
        self.finished: dict[CaseT, dict[int, dict]] = {}
        for run in runs:
            if counts(run):
                self.finished.setdefault(case_of(run), {})[run["repeat"]] = run

    def per_repeat(self, case: CaseT, value: Callable[[dict], float]) -> dict[int, float]:
        """A value of each repeat of a case; empty where none has finished."""
        return {repeat: value(run) for repeat, run in self.finished.get(case, {}).items()}

    def spread(self, case: CaseT, value: Callable[[dict], float], form: str = ",.2f") -> str:
        """Median and range of a value over the repeats of a case; see `spread`."""
        return spread(list(self.per_repeat(case, value).values()), form)

    def paired(self, above: CaseT, below: CaseT, value: Callable[[dict], float]) -> list[float]:
        """A value of one case over that of another, repeat by repeat."""
        numerators, denominators = self.per_repeat(above, value), self.per_repeat(below, value)
        return [numerators[i] / denominators[i] for i in numerators if i in denominators]

    def failure_section(
        self, columns: Sequence[str], cells: Callable[[CaseT], list[str]]
    ) -> list[str]:
        """The runs that did not finish; `cells` are those of a case."""
        rows = [[*cells(self.case_of(run)), run["error"]] for run in self.failed]
        lines = ["## Runs that failed", "", *table([*columns, "error"], rows)]
        return lines if rows else []


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


def length_table(
    lengths: Sequence[int], rows: Sequence[tuple[str, Callable[[int], str]]], corner: str
) -> list[str]:
    """A table with a column per length; `rows` are names and what fills a cell of a length."""
    header = [corner, *map(short, lengths)]
    return table(header, [[name, *map(cell, lengths)] for name, cell in rows])


def describe_machine(header: dict) -> str:
    """Date, machine, versions and setting in a paragraph."""
    machine = header["machine"]
    versions = ", ".join(f"{p} {machine['versions'][p]}" for p in ("torch", "transformers"))
    return (
        f"{machine['date'][:10]}, {machine['processor']}, {machine['torch_threads']} threads, "
        f"{versions}. {header['summary']}"
    )


def disturbance(results: Repeats, name: str, what: str) -> str:
    """A sentence on what other processes did to the machine meanwhile; empty if unknown."""
    runs = [run for repeats in results.finished.values() for run in repeats.values()]
    shares = [run[name] for run in runs if run[name] is not None]
    text = ""
    if shares:
        text = f"Seconds that threads waited for a core in each second of {what}: {spread(shares)}."
    if results.disturbed:
        text += f" {len(results.disturbed)} runs are left out, because they waited longer."
    return text.strip()
