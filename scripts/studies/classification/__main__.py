"""Compare classifiers of long documents: LSH and local attention against full attention.

    python -m scripts.studies.classification --output_dir outputs/compare_classification

Which of 17 European languages is a row in? Rows are 4,096 bytes of messages from the translations
of Django and Wagtail (BSD licence; downloaded with pip, 18 MB, kept in the cache folder). Trains,
for each seed, a Reformer with local and LSH layers in turn, the same model with full attention in
all layers, and transformers' BERT, all of the same widths, each in a process of its own. Writes
results.json, results.md and results.png to the output folder after every run, and goes on where it
was interrupted.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
from transformers import HfArgumentParser

from reformer_hf.training.machine import machine_record
from reformer_hf.training.storage import write_json
from scripts.benchmarks.common.plot import new_figure
from scripts.benchmarks.common.processes import run_process
from scripts.studies.classification.data import (
    LANGUAGES,
    PACKAGES,
    byte_pair_bayes,
    load_messages,
)
from scripts.studies.classification.run import BERT, FULL, REFORMER, ClassificationRun

CHILD = "scripts.studies.classification.run"
STYLES = {REFORMER: "C0", FULL: "C1", BERT: "C2"}
SMOOTHED = 10  # steps whose mean loss is drawn


@dataclass
class CompareArguments:
    """What is compared, and how long each run trains."""

    output_dir: str = field(
        default="outputs/compare_classification", metadata={"help": "Output folder."}
    )
    variants: list[str] = field(
        default_factory=lambda: list(STYLES), metadata={"help": f"Of {', '.join(STYLES)}."}
    )
    seeds: int = field(default=2, metadata={"help": "Seeds of each variant."})
    length: int = field(default=4096, metadata={"help": "Bytes of a row."})
    held_out_rows: int = field(default=5, metadata={"help": "Rows of each language to test on."})
    cache_dir: str = field(
        default="outputs/translation_packages", metadata={"help": "Folder that keeps the packages."}
    )
    max_steps: int = field(default=500, metadata={"help": "Optimizer steps of a run."})
    per_device_train_batch_size: int = field(default=4, metadata={"help": "Rows in a step."})
    learning_rate: float = field(default=3e-3, metadata={"help": "Highest learning rate."})
    num_hidden_layers: int = field(default=2, metadata={"help": "Layers."})
    hidden_size: int = field(default=128, metadata={"help": "Width of a stream."})
    num_attention_heads: int = field(default=2, metadata={"help": "Heads."})
    num_hashes: int = field(default=2, metadata={"help": "Rounds of hashing."})
    max_minutes: float = field(default=30.0, metadata={"help": "Limit of one run."})


NOT_DECISIVE = ("output_dir", "variants", "seeds", "cache_dir", "max_minutes")
"""Arguments that a run's result does not depend on."""


def plan(arguments: CompareArguments) -> list[ClassificationRun]:
    """All runs, seed by seed."""
    common = {k: v for k, v in asdict(arguments).items() if k not in NOT_DECISIVE}
    common["batch_size"] = common.pop("per_device_train_batch_size")
    return [
        ClassificationRun(variant, seed, **common)
        for seed in range(arguments.seeds)
        for variant in arguments.variants
    ]


def tables(header: dict, runs: Sequence[dict]) -> str:
    """The results as Markdown."""
    machine, baselines = header["machine"], header["baselines"]
    lines = [
        f"{machine['date'][:10]}, {machine['processor']}, {machine['torch_threads']} thread(s), "
        f"torch {machine['versions']['torch']}. {header['summary']}",
        "",
        "| model | parameters | held-out accuracy, by seed | mean | peak memory, MB "
        "| above the process before |",
        "|---|---|---|---|---|---|",
    ]
    for variant in STYLES:
        mine = [run for run in runs if run["run"]["variant"] == variant]
        if not mine:
            continue
        accuracies = [run["accuracy"] for run in mine]
        peak = max(run["peak_bytes"] for run in mine)
        above = max(run["peak_bytes"] - run["before_bytes"] for run in mine)
        lines.append(
            f"| {variant} | {mine[0]['parameters']:,} "
            f"| {', '.join(f'{accuracy:.3f}' for accuracy in accuracies)} "
            f"| {mean(accuracies):.3f} | {peak / 1e6:.0f} | {above / 1e6:.0f} |"
        )
    lines += [f"| {name} | | | {value:.3f} | | |" for name, value in baselines.items()]
    return "\n".join(lines) + "\n"


def plot(runs: Sequence[dict], path: Path) -> None:
    """Draw the training loss, a line per run."""
    figure = new_figure(7, 4.5)
    axes = figure.add_subplot()
    seen = set()
    for run in runs:
        variant, losses = run["run"]["variant"], np.array(run["curve"])
        size = min(SMOOTHED, len(losses))
        smooth = np.convolve(losses, np.ones(size) / size, mode="valid")
        label = None if variant in seen else variant
        seen.add(variant)
        axes.plot(np.arange(len(smooth)) + size, smooth, STYLES[variant], label=label, linewidth=1)
    axes.set(xlabel="step", ylabel="training loss", title=f"Which of {len(LANGUAGES)} languages?")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120)


def do_missing(arguments: CompareArguments, header: dict, runs: list[dict]) -> int:
    """Do the runs that are missing, each in a process; returns how many failed."""
    folder, done, failed = Path(arguments.output_dir), [run["run"] for run in runs], 0
    for one in plan(arguments):
        if asdict(one) in done:
            continue
        print(f"{one.variant}, seed {one.seed} …", end=" ", flush=True)
        result: dict[str, Any] = run_process(
            CHILD,
            {"run": asdict(one), "cache_dir": arguments.cache_dir},
            60 * arguments.max_minutes,
        )
        if "error" in result:
            print(result["error"], file=sys.stderr)
            failed += 1
            continue
        runs.append(result)
        print(f"accuracy {result['accuracy']:.3f}")
        write_json(folder / "results.json", {**header, "runs": runs})
        (folder / "results.md").write_text(tables(header, runs), encoding="utf-8")
        plot(runs, folder / "results.png")
    return failed


def make_header(arguments: CompareArguments) -> dict[str, Any]:
    """What all runs have in common, and what is known without training."""
    cache = Path(arguments.cache_dir)
    train, held_out = load_messages(arguments.length, arguments.held_out_rows, cache)
    size = min(sum(map(len, messages)) for messages in train)
    return {
        "machine": machine_record(),
        "summary": (
            f"Which of {len(LANGUAGES)} languages is a row of {arguments.length:,} bytes in: "
            f"messages of {' and '.join(PACKAGES)}, from {size:,} bytes of each language on to "
            f"train on, {len(held_out.labels)} rows of other messages. {arguments.max_steps} steps "
            f"of {arguments.per_device_train_batch_size} rows. "
            f"{arguments.num_hidden_layers} layers, hidden {arguments.hidden_size}, "
            f"{arguments.num_attention_heads} heads, {arguments.num_hashes} hashes, float32."
        ),
        "settings": {k: v for k, v in asdict(arguments).items() if k not in NOT_DECISIVE},
        "packages": list(PACKAGES),
        "baselines": {
            "naive Bayes on byte pairs": byte_pair_bayes(train, held_out),
            "always the same": 1 / len(LANGUAGES),
        },
    }


def main(options: list[str] | None = None) -> int:
    """Run what is missing."""
    parser = HfArgumentParser(CompareArguments, description=__doc__)  # type: ignore[arg-type]
    (arguments,) = parser.parse_args_into_dataclasses(options)
    unknown = set(arguments.variants) - STYLES.keys()
    if unknown:
        parser.error(f"variants={sorted(unknown)}: choose from {', '.join(STYLES)}")
    header = make_header(arguments)
    folder = Path(arguments.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    runs: list[dict] = []
    if (folder / "results.json").exists():
        earlier = json.loads((folder / "results.json").read_text())
        if any(earlier[name] != header[name] for name in ("settings", "packages")):
            parser.error(f"{folder} has runs with other settings: choose another output_dir")
        runs = earlier["runs"]
        print(f"Going on after {len(runs)} finished runs")
    failed = do_missing(arguments, header, runs)
    if runs:
        print(tables(header, runs))
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
