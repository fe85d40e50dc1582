"""What each part of the architecture and of the recipe is worth.

    python -m scripts.studies.learning ablation --rows base "old recipe" --seeds 3

The base is `recipe.yaml` in this folder. Each row takes one part of it away or exchanges it, and
trains with several seeds, on each text, once for the same number of tokens and once for the same
minutes of steps on one thread. Goes on where it was interrupted.
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
    SMOKE_TOKENS,
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

BASE = "base"
BUDGETS = ("tokens", "minutes")
_ALONE = {"lsh_local_round": False, "lsh_next_values": False}
"""Hashed rounds only; next values need the local one."""

_FIELDS: dict[str, dict[str, Any]] = {
    "axial positions": {"position_embedding_type": "axial"},
    "conv_kernel=0": {"conv_kernel": 0},
    "conv_kernel=2": {"conv_kernel": 2},
    "conv_kernel=3": {"conv_kernel": 3},
    "conv_kernel=4": {"conv_kernel": 4},
    "use_qk_norm=false": {"use_qk_norm": False},
    "use_qk_norm=true": {"use_qk_norm": True},
    "lsh_local_round=false": _ALONE,
    "lsh_next_values=false": {"lsh_next_values": False},
    "lsh_next_values=true": {"lsh_next_values": True},
    "no n-grams": {"ngram_sizes": []},
    "ngram_sizes=[2,3]": {"ngram_sizes": [2, 3]},
    "ngram_sizes=[2,3,4,5]": {"ngram_sizes": [2, 3, 4, 5]},
    "ngram_table_size=65536": {"ngram_table_size": 65_536},
    "hidden_act=relu2": {"hidden_act": "relu2"},
    "num_hashes=1": {"num_hashes": 1},
    "num_hashes=4": {"num_hashes": 4},
    "num_buckets=64": {"num_buckets": 64},
    "num_buckets=256": {"num_buckets": 256},
    "redraw_rotations=false": {"redraw_rotations": False},
    "hidden_dropout_prob=0.1": {"hidden_dropout_prob": 0.1},
}
"""Rows that change the model."""

_WITHOUT_NGRAMS = {
    "conv_kernel=0": {"conv_kernel": 0},
    "lsh_local_round=false": _ALONE,
    "lsh_next_values=true": {"lsh_next_values": True},
    "hidden_act=relu2": {"hidden_act": "relu2"},
}
"""Rows that change a model without n-grams, which hide what other parts are worth."""

_OLD_FIELDS = {
    "position_embedding_type": "axial",
    "conv_kernel": 0,
    "use_qk_norm": False,
    **_ALONE,
    "ngram_sizes": [],
    "hidden_act": "relu",
}
_ADAMW = {"muon_learning_rate": None, "muon_momentum": None}
_OLD_ADAMW = {"learning_rate": "1e-3", "weight_decay": "0.01", "adam_beta2": None, **_ADAMW}
_LSH_KINDS = ("local", "full", "full_shared_qk")


@dataclass
class AblationArguments(LearningArguments):
    """What is taken away, and how long each run trains."""

    budgets: list[str] = argument(list(BUDGETS), f"What is equal, of {', '.join(BUDGETS)}.")
    tokens: int = argument(2**18, "Tokens of a run where they are what is equal.")
    max_minutes: float = argument(1.0, "Minutes of a run where they are what is equal.")

    def __post_init__(self):
        super().__post_init__()
        if self.smoke:
            self.tokens = SMOKE_TOKENS

    def choices(self) -> dict:
        """See the base class."""
        return {**super().choices(), "budgets": (self.budgets, BUDGETS)}

    def budget_of(self, name: str, recipe: Recipe) -> Mapping[str, Any]:
        """See the base class; or its steps end a run."""
        if name == "minutes":
            return super().budget_of(name, recipe)
        return {"max_steps": recipe.steps_for(self.tokens)}


def make_rows(base: Recipe) -> dict[str, Row]:
    """The rows of the table; without those that train as the base does."""
    block = base.block_size
    long_steps = {"tokens_per_step": [block]}
    long_rows = {"row_lengths": [block], **long_steps}
    recipes = {name: base.changed(**fields) for name, fields in _FIELDS.items()}
    recipes["AdamW alone, 3e-3"] = base.changed({"learning_rate": "3e-3", **_ADAMW})
    recipes["AdamW 1e-2"] = base.changed({"learning_rate": "1e-2"})
    recipes["Muon 3e-2"] = base.changed({"muon_learning_rate": "3e-2"})
    recipes[f"steps of {block:,} tokens"] = base.changed(long_steps)
    recipes[f"rows and steps of {block:,} tokens"] = base.changed(long_rows)
    recipes["old recipe"] = base.changed({**long_rows, **_OLD_ADAMW}, **_OLD_FIELDS)
    for kind in _LSH_KINDS:
        layers = [kind if layer == "lsh" else layer for layer in base.layers]
        recipes[f"{kind} in place of lsh"] = base.changed(attn_layers=layers)
    last = max((i for i, layer in enumerate(base.layers) if layer == "lsh"), default=None)
    layers = ["local" if i != last and k == "lsh" else k for i, k in enumerate(base.layers)]
    recipes["only the last lsh"] = base.changed(attn_layers=layers)
    plain = base.changed(ngram_sizes=[])
    for name, fields in _WITHOUT_NGRAMS.items():
        recipes[f"no n-grams, {name}"] = plain.changed(**fields)
    layers = ["local" if layer == "lsh" else layer for layer in base.layers]
    recipes["no n-grams, local in place of lsh"] = plain.changed(attn_layers=layers)
    rows = {n: Row(recipe) for n, recipe in recipes.items() if not recipe.trains_as(base)}
    return {BASE: Row(base), **rows}


def render(header: dict, runs: Sequence[dict], base: str = BASE) -> str:
    """The results as Markdown, a table for each text and budget; `base` is a row."""
    lines = [describe_machine(header), ""]
    for corpus in values_of(runs, "corpus"):
        for budget in values_of(of(runs, corpus=corpus), "budget"):
            mine = of(runs, corpus=corpus, budget=budget)
            lines += [f"{heading(mine)}, equal {budget}", ""]
            lines += ablation_table(mine, base)
    return "\n".join(lines)


def ablation_table(runs: Sequence[dict], base: str = BASE) -> list[str]:
    """Rows of one text and budget; differences from the base are those of the same seeds."""
    rows = []
    for name in values_of(runs, "row"):
        mine = of(runs, row=name)
        bits = [run["bits_per_byte"] for run in mine]
        gaps = gaps_to_base(runs, name, base)
        gap = mean_and_spread(gaps, "+.3f") if gaps and name != base else ""
        rows.append([name, *cost_cells(mine), mean_and_spread(bits), str(len(bits)), gap])
    above = "above the base" if base == BASE else f"above {base}"
    columns = ["row", *COST_COLUMNS, "held-out bits per byte", "seeds", above]
    return table(columns, rows)


def gaps_to_base(runs: Sequence[dict], name: str, base: str = BASE) -> list[float]:
    """Bits per byte of a row above the base's, for each seed that both have."""
    of_base = {run["run"]["seed"]: run["bits_per_byte"] for run in of(runs, row=base)}
    mine = [(run["run"]["seed"], run["bits_per_byte"]) for run in of(runs, row=name)]
    return [bits - of_base[seed] for seed, bits in mine if seed in of_base]


def plot(runs: Sequence[dict], folder: Path) -> None:
    """Draw how far each row is above the base, a dot per seed."""
    panels = [
        (corpus, budget)
        for corpus in values_of(runs, "corpus")
        for budget in values_of(of(runs, corpus=corpus), "budget")
    ]
    names = [name for name in values_of(runs, "row") if name != BASE]
    if not panels or not names:
        return
    figure = new_figure(2 + 3.5 * len(panels), 1.5 + 0.3 * len(names))
    all_axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axes, (corpus, budget) in zip(all_axes, panels, strict=True):
        mine = of(runs, corpus=corpus, budget=budget)
        for place, name in enumerate(names):
            if gaps := gaps_to_base(mine, name):
                axes.plot(gaps, [place] * len(gaps), "C0.", alpha=0.6)
                axes.plot(mean(gaps), place, "C0|", markersize=12)
        axes.axvline(0.0, color="grey", linewidth=1)
        axes.set(xlabel="bits per byte above the base", title=f"{corpus}, equal {budget}")
        axes.grid(alpha=0.3)
    all_axes[0].set_yticks(range(len(names)), names)
    all_axes[0].invert_yaxis()
    figure.savefig(folder / "results.png", dpi=120)


def run_part(argv: list[str] | None = None) -> int:
    """Run what is missing."""
    settings = ("tokens", "max_minutes")
    return run_rows("ablation", AblationArguments, __doc__, make_rows, settings, render, plot, argv)
