"""What the claims about learning share: rows over the recipe without n-grams, and their curves.

N-grams are no part of the paper's model, and hide what other parts are worth. All else is the
recipe: rotary positions, a convolution of two tokens, Muon and AdamW, rows that grow. Runs of more
tokens (`--tokens`) want a `--results_dir` of their own.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reformer_hf.training.arguments import argument
from scripts.benchmarks.common.plot import new_figure
from scripts.studies.learning.ablation import AblationArguments, render
from scripts.studies.learning.common import Measure, Row, of, run_rows, values_of
from scripts.studies.learning.recipe import Recipe

OUTPUTS, RESULTS = "outputs/reproduce", "scripts/results/reproduce"


@dataclass
class RowsArguments(AblationArguments):
    """What is trained, and how long each run trains."""

    output_dir: str = argument(OUTPUTS, "Folder of texts, and of a folder for each run.")
    results_dir: str = argument(RESULTS, "Folder of results; each claim has its own in it.")
    corpora: list[str] = argument(["python"], "Texts, of python and bible.")
    budgets: list[str] = argument(["tokens"], "What is equal, of tokens, minutes.")
    evaluations: int = argument(4, "Evaluations of a run, the last at its end.")
    max_eval_samples: int = argument(8, "Held-out windows of each.")

    def read_recipe(self) -> Recipe:
        """See the base class."""
        recipe = super().read_recipe().changed(ngram_sizes=[])
        return recipe if self.smoke else recipe.changed({"max_eval_samples": self.max_eval_samples})


def run_claim(
    claim: str,
    about: str,
    description: str | None,
    make_rows: Callable[[Recipe], dict[str, Row]],
    render: Callable[[dict, Sequence[dict]], str],
    plot: Callable[[Sequence[dict], Path], None],
    argv: list[str] | None,
    kind: type[RowsArguments] = RowsArguments,
    measure: Measure | None = None,
) -> int:
    """Train what is missing of a claim; see `run_rows`. `about` says what the models are."""
    settings = ("tokens", "max_minutes", "evaluations")
    study: Any = {"study": "reproduce", "about": f"{about}, no n-grams", "measure": measure}
    parts = (description, make_rows, settings, render, plot, argv)
    return run_rows(claim, kind, *parts, **study)


def render_against(base: str, notes: str, header: dict, runs: Sequence[dict]) -> str:
    """A table of the rows, which tells their distance from a base, and notes."""
    return f"{render(header, runs, base)}\n{notes}"


def draw_curves(axes: Any, runs: Sequence[dict]) -> None:
    """Draw held-out bits per byte against steps, a colour for each row and a line for each run."""
    for number, name in enumerate(values_of(runs, "row")):
        for index, run in enumerate(of(runs, row=name)):
            bits = [each for _, each in run["curve"]]
            label = None if index else name
            axes.plot(run["curve_steps"], bits, f"C{number}o-", label=label, lw=1, ms=3)
    axes.set(xlabel="step", ylabel="held-out bits per byte")
    axes.grid(alpha=0.3)
    if axes.lines:
        axes.legend()


def plot_curves(runs: Sequence[dict], folder: Path) -> None:
    """Draw the curves of each text and budget."""
    panels = [
        mine
        for corpus in values_of(runs, "corpus")
        for budget in values_of(of(runs, corpus=corpus), "budget")
        if (mine := of(runs, corpus=corpus, budget=budget))
    ]
    if not panels:
        return
    figure = new_figure(7 * len(panels), 4.5)
    all_axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for axes, mine in zip(all_axes, panels, strict=True):
        draw_curves(axes, mine)
        axes.set_title("{corpus}, equal {budget}".format(**mine[0]["run"]))
    figure.savefig(folder / "results.png", dpi=120)
