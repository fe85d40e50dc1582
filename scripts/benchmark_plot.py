"""The plot of the generation benchmark."""

from collections.abc import Sequence
from pathlib import Path
from statistics import median

from scripts.benchmark_peers import VARIANTS
from scripts.benchmark_report import Case, Results, milliseconds, short

STYLES = {"band": "C0o-", "chunk": "C1s-", "stock": "C2^--", "gpt2": "C3v--"}


def plot(runs: Sequence[dict], path: Path) -> None:
    """Draw milliseconds per token at batch 1 against the context, both logarithmic.

    Points are medians over the repeats, bars the ranges. Nothing is written before a run has
    finished.

    Args:
        runs: as in results.json.
        path: a PNG file.
    """
    # A figure of its own, without pyplot: no display and no global state.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    results = Results(runs)
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for variant in results.variants:
        draw_variant(axes, results, variant)
    if not axes.lines:
        return
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(results.contexts, [short(context) for context in results.contexts])
    axes.set(
        xlabel="tokens of context (open markers: a cache of random states)",
        ylabel="milliseconds per token",
        title="Cached generation, batch 1",
    )
    axes.grid(alpha=0.3, which="both")
    axes.legend()
    figure.savefig(path, dpi=120)


def draw_variant(axes, results: Results, variant: str) -> None:
    """Add the line of a variant, if any of its runs has finished."""
    cases = [Case(variant, context, 1) for context in results.contexts]
    cases = [case for case in cases if case in results.finished]
    if not cases:
        return
    values = [list(results.per_repeat(case, milliseconds).values()) for case in cases]
    middles = [median(one) for one in values]
    bars = (
        [middle - min(one) for middle, one in zip(middles, values, strict=True)],
        [max(one) - middle for middle, one in zip(middles, values, strict=True)],
    )
    style, contexts = STYLES[variant], [case.context for case in cases]
    axes.errorbar(contexts, middles, yerr=bars, fmt=style, label=VARIANTS[variant])
    random = [i for i, case in enumerate(cases) if results.has_random_states(case)]
    axes.plot(
        [contexts[i] for i in random],
        [middles[i] for i in random],
        style[:3],
        markerfacecolor="white",
    )
