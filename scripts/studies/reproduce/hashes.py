"""Rounds of hashing against full attention, in training and in evaluation.

    python -m scripts.studies.reproduce hashes

The paper's figure 4: LSH attention in all layers with 1 to 16 rounds, and full attention with
shared queries and keys, which is what it approximates. Each model is then scored with other numbers
of rounds, and with full attention, on its own weights. The layers have no local round: what is near
is seen through a bucket, too. Goes on where it was interrupted.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import torch

from reformer_hf.training.arguments import (
    DataTrainingArguments,
    PretrainedModelArguments,
    ReformerTrainingArguments,
    argument,
)
from reformer_hf.training.parsing import parse_arguments
from reformer_hf.training.storage import write_json
from reformer_hf.training.tasks.language_model import Task, train_clm
from scripts.benchmarks.common.plot import new_figure
from scripts.benchmarks.common.processes import run_process
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
from scripts.studies.learning.training import BITS
from scripts.studies.reproduce.rows import RowsArguments, run_claim

ROUNDS = (1, 2, 4, 8, 16)
FULL = "full"
_TRAINING = ("config_overrides", "row_lengths", "tokens_per_step", "max_steps", "max_minutes")
"""Arguments of a training that an evaluation does not take."""

ABOUT = "LSH layers without a local round"
NOTES = """Published (section 5 and figure 4: imagenet64, curves without numbers): the loss falls
with the rounds, and 8 of them almost match full attention. That more rounds in evaluation help is
said there, too, with table 2 for numbers (of duplication).
"""


@dataclass
class HashesArguments(RowsArguments):
    """What is trained, and how long each run trains."""

    seeds: int = argument(1, "Seeds of each row.")
    evaluations: int = argument(1, "Evaluations of a run, the last at its end.")


def fields_of(name: str, layers: int) -> dict[str, Any]:
    """What the configuration has for a number of rounds, or for full attention."""
    if name == FULL:
        return {"attn_layers": ["full_shared_qk"] * layers}
    return {"attn_layers": ["lsh"] * layers, "num_hashes": int(name), "lsh_local_round": False}


def make_rows(base: Recipe) -> dict[str, Row]:
    """A model for each number of rounds, and one of full attention."""
    names = [*map(str, ROUNDS), FULL]
    return {name: Row(base.changed(**fields_of(name, len(base.layers)))) for name in names}


def evaluate(run: Mapping[str, Any], row: Row, folder: Path) -> dict[str, Any]:
    """Score a trained model with all numbers of rounds, in a process of its own."""
    request = {"folder": str(folder.absolute()), "layers": len(row.recipe.layers)}
    return run_process("scripts.studies.reproduce.hashes", request, timeout=3600)


def answer(request: dict) -> dict:
    """Do the evaluations of a request: `evaluated`, bits per byte; see `run_process`."""
    torch.set_num_threads(1)
    trained = Path(request["folder"])
    settings = json.loads(trained.with_name(f"{trained.name}.json").read_text(encoding="utf-8"))
    settings = {name: value for name, value in settings.items() if name not in _TRAINING}
    settings |= {"do_train": False, "model_name_or_path": str(trained)}
    file = trained.with_name(f"{trained.name}-evaluation.json")
    write_json(file, settings | {"output_dir": str(trained / "evaluation")})
    kinds = (PretrainedModelArguments, DataTrainingArguments, ReformerTrainingArguments)
    evaluated = {}
    for name in (*map(str, ROUNDS), FULL):
        task = Task(fields=fields_of(name, request["layers"]))
        evaluated[name] = train_clm(*parse_arguments(kinds, [str(file)]), task=task)[BITS]
    return {"evaluated": evaluated}


def render(header: dict, runs: Sequence[dict]) -> str:
    """The results as Markdown: trained with, evaluated with."""
    lines = [describe_machine(header), ""]
    for corpus in values_of(runs, "corpus"):
        mine = of(runs, corpus=corpus)
        rows = []
        for name in values_of(mine, "row"):
            models = of(mine, row=name)
            cells = [
                mean_and_spread([model["evaluated"][other] for model in models])
                for other in models[0]["evaluated"]
            ]
            rows.append([name, *cost_cells(models), *cells, str(len(models))])
        names = [f"evaluated with {other}" for other in mine[0]["evaluated"]]
        columns = ["rounds in training", *COST_COLUMNS, *names, "seeds"]
        lines += [f"{heading(mine)}: held-out bits per byte", "", *table(columns, rows)]
    return "\n".join([*lines, NOTES])


def plot(runs: Sequence[dict], folder: Path) -> None:
    """Draw bits per byte against the rounds of evaluation, a line for each number in training."""
    corpora = list(values_of(runs, "corpus"))
    if not corpora:
        return
    figure = new_figure(7 * len(corpora), 4.5)
    all_axes = figure.subplots(1, len(corpora), squeeze=False)[0]
    for axes, corpus in zip(all_axes, corpora, strict=True):
        mine = of(runs, corpus=corpus)
        means = {
            name: {
                other: mean(model["evaluated"][other] for model in of(mine, row=name))
                for other in of(mine, row=name)[0]["evaluated"]
            }
            for name in values_of(mine, "row")
        }
        for name, bits in means.items():
            values = [bits[str(n)] for n in ROUNDS]
            axes.plot(values, ".--", lw=0.8, label=f"trained with {name}")
        alike = [(place, str(n)) for place, n in enumerate(ROUNDS) if str(n) in means]
        places, values = [x for x, _ in alike], [means[n][n] for _, n in alike]
        axes.plot(places, values, "ko-", label="in both alike")
        if FULL in means:
            axes.axhline(means[FULL][FULL], color="grey", lw=1, label="full in both")
        axes.set_xticks(range(len(ROUNDS)), map(str, ROUNDS))
        axes.set(xlabel="rounds in evaluation", ylabel="held-out bits per byte", title=corpus)
        axes.grid(alpha=0.3)
        axes.legend()
    figure.savefig(folder / "results.png", dpi=120)


def run(argv: list[str] | None = None) -> int:
    """Train and evaluate what is missing."""
    return run_claim(
        "hashes", ABOUT, __doc__, make_rows, render, plot, argv, HashesArguments, evaluate
    )
