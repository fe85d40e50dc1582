"""What this package wants of its training speed and memory, and whether it was measured so."""

from collections.abc import Iterator, Sequence
from statistics import median
from typing import NamedTuple

from scripts.benchmarks.common.peers import OURS
from scripts.benchmarks.common.tables import short, table
from scripts.benchmarks.training.peers import FLOOR
from scripts.benchmarks.training.report import (
    TrainingResults,
    bytes_beyond_parameters,
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
    """All targets of one of our scopes, from medians over the repeats."""
    return [*speed_targets(results, ours), *memory_targets(results, ours)]


def speed_targets(results: TrainingResults, ours: str) -> Iterator[Target]:
    """Those of seconds per step."""

    def faster(peer: str, wanted: float, length: int, dtype: str, mode: str = "training") -> Target:
        ratios = results.ratios(peer, ours, length, dtype, mode, seconds)
        text = f"{mode}, {dtype}, {short(length)}: {peer} / {ours}, seconds"
        return Target(text, wanted, True, _middle(ratios))

    def near(other: str, wanted: float, length: int, dtype: str, mode: str = "training") -> Target:
        ratios = results.ratios(ours, other, length, dtype, mode, seconds)
        text = f"{mode}, {dtype}, {short(length)}: {ours} / {other}, seconds"
        return Target(text, wanted, False, _middle(ratios))

    for peer, dtype, mode, wanted in (
        ("stock", "float32", "training", 2.5),
        ("stock", "bfloat16", "training", 5.0),
        ("lucid", "float32", "training", 4.0),
        ("stock", "float32", "forward", 3.0),
    ):
        for length in COMPARED:
            yield faster(peer, wanted, length, dtype, mode)
    yield faster("gpt2", 1.0, 2**11, "float32")
    yield faster("gpt2", 4.0, 2**14, "float32")
    for length in [length for length in results.lengths if length <= SHORT] or [SHORT]:
        for mode in ("forward", "training"):
            yield near("gpt2", 1.2, length, "float32", mode)
    yield near(FLOOR, 1.7, 2**14, "float32")
    yield near(FLOOR, 3.0, 2**14, "bfloat16")


def memory_targets(results: TrainingResults, ours: str) -> Iterator[Target]:
    """Those of peak memory."""
    for peer, wanted in (("stock", 0.5), ("lucid", 1.0)):
        ratios = results.ratios(ours, peer, LONGEST, "float32", "training", peak_bytes)
        text = f"training, float32, {short(LONGEST)}: {ours} / {peer}, peak memory"
        yield Target(text, wanted, False, _middle(ratios))
    if ours == "band":  # the only one whose depth is varied
        depths = results.depths(bytes_beyond_parameters)
        few, many = (min(depths), max(depths)) if depths else (4, 24)
        grown = depths[many] / depths[few] if few in depths else None
        text = f"{many} layers / {few} layers: peak memory less parameters and gradients"
        yield Target(text, 1.05, False, grown)


def _middle(values: Sequence[float]) -> float | None:
    return median(values) if values else None


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
