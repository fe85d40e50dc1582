"""The plots of the training benchmark."""

from collections.abc import Callable, Sequence
from pathlib import Path

from scripts.benchmarks.common.plot import draw_spreads, new_figure, scale_lengths
from scripts.benchmarks.training.peers import FLOOR, TRAINING_VARIANTS
from scripts.benchmarks.training.report import (
    MODE_NAMES,
    TrainingResults,
    peak_bytes,
    tokens_per_second,
)


def plot_all(layers: int, tokens_per_batch: int, runs: Sequence[dict], folder: Path) -> None:
    """Write all plots for which there are runs.

    Args:
        layers: of the models that are compared.
        tokens_per_batch: tokens of all rows, where rows are shorter.
        runs: as in results.json.
        folder: for time_per_token.png, seconds_per_batch.png and memory_by_length.png.
    """
    results = TrainingResults(runs, layers)
    panels = [(mode, dtype) for mode in results.modes for dtype in results.dtypes]
    training = [panel for panel in panels if panel[0] == "training"]
    plot_panels(
        results,
        panels,
        lambda run: 1e6 / tokens_per_second(run),
        folder / "time_per_token.png",
        ylabel="microseconds per token",
    )
    longer = [length for length in results.lengths if length > tokens_per_batch]
    plot_panels(
        results,
        training,
        lambda run: tokens_per_batch / tokens_per_second(run),
        folder / "seconds_per_batch.png",
        is_open=longer,
        xlabel="tokens of a row (open markers: scaled from one longer row)",
        ylabel=f"seconds per batch of {tokens_per_batch:,} tokens",
    )
    plot_panels(
        results,
        training,
        lambda run: peak_bytes(run) / 1e6,
        folder / "memory_by_length.png",
        leave_out=(FLOOR,),
        ylabel="peak resident memory, MB",
    )


def plot_panels(
    results: TrainingResults,
    panels: Sequence[tuple[str, str]],
    value: Callable[[dict], float],
    path: Path,
    is_open: Sequence[int] = (),
    leave_out: Sequence[str] = (),
    xlabel: str = "tokens of a row",
    ylabel: str = "",
) -> None:
    """Draw a value against the length for each variant, with a panel per mode and dtype.

    Args:
        results: of all runs.
        panels: modes and dtypes; without any there is no file.
        value: of a run.
        path: a PNG file.
        is_open: lengths whose markers are open.
        leave_out: variants that are not drawn.
        xlabel: below each panel.
        ylabel: beside it.
    """
    if not results.finished or not panels:
        return
    columns = len(results.dtypes)
    rows = -(-len(panels) // columns)
    figure = new_figure(6.5 * columns, 4.5 * rows)
    for index, (mode, dtype) in enumerate(panels):
        axes = figure.add_subplot(rows, columns, index + 1)
        for variant in results.variants:
            if variant not in leave_out:
                cases = [results.case(variant, n, dtype, mode) for n in results.lengths]
                points = {c.length: list(results.per_repeat(c, value).values()) for c in cases}
                draw_spreads(axes, points, variant, TRAINING_VARIANTS[variant], is_open)
        if axes.lines:
            title = f"{MODE_NAMES[mode]}, {dtype}"
            scale_lengths(axes, results.lengths, xlabel=xlabel, ylabel=ylabel, title=title)
    named: dict = {}
    for axes in figure.axes:
        handles, labels = axes.get_legend_handles_labels()
        named |= zip(labels, handles, strict=True)
    figure.legend(named.values(), named.keys(), loc="outside lower center", ncols=3)
    figure.savefig(path, dpi=120)
