"""What the plots of all benchmarks and studies share."""

from collections.abc import Sequence
from statistics import median
from typing import Any

from scripts.benchmarks.common.tables import short

STYLES = {
    "band": "C0o-",
    "chunk": "C1s-",
    "stock": "C2^--",
    "gpt2": "C3v--",
    "lucid": "C4D--",
    "floor": "C7x:",
}
"""Colour, marker and line of the variants of all benchmarks."""


def new_figure(width: float, height: float) -> Any:
    """A figure of its own, without pyplot: no display and no global state."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def draw_spreads(
    axes: Any,
    points: dict[int, list[float]],
    variant: str,
    label: str,
    is_open: Sequence[int] = (),
) -> None:
    """Draw a line through medians, with bars for the ranges.

    Args:
        axes: to draw on.
        points: values by length; lengths without any are left out.
        variant: decides the style.
        label: name in the legend.
        is_open: lengths whose markers are open.
    """
    points = {length: values for length, values in points.items() if values}
    if not points:
        return
    middles = [median(values) for values in points.values()]
    bars = (
        [middle - min(one) for middle, one in zip(middles, points.values(), strict=True)],
        [max(one) - middle for middle, one in zip(middles, points.values(), strict=True)],
    )
    style = STYLES[variant]
    axes.errorbar(list(points), middles, yerr=bars, fmt=style, label=label)
    marked = [(x, y) for x, y in zip(points, middles, strict=True) if x in is_open]
    if marked:
        above = 3  # bars and the line through them are at 2.1 and below
        axes.plot(*zip(*marked, strict=True), style[:3], markerfacecolor="white", zorder=above)


def scale_lengths(axes: Any, lengths: Sequence[int], **words: str) -> None:
    """Make both axes logarithmic, lengths at the bottom; `words` are labels and a title."""
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(lengths, [short(length) for length in lengths])
    axes.set(**words)
    axes.grid(alpha=0.3, which="both")
