"""Deeper models: held-out bits per byte, and the memory of a step, against layers.

    python -m scripts.studies.reproduce depth

The paper's figure 5, left. Local and LSH layers in turn, all activations rebuilt; beside it the
memory of the same models with all of them stored. Goes on where it was interrupted.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from reformer_hf.training.arguments import argument
from scripts.benchmarks.common.plot import new_figure
from scripts.benchmarks.common.tables import describe_machine, table
from scripts.studies.learning.common import (
    COST_COLUMNS,
    Row,
    cost_cells,
    heading,
    mean_and_spread,
    of,
    values_of,
)
from scripts.studies.learning.recipe import Recipe
from scripts.studies.reproduce.memory import (
    REVERSIBLE,
    STORED,
    VARIANTS,
    draw_memory,
    measure_steps,
    memory_section,
)
from scripts.studies.reproduce.reversible import deeper
from scripts.studies.reproduce.rows import RowsArguments, run_claim

FACTORS = (0.5, 1, 2, 3)
"""Times the layers of the recipe."""

ABOUT = "local and LSH layers in turn, all activations rebuilt"
NOTES = """Published (section 5 and figure 5, left: enwik8 with up to 20 layers, curves without
numbers): clear improvement with the number of layers. With 12 layers (hidden 1,024) and dropout
0.1 the paper has 1.19 bits on enwik8 after 20,000 steps, and 1.05 after longer training with
further tuning.
"""


@dataclass
class DepthArguments(RowsArguments):
    """What is trained, and how long each run trains."""

    seeds: int = argument(2, "Seeds of each row.")
    evaluations: int = argument(1, "Evaluations of a run, the last at its end.")


def make_rows(base: Recipe) -> dict[str, Row]:
    """A model of each depth."""
    rebuilt = base.changed(**VARIANTS[REVERSIBLE])
    models = deeper(rebuilt, FACTORS)
    return {
        count: Row(rebuilt.changed(attn_layers=fields["attn_layers"]))
        for count, fields in models.items()
    }


def measure(run: Mapping[str, Any], row: Row, folder: Path) -> dict[str, Any]:
    """Measure the memory of a step, rebuilt and stored, once for all seeds."""
    if run["seed"]:
        return {}
    measured = {}
    for variant in (REVERSIBLE, STORED):
        steps = measure_steps(variant, deeper(row.recipe, [1]), 1, row.recipe.block_size)
        if "error" in steps:
            return steps
        measured[variant] = steps[run["row"]]
    return {"step_memory": measured}


def step_memory(runs: Sequence[dict]) -> dict[str, dict[str, dict]]:
    """What was measured, by variant and layers."""
    measured: dict[str, dict[str, dict]] = {}
    for one in of(runs):
        for variant, entry in one.get("step_memory", {}).items():
            measured.setdefault(variant, {}).setdefault(one["run"]["row"], entry)
    return measured


def render(header: dict, runs: Sequence[dict]) -> str:
    """The results as Markdown."""
    lines = [describe_machine(header), ""]
    for corpus in values_of(runs, "corpus"):
        mine, rows = of(runs, corpus=corpus), []
        for name in values_of(mine, "row"):
            models = of(mine, row=name)
            bits = mean_and_spread([model["bits_per_byte"] for model in models])
            rows.append([name, *cost_cells(models), bits, str(len(models))])
        columns = ["layers", *COST_COLUMNS, "held-out bits per byte", "seeds"]
        lines += [heading(mine), "", *table(columns, rows)]
    return "\n".join([*lines, NOTES, *memory_section(step_memory(runs))])


def plot(runs: Sequence[dict], folder: Path) -> None:
    """Draw bits per byte and memory against layers."""
    figure = new_figure(12, 4.5)
    bits, memory = figure.subplots(1, 2)
    for number, corpus in enumerate(values_of(runs, "corpus")):
        mine = of(runs, corpus=corpus)
        names = list(values_of(mine, "row"))
        means = [mean(each["bits_per_byte"] for each in of(mine, row=name)) for name in names]
        bits.plot([int(name) for name in names], means, f"C{number}o-", label=corpus)
        for each in mine:
            bits.plot(int(each["run"]["row"]), each["bits_per_byte"], f"C{number}.", alpha=0.5)
    bits.set(xlabel="layers", ylabel="held-out bits per byte")
    bits.grid(alpha=0.3)
    if bits.lines:
        bits.legend()
    draw_memory(memory, step_memory(runs))
    figure.savefig(folder / "results.png", dpi=120)


def run(argv: list[str] | None = None) -> int:
    """Train and measure what is missing."""
    return run_claim(
        "depth", ABOUT, __doc__, make_rows, render, plot, argv, DepthArguments, measure
    )
