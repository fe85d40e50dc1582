"""What the parts of the study share: arguments, corpora, planned runs, means over seeds."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import mean, stdev
from typing import Any, NamedTuple

from reformer_hf.training.arguments import argument
from reformer_hf.training.record import machine_record
from scripts.benchmarks.common.arguments import make_parser
from scripts.benchmarks.common.runs import Planned, do_runs
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
RECIPE = Path(__file__).with_name("recipe.yaml")


@dataclass
class LearningArguments:
    """What the parts of the study have in common."""

    rows: list[str] | None = argument(None, "Rows of the table to train; all by default.")
    recipe: str = argument(str(RECIPE), "Settings file of the base.")
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
            if self.results_dir == type(self).results_dir:  # which is for what was measured
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

    def choices(self) -> dict[str, tuple[Sequence[str], Sequence[str] | Mapping]]:
        """Names that fields hold, and those that they may hold, by field."""
        return {"corpora": (self.corpora, CORPORA)}

    def check(self, rows: Mapping[str, "Row"]) -> None:
        """Check the names that fields hold, and their numbers.

        Raises:
            ValueError: naming the field, its value and the fix.
        """
        for name, (given, known) in {"rows": (self.rows or [], rows), **self.choices()}.items():
            if unknown := set(given) - set(known):
                raise ValueError(f"{name}={sorted(unknown)}: choose from {', '.join(known)}")
        for name in ("seeds", "max_minutes", "evaluations"):
            if getattr(self, name, 1) <= 0:
                raise ValueError(f"{name}={getattr(self, name)}: must be above 0")

    def budget_of(self, name: str, recipe: Recipe) -> Mapping[str, Any]:
        """What ends a run: the minutes into which the script fits its steps."""
        return {"max_minutes": self.max_minutes}


Measure = Callable[[Mapping[str, Any], "Row", Path], dict[str, Any]]
"""What is measured after a training: of its `run`, row and folder; an `error` if that failed."""


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
    budget: str,
    measure: Measure | None = None,
) -> Planned:
    """Plan a training.

    Args:
        part: of the study.
        arguments: of it.
        name: of the row.
        row: what is trained.
        corpus: what is read.
        seed: of weights, order and hashing.
        budget: `tokens` or `minutes`.
        measure: what else, after it.
    """
    run = {"row": name, "corpus": corpus.name, "budget": budget, "seed": seed}
    folder = Path(arguments.output_dir) / part / slug(*run.values())
    train = partial(
        train_once,
        folder,
        row.recipe.settings(corpus, seed, **arguments.budget_of(budget, row.recipe)),
        # Evaluations, and peers that are slow in them, take their own time.
        timeout=60 * (10 * arguments.max_minutes + 60),
        peer=row.peer,
        evaluations=getattr(arguments, "evaluations", 1),
    )

    def attempt() -> dict[str, Any]:
        result = train()
        if measure is not None and "error" not in result:
            result |= measure(run, row, folder)
        return result

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


def run_rows(
    part: str,
    kind: type[LearningArguments],
    description: str | None,
    make_rows: Callable[[Recipe], dict[str, Row]],
    settings: Sequence[str],
    render: Callable[[dict, Sequence[dict]], str],
    plot: Callable[[Sequence[dict], Path], None],
    argv: list[str] | None,
    *,
    study: str = "learning",
    about: str = "layers {layers}",
    measure: Measure | None = None,
) -> int:
    """Train what is missing of a part whose tables have a row for each recipe.

    Args:
        part: of the study.
        kind: its arguments.
        description: for its help.
        make_rows: of the base.
        settings: arguments that make runs comparable.
        render: makes its tables.
        plot: draws its runs.
        argv: words of the command line behind the part.
        study: that the part belongs to.
        about: what the tables say of the models.
        measure: what else, after each training.
    """
    parser = make_parser([kind], f"studies.{study} {part}", description)
    (arguments,) = parser.parse_args_into_dataclasses(argv)
    try:
        base = arguments.read_recipe()
        rows = make_rows(base)
        arguments.check(rows)
        corpora = arguments.write_corpora()
    except (OSError, ValueError) as error:
        parser.error(str(error))
    budgets = getattr(arguments, "budgets", ["minutes"])
    lengths = {"tokens": "{tokens:,} tokens", "minutes": "at most {max_minutes:g} minutes of steps"}
    length = ", or ".join(lengths[budget] for budget in budgets).format(**vars(arguments))
    header = make_header(
        f"Context {base.block_size:,}, {about.format(layers=', '.join(base.layers))}; {length} on "
        "one thread. Means over seeds and their standard deviation.",
        {name: getattr(arguments, name) for name in settings},
        base,
    )
    planned = [
        plan_run(part, arguments, name, rows[name], corpus, seed, budget, measure)
        for seed in range(arguments.seeds)
        for corpus in corpora.values()
        for budget in budgets
        for name in arguments.rows or rows
    ]
    results = str(Path(arguments.results_dir) / part)
    return do_runs(parser, results, header, planned, render, plot)


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
    return f"{text} ± {stdev(values):.3f}" if len(values) > 1 else text


def cost_cells(runs: Sequence[dict]) -> list[str]:
    """Cells of a table: parameters, and the means of tokens and of seconds of steps."""
    tokens, seconds = (mean(run[name] for run in runs) for name in ("tokens", "seconds"))
    return [f"{runs[0]['parameters']:,}", f"{tokens:,.0f}", f"{seconds:,.0f}"]


COST_COLUMNS = ["parameters", "tokens", "seconds"]
