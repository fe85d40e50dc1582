"""Compare classifiers of long documents: LSH and local attention against full attention.

    python -m scripts.studies.classification --output_dir outputs/compare_classification

Which of 17 European languages is a row in? Rows are 1,024 bytes of messages from the translations
of Django and Wagtail (BSD licence; downloaded with pip, 18 MB, kept in the cache folder). Trains,
for each seed, a Reformer with local and LSH layers in turn, the same model with full attention in
all layers, and transformers' BERT, all of the same widths, each in a process of its own. The first
two have the fields that scripts choose for a new classifier (`reformer_hf/training/recipe.py`); all
have its optimizer, with a learning rate for BERT and one for the others. Writes results.json and
results.md to the output folder after every run and results.png at the end, and goes on where it was
interrupted.
"""

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np

from reformer_hf.training.arguments import argument
from reformer_hf.training.record import machine_record
from scripts.benchmarks.common.arguments import make_parser
from scripts.benchmarks.common.plot import new_figure
from scripts.benchmarks.common.processes import exit_when_terminated, run_process
from scripts.benchmarks.common.runs import Planned, do_runs
from scripts.benchmarks.common.tables import counts, describe_machine, table
from scripts.studies.classification.data import (
    LANGUAGES,
    PACKAGES,
    byte_pair_bayes,
    load_messages,
)
from scripts.studies.classification.run import BERT, FULL, REFORMER, Settings

STYLES = {REFORMER: "C0", FULL: "C1", BERT: "C2"}
SMOOTHED = 10  # steps whose mean loss is drawn


@dataclass
class CompareArguments:
    """What is compared, and how long each run trains."""

    output_dir: str = argument("outputs/compare_classification", "Output folder.")
    variants: list[str] = argument(list(STYLES), f"Of {', '.join(STYLES)}.")
    seeds: int = argument(3, "Seeds of each variant.")
    cache_dir: str = argument("outputs/translation_packages", "Folder that keeps the packages.")
    max_minutes: float = argument(30.0, "Limit of one run.")


def render(header: dict, runs: Sequence[dict]) -> str:
    """The results as Markdown."""
    rows = []
    for variant in STYLES:
        mine = [run for run in runs if counts(run) and run["run"]["variant"] == variant]
        if not mine:
            continue
        accuracies = [run["accuracy"] for run in mine]
        peak = max(run["peak_bytes"] for run in mine)
        above = max(run["peak_bytes"] - (run["before_bytes"] or 0) for run in mine)
        listed = ", ".join(f"{accuracy:.3f}" for accuracy in accuracies)
        rows.append([variant, f"{mine[0]['parameters']:,}", listed, f"{mean(accuracies):.3f}"])
        rows[-1] += [f"{peak / 1e6:.0f}", f"{above / 1e6:.0f}"]
    rows += [[k, "", "", f"{value:.3f}", "", ""] for k, value in header["baselines"].items()]
    columns = ["model", "parameters", "held-out accuracy, by seed", "mean"]
    columns += ["peak memory, MB", "above the process before"]
    return "\n".join([describe_machine(header), "", *table(columns, rows)])


def plot(runs: Sequence[dict], folder: Path) -> None:
    """Draw the training loss, a line per run."""
    figure = new_figure(7, 4.5)
    axes = figure.add_subplot()
    seen = set()
    for run in filter(counts, runs):
        variant, losses = run["run"]["variant"], np.array(run["curve"])
        size = min(SMOOTHED, len(losses))
        smooth = np.convolve(losses, np.ones(size) / size, mode="valid")
        label = None if variant in seen else variant
        seen.add(variant)
        axes.plot(np.arange(len(smooth)) + size, smooth, STYLES[variant], label=label, linewidth=1)
    axes.set(xlabel="step", ylabel="training loss", title=f"Which of {len(LANGUAGES)} languages?")
    axes.grid(alpha=0.3)
    if seen:
        axes.legend()
        figure.savefig(folder / "results.png", dpi=120)


def make_header(settings: Settings, cache: Path) -> dict[str, Any]:
    """What all runs have in common, and what is known without training."""
    train, held_out = load_messages(settings.length, settings.held_out_rows, cache)
    size = min(sum(map(len, messages)) for messages in train)
    return {
        "machine": machine_record(),
        "summary": (
            f"Which of {len(LANGUAGES)} languages is a row of {settings.length:,} bytes in: "
            f"messages of {' and '.join(PACKAGES)}, from {size:,} bytes of each language on to "
            f"train on, {len(held_out.labels)} rows of other messages. {settings.max_steps} steps "
            f"of {settings.per_device_train_batch_size} rows. "
            f"{settings.num_hidden_layers} layers, hidden {settings.hidden_size}, "
            f"{settings.num_attention_heads} heads, {settings.num_hashes} hashes, float32."
        ),
        "settings": asdict(settings) | {"packages": list(PACKAGES)},
        "packages": list(PACKAGES),
        "baselines": {
            "naive Bayes on byte pairs": byte_pair_bayes(train, held_out),
            "always the same": 1 / len(LANGUAGES),
        },
    }


def main(argv: list[str] | None = None) -> int:
    """Run what is missing."""
    parser = make_parser([CompareArguments, Settings], "studies.classification", __doc__)
    arguments, settings = parser.parse_args_into_dataclasses(argv)
    if unknown := set(arguments.variants) - STYLES.keys():
        parser.error(f"variants={sorted(unknown)}: choose from {', '.join(STYLES)}")
    try:
        header = make_header(settings, Path(arguments.cache_dir))
    except ValueError as error:
        parser.error(str(error))
    module, timeout = "scripts.studies.classification.run", 60 * arguments.max_minutes
    planned = []
    for seed in range(arguments.seeds):
        for variant in arguments.variants:
            run = {"variant": variant, "seed": seed}
            request = {**run, "settings": asdict(settings), "cache_dir": arguments.cache_dir}
            attempt = partial(run_process, module, request, timeout)
            planned.append(Planned({"run": run}, f"{variant}, seed {seed}", attempt))
    return do_runs(parser, arguments.output_dir, header, planned, render, plot)


if __name__ == "__main__":
    exit_when_terminated()
    sys.exit(main())
