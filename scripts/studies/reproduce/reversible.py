"""Reversible layers against plain residual ones, of equal parameters: bits per byte and memory.

    python -m scripts.studies.reproduce reversible

The paper's figure 3, right, for a language model; `translation` is the same for an encoder-decoder.
`reversible` rebuilds all activations, `stored` is the same model with all of them stored, and
`one stream` is a plain Transformer made of its parts: each sub-layer adds to the stream that it
reads. Goes on where it was interrupted.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from scripts.benchmarks.common.plot import new_figure
from scripts.studies.learning.common import Row, of, values_of
from scripts.studies.learning.recipe import Recipe
from scripts.studies.reproduce.memory import (
    ONE_STREAM,
    REVERSIBLE,
    VARIANTS,
    draw_memory,
    measure_steps,
    memory_section,
)
from scripts.studies.reproduce.rows import draw_curves, render_against, run_claim

ABOUT = "layers {layers}"
NOTES = """Published (section 5 and figure 3, right: enwik8 and imagenet64, curves without
numbers): with the same number of parameters the curves of the reversible and of the regular
Transformer are nearly the same. `reversible` and `stored` here compute the same but for rounding.
"""


def make_rows(base: Recipe) -> dict[str, Row]:
    """The model of the recipe in each variant."""
    return {
        name: Row(base.changed(**fields), "one stream" if name == ONE_STREAM else None)
        for name, fields in VARIANTS.items()
    }


def deeper(recipe: Recipe, factors: Sequence[float] = (0.5, 1, 2, 4)) -> dict[str, dict[str, Any]]:
    """Fields of models with so many times the layers, by their number."""
    config = recipe.config()
    repeated = list(config.attn_layers) * int(max(factors))
    counts = [int(factor * len(config.attn_layers)) for factor in factors]
    fields = {**recipe.fields, "max_position_embeddings": recipe.block_size}
    return {str(count): {**fields, "attn_layers": repeated[:count]} for count in counts}


def measure(run: Mapping[str, Any], row: Row, folder: Path) -> dict[str, Any]:
    """Measure the memory of a step against depth, once for all seeds."""
    if run["seed"]:
        return {}
    measured = measure_steps(run["row"], deeper(row.recipe), 1, row.recipe.block_size)
    return measured if "error" in measured else {"step_memory": measured}


def render(header: dict, runs: Sequence[dict]) -> str:
    """The results as Markdown."""
    text = render_against(REVERSIBLE, NOTES, header, runs)
    return "\n".join([text, *memory_section(step_memory(runs))])


def step_memory(runs: Sequence[dict]) -> dict[str, dict[str, dict]]:
    """What was measured of the variants, of the first text alone: it does not matter here."""
    measured = {}
    for name in values_of(runs, "row"):
        for run in of(runs, row=name):
            if "step_memory" in run:
                measured.setdefault(name, run["step_memory"])
    return measured


def plot(runs: Sequence[dict], folder: Path) -> None:
    """Draw the curves of the first text, and memory against layers."""
    corpora = list(values_of(runs, "corpus"))
    if not corpora:
        return
    figure = new_figure(12, 4.5)
    curves, memory = figure.subplots(1, 2)
    draw_curves(curves, of(runs, corpus=corpora[0]))
    draw_memory(memory, step_memory(runs))
    figure.savefig(folder / "results.png", dpi=120)


def run(argv: list[str] | None = None) -> int:
    """Train and measure what is missing."""
    return run_claim("reversible", ABOUT, __doc__, make_rows, render, plot, argv, measure=measure)
