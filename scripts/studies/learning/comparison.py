"""Bits per byte against seconds: this package's Reformer among others, in the same minutes.

    python -m scripts.studies.learning comparison --max_minutes 5.5

All have the same layers, widths and vocabulary, the same texts and the quickstart's settings where
these apply, and are scored on the same held-out windows several times meanwhile; the time of that
does not count. Goes on where it was interrupted.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from reformer_hf.training.arguments import argument
from scripts.benchmarks.common.plot import new_figure
from scripts.benchmarks.common.tables import describe_machine, table
from scripts.studies.learning.common import (
    COST_COLUMNS,
    LearningArguments,
    Row,
    cost_cells,
    heading,
    mean_and_spread,
    of,
    run_rows,
    values_of,
)
from scripts.studies.learning.recipe import Recipe

STYLES = {
    "reformer_hf": "C0o-",
    "full attention": "C3v-",
    "local layers only": "C4D-",
    "transformers' Reformer": "C2^--",
    "GPT-2": "C1s--",
}
NOTES = """`full attention` and `local layers only` are this package's model with all layers of that
kind. transformers' Reformer has chunks, axial positions and ReLU; it trains only at the product of
its two axes, so all its rows are as long as the context. GPT-2 has learned positions and GELU, and
rows that grow. All have the optimizers of the recipe.
"""


@dataclass
class ComparisonArguments(LearningArguments):
    """What is compared, and how long each run trains."""

    corpora: list[str] = argument(["python"], "Texts, of python and bible.")
    evaluations: int = argument(8, "Evaluations in the minutes of a run.")


def make_rows(base: Recipe) -> dict[str, Row]:
    """What is trained under each name."""
    block, count = base.block_size, len(base.layers)
    long_rows = {"row_lengths": [block], "tokens_per_step": [block]}
    # Its chunks would mix documents; of bytes in one file the rows are the same.
    stock_arguments = {**long_rows, "packing": "blocks"}
    full, local, stock, gpt2 = list(STYLES)[1:]
    return {
        "reformer_hf": Row(base),
        full: Row(base.changed(attn_layers=["full"] * count)),
        local: Row(base.changed(attn_layers=["local"] * count)),
        stock: Row(base.changed(stock_arguments), "stock"),
        gpt2: Row(base, "gpt2"),
    }


def render(header: dict, runs: Sequence[dict]) -> str:
    """The results as Markdown, a table for each text."""
    lines = [describe_machine(header), ""]
    for corpus in values_of(runs, "corpus"):
        rows, of_corpus = [], of(runs, corpus=corpus)
        for name in values_of(of_corpus, "row"):
            mine = of(runs, corpus=corpus, row=name)
            bits = [run["bits_per_byte"] for run in mine]
            peak = max(run["peak_memory_bytes"] for run in mine)
            cells = [f"{peak / 2**20:,.0f}", mean_and_spread(bits), str(len(bits))]
            rows.append([name, *cost_cells(mine), *cells])
        columns = ["model", *COST_COLUMNS, "peak memory, MiB", "held-out bits per byte", "seeds"]
        lines += [heading(of_corpus), "", *table(columns, rows)]
    return "\n".join([*lines, NOTES])


def plot(runs: Sequence[dict], folder: Path) -> None:
    """Draw bits per byte against seconds of steps, a line per run."""
    corpora = list(values_of(runs, "corpus"))
    if not corpora:
        return
    figure = new_figure(7 * len(corpora), 4.5)
    all_axes = figure.subplots(1, len(corpora), squeeze=False)[0]
    for axes, corpus in zip(all_axes, corpora, strict=True):
        for name, style in STYLES.items():
            for index, run in enumerate(of(runs, corpus=corpus, row=name)):
                label = None if index else name
                seconds, bits = zip(*run["curve"], strict=True)
                axes.plot(seconds, bits, style, label=label, linewidth=1, markersize=4)
        axes.set(xlabel="seconds of steps", ylabel="held-out bits per byte", title=corpus)
        axes.grid(alpha=0.3)
        axes.legend()
    figure.savefig(folder / "results.png", dpi=120)


def run_part(argv: list[str] | None = None) -> int:
    """Run what is missing."""
    settings = ("max_minutes", "evaluations")
    return run_rows(
        "comparison", ComparisonArguments, __doc__, make_rows, settings, render, plot, argv
    )
