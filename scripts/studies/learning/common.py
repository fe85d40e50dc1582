"""What the parts of the study share: arguments, corpora, planned runs, means over seeds."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import mean, stdev
from typing import Any, NamedTuple

from reformer_hf.quickstart import CONFIGURATION
from reformer_hf.training.arguments import argument
from reformer_hf.training.record import machine_record
from scripts.benchmarks.common.runs import Planned
from scripts.benchmarks.common.tables import counts
from scripts.studies.learning.corpora import CORPORA, Corpus, write_corpus
from scripts.studies.learning.recipe import Recipe
from scripts.studies.learning.training import train_once

SMOKE_BYTES = 20_480  # whole rows on both sides
SMOKE_TOKENS = 512
_SMOKE_FIELDS = {"hidden_size": 16, "num_attention_heads": 2, "attention_head_size": 8}
_SMOKE_FIELDS |= {"feed_forward_size": 16, "num_buckets": 4, "ngram_table_size": 64}
_SMOKE_ROWS = {"block_size": 128, "row_lengths": [64, 128], "tokens_per_step": [128]}
_SMOKE_ROWS |= {"max_eval_samples": 2, "warmup_steps": 1, "logging_steps": 1}


RESULTS = "scripts/results/learning"


@dataclass
class LearningArguments:
    """What the parts of the study have in common."""

    recipe: str = argument(str(CONFIGURATION), "Settings file of the base; the quickstart's.")
    output_dir: str = argument("outputs/learning", "Folder of texts, and of a folder for each run.")
    results_dir: str = argument(
        RESULTS, "Folder of results; each part of the study has its own in it."
    )
    corpora: list[str] = argument(list(CORPORA), f"Texts, of {', '.join(CORPORA)}.")
    seeds: int = argument(3, "Seeds of each row.")
    max_minutes: float = argument(5.5, "Minutes of a run where the time is what is equal.")
    smoke: bool = argument(False, "Tiny models, texts and runs, to see whether all works.")

    def __post_init__(self):
        if self.smoke:
            self.corpora, self.seeds, self.max_minutes = ["python"], 1, 0.005
            if self.results_dir == RESULTS:  # which are for what was measured
                self.results_dir = str(Path(self.output_dir, "smoke"))

    def read_recipe(self) -> Recipe:
        """The base; with `smoke` a tiny one of the same parts."""
        recipe = Recipe.read(Path(self.recipe))
        if not self.smoke:
            return recipe
        layers = recipe.layers[:2]
        return recipe.changed(_SMOKE_ROWS, attn_layers=layers, **_SMOKE_FIELDS)

    def write_corpora(self) -> dict[str, Corpus]:
        """The texts that are asked for."""
        folder, size = Path(self.output_dir) / "texts", SMOKE_BYTES if self.smoke else None
        return {name: write_corpus(name, folder, size) for name in self.corpora}

    def problem(self, **choices: tuple[Sequence[str], Sequence[str] | Mapping]) -> str | None:
        """The first field that holds an unknown name or a number that is too small, or None.

        Args:
            **choices: by field, the names that it holds, and those that it may hold.
        """
        for name, (given, known) in {"corpora": (self.corpora, CORPORA), **choices}.items():
            if unknown := set(given) - set(known):
                return f"{name}={sorted(unknown)}: choose from {', '.join(known)}"
        for name in ("seeds", "max_minutes"):
            if getattr(self, name) <= 0:
                return f"{name}={getattr(self, name)}: must be above 0"
        return None


class Row(NamedTuple):
    """What is trained under a name.

    Attributes:
        recipe: its arguments.
        peer: a model of transformers, or None for this package's.
    """

    recipe: Recipe
    peer: str | None = None


def plan_run(
    part: str,
    arguments: LearningArguments,
    name: str,
    row: Row,
    corpus: Corpus,
    seed: int,
    budget_name: str,
    budget: Mapping[str, Any],
    evaluations: int = 1,
) -> Planned:
    """Plan a training.

    Args:
        part: of the study.
        arguments: of it.
        name: of the row.
        row: what is trained.
        corpus: what is read.
        seed: of weights, order and hashing.
        budget_name: `tokens` or `minutes`.
        budget: `max_steps` or `max_minutes`.
        evaluations: in `max_minutes`.
    """
    run = {"row": name, "corpus": corpus.name, "budget": budget_name, "seed": seed}
    folder = Path(arguments.output_dir) / part / slug(*run.values())
    attempt = partial(
        train_once,
        folder,
        row.recipe.settings(corpus, seed, **budget),
        # Evaluations, and peers that are slow in them, take their own time.
        timeout=60 * (10 * arguments.max_minutes + 60),
        peer=row.peer,
        evaluations=evaluations,
    )
    label = ", ".join(map(str, run.values()))
    return Planned({"run": run}, label, attempt, {"text": corpus.record()})


def slug(*parts: Any) -> str:
    """A name of a folder.

    >>> slug("ngram_sizes=[2, 3]", "python", 0)
    'ngram_sizes-2-3-python-0'
    """
    return re.sub(r"[^\w.]+", "-", " ".join(map(str, parts))).strip("-")


def make_header(summary: str, settings: Mapping[str, Any], recipe: Recipe) -> dict[str, Any]:
    """What all runs have in common; runs with other `settings` are not mixed with them."""
    base = {"arguments": dict(recipe.arguments), "fields": dict(recipe.fields)}
    return {
        "machine": machine_record(),
        "summary": summary,
        "settings": {"recipe": base, **settings},
    }


def of(runs: Sequence[dict], **wanted: Any) -> list[dict]:
    """The finished runs whose entries in `run` are these."""
    return [
        run
        for run in runs
        if counts(run) and all(run["run"][name] == value for name, value in wanted.items())
    ]


def heading(runs: Sequence[dict]) -> str:
    """What the text of some runs is, as a heading."""
    described = runs[0]["text"]["description"]
    return f"## {described[0].upper()}{described[1:]}"


def values_of(runs: Sequence[dict], name: str) -> dict[str, None]:
    """The values of an entry of `run`, in the order in which they first stand there."""
    return dict.fromkeys(run["run"][name] for run in runs if counts(run))


def mean_and_spread(values: Sequence[float], form: str = ".3f") -> str:
    """The mean and, of several values, their standard deviation.

    >>> mean_and_spread([1.0, 2.0]), mean_and_spread([1.0])
    ('1.500 ± 0.707', '1.000')
    """
    text = f"{mean(values):{form}}"
    return f"{text} ± {stdev(values):{form}}" if len(values) > 1 else text


def cost_cells(runs: Sequence[dict]) -> list[str]:
    """Cells of a table: parameters, and the means of tokens and of seconds of steps."""
    tokens, seconds = (mean(run[name] for run in runs) for name in ("tokens", "seconds"))
    return [f"{runs[0]['parameters']:,}", f"{tokens:,.0f}", f"{seconds:,.0f}"]


COST_COLUMNS = ["parameters", "tokens", "seconds"]
