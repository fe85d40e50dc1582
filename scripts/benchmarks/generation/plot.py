"""The plot of the generation benchmark."""

from collections.abc import Sequence
from pathlib import Path

from scripts.benchmarks.common.peers import VARIANTS
from scripts.benchmarks.common.plot import draw_spreads, new_figure, scale_lengths
from scripts.benchmarks.generation.report import Case, Results, milliseconds


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
