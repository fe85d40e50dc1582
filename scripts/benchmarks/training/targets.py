"""What this package wants of its training speed and memory, and whether it was measured so."""

from collections.abc import Callable, Sequence
from statistics import median
from typing import NamedTuple

from scripts.benchmarks.common.peers import OURS
from scripts.benchmarks.common.tables import short, table
from scripts.benchmarks.training.peers import FLOOR
from scripts.benchmarks.training.report import (
    FORWARD,
    TRAINING,
    TrainingResults,
    peak_bytes,
    render_tables,
    seconds,
)

COMPARED = (2**12, 2**14, 2**16)  # lengths at which other Reformers are compared
SHORT = 2**9  # up to here full attention is the cheaper one
LONGEST = 2**16


class Target(NamedTuple):
    """A ratio that should be at least, or at most, some number.

    Attributes:
        text: what it is about.
        wanted: the number.
        is_least: whether the ratio should be at least that.
        measured: the ratio, or None if it was not measured.
    """

    text: str
    wanted: float
    is_least: bool
    measured: float | None

    @property
    def verdict(self) -> str:
        """Whether it holds, and if not, by how much it is missed."""
        if self.measured is None:
            return "not measured"
        missing = self.wanted - self.measured if self.is_least else self.measured - self.wanted
        return "holds" if missing <= 0 else f"falls short by {missing:,.2f}"

    def row(self) -> list[str]:
        """Its cells in the table."""
        wanted = f"{'at least' if self.is_least else 'at most'} {self.wanted:,.2f}"
        measured = "-" if self.measured is None else f"{self.measured:,.2f}"
        return [self.text, wanted, measured, self.verdict]


def targets(results: TrainingResults, ours: str) -> list[Target]:
    """All targets of one of our scopes, from medians over the repeats.

    Another's seconds over ours should be at least a number; ours over another's at most.
    """

    def target(
        above: str,
        below: str,
        wanted: float,
        length: int,
        dtype: str = "float32",
        mode: str = TRAINING,
        value: Callable[[dict], float] = seconds,
    ) -> Target:
        ratios = results.ratios(above, below, length, dtype, mode, value)
        what = "seconds" if value is seconds else "peak memory"
        text = f"{mode}, {dtype}, {short(length)}: {above} / {below}, {what}"
        return Target(text, wanted, below == ours, median(ratios) if ratios else None)

    found = [target("stock", ours, 2.5, length) for length in COMPARED]
    found += [target("stock", ours, 5.0, length, "bfloat16") for length in COMPARED]
    found += [target("lucid", ours, 4.0, length) for length in COMPARED]
    found += [target("stock", ours, 3.0, length, mode=FORWARD) for length in COMPARED]
    found += [target("gpt2", ours, 1.0, 2**11), target("gpt2", ours, 4.0, 2**14)]
    for length in [length for length in results.lengths if length <= SHORT] or [SHORT]:
        found += [target(ours, "gpt2", 1.2, length, mode=mode) for mode in (FORWARD, TRAINING)]
    found += [target(ours, FLOOR, 1.7, 2**14), target(ours, FLOOR, 3.0, 2**14, "bfloat16")]
    found.append(target(ours, "stock", 0.5, LONGEST, value=peak_bytes))
    found.append(target(ours, "lucid", 1.0, LONGEST, value=peak_bytes))
    return found


def render(header: dict, runs: Sequence[dict]) -> str:
    """Summary and all tables as Markdown."""
    results = TrainingResults(runs, header["settings"]["shape"]["num_hidden_layers"])
    machine, _, *tables = render_tables(header, results)
    lines = [machine, ""]
    for ours in OURS:
        if ours not in results.variants:
            continue
        about = "Targets" if ours == "band" else "The same for information"
        rows = [target.row() for target in targets(results, ours)]
        lines += [f"## {about}: `{ours}`", ""]
        lines += table(["median ratio", "wanted", "measured", "verdict"], rows)
    return "\n".join([*lines, *tables]).rstrip() + "\n"
