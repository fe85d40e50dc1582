"""Translation: BLEU of a reversible encoder-decoder against a plain one of equal parameters.

    python scripts/make_translation_pairs.py
    python -m scripts.studies.reproduce translation

English to German on messages of programs, the paper's WMT14 row on a small scale: full attention,
label smoothing, beams, sacreBLEU on held-out pairs, and held-out loss meanwhile. `reversible`
rebuilds all activations. `one stream` is a plain Transformer made of its parts: each sub-layer adds
to the stream that it reads. Goes on where it was interrupted, within a run, too.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any

from reformer_hf.training.arguments import argument
from reformer_hf.training.record import machine_record
from scripts.benchmarks.common.arguments import make_parser
from scripts.benchmarks.common.plot import new_figure
from scripts.benchmarks.common.processes import run_process
from scripts.benchmarks.common.runs import Planned, do_runs
from scripts.benchmarks.common.tables import describe_machine, table
from scripts.studies.learning.common import mean_and_spread, of, slug, values_of
from scripts.studies.reproduce.memory import (
    ONE_STREAM,
    REVERSIBLE,
    draw_memory,
    memory_section,
)
from scripts.studies.reproduce.rows import OUTPUTS, RESULTS
from scripts.studies.reproduce.translation_run import Settings

CLAIM = "translation"
VARIANTS = (REVERSIBLE, ONE_STREAM)
SMOKE = {"max_steps": 4, "per_device_train_batch_size": 4, "max_length": 16, "hidden_size": 16}
SMOKE |= {"num_hidden_layers": 1, "vocab_size": 310, "num_beams": 2, "max_eval_samples": 4}

NOTES = """Published (table 4, newstest2014, English to German, reversible Transformer: BLEU, and
sacreBLEU uncased and cased): base 27.6, 27.4, 26.9 after 100,000 steps; base without shared
embeddings 28.0, 27.9, 27.4 after 500,000; big 29.1, 28.9, 28.4 after 300,000. Vaswani et al.
(2017): base 27.3, big 28.4. Texts and sizes are others here: only the distance of the rows
compares.
"""


@dataclass
class TranslationStudyArguments:
    """What is compared."""

    output_dir: str = argument(OUTPUTS, "Folder of a folder for each run.")
    results_dir: str = argument(RESULTS, "Folder of results; each claim has its own.")
    pairs_dir: str = argument("outputs/translation_pairs", "What make_translation_pairs.py wrote.")
    variants: list[str] = argument(list(VARIANTS), f"Of {', '.join(VARIANTS)}.")
    seeds: int = argument(3, "Seeds of each.")
    smoke: bool = argument(False, "Tiny models and runs, to see whether all works.")


def render(header: dict, runs: Sequence[dict]) -> str:
    """The results as Markdown."""
    rows = []
    for variant in values_of(runs, "row"):
        mine = of(runs, row=variant)
        rows.append(
            [
                variant,
                f"{mine[0]['parameters']:,}",
                f"{mean(run['seconds'] for run in mine) / 3600:.3f}",
                mean_and_spread([run["held_out_loss"] for run in mine]),
                mean_and_spread([run["bleu"] for run in mine], ".2f"),
                ", ".join(f"{run['bleu']:.2f}" for run in mine),
            ]
        )
    columns = ["model", "parameters", "hours of steps", "held-out loss", "BLEU", "by seed"]
    lines = [describe_machine(header), "", *table(columns, rows)]
    finished = of(runs)
    if finished:
        copied = {name: scores["bleu"] for name, scores in finished[0]["references"].items()}
        said = ", ".join(f"{name} {score:.2f}" for name, score in copied.items())
        lines += [f"sacreBLEU {finished[0]['bleu_signature']}. Without a model: {said}.", ""]
    return "\n".join([*lines, NOTES, *memory_section(step_memory(runs))])


def step_memory(runs: Sequence[dict]) -> dict[str, dict[str, dict]]:
    """What was measured, by variant and layers of each side."""
    measured: dict[str, dict[str, dict]] = {}
    for run in of(runs):
        measured |= run.get("step_memory", {})
    return measured


def plot(runs: Sequence[dict], folder: Path) -> None:
    """Draw the held-out loss against steps, a line per run, and memory against layers."""
    figure = new_figure(12, 4.5)
    curves, memory = figure.subplots(1, 2)
    for number, variant in enumerate(values_of(runs, "row")):
        for index, run in enumerate(of(runs, row=variant)):
            label = None if index else variant
            steps, losses = zip(*run["curve"], strict=True)
            curves.plot(steps, losses, f"C{number}o-", label=label, lw=1, ms=3)
    curves.set(xlabel="step", ylabel="held-out loss, nats a piece")
    curves.grid(alpha=0.3)
    if curves.lines:
        curves.legend()
    draw_memory(memory, step_memory(runs))
    figure.savefig(folder / "results.png", dpi=120)


def make_header(settings: Settings, pairs: dict[str, Any]) -> dict[str, Any]:
    """What all runs have in common."""
    layers = settings.num_hidden_layers
    return {
        "machine": machine_record() | {"torch_threads": 1},
        "summary": (
            f"{settings.max_steps:,} steps of {settings.per_device_train_batch_size} of "
            f"{pairs['pairs']['train']:,} English-German messages; scored on "
            f"{pairs['pairs']['validation']:,} others with {settings.num_beams} beams. {layers} + "
            f"{layers} layers, hidden {settings.hidden_size}, full attention, rotary positions, a "
            "convolution of two tokens, Muon and AdamW, float32. Means over seeds and their "
            "standard deviation."
        ),
        "settings": asdict(settings) | {"pairs": pairs["pairs"]},
        "data": pairs,
    }


def run(argv: list[str] | None = None) -> int:
    """Train what is missing."""
    kinds = [TranslationStudyArguments, Settings]
    parser = make_parser(kinds, f"studies.reproduce {CLAIM}", __doc__)
    arguments, settings = parser.parse_args_into_dataclasses(argv)
    if arguments.smoke:
        settings, arguments.seeds = Settings(**SMOKE), 1
        if arguments.results_dir == RESULTS:  # which is for what was measured
            arguments.results_dir = str(Path(arguments.output_dir, "smoke"))
    if unknown := set(arguments.variants) - set(VARIANTS):
        parser.error(f"variants={sorted(unknown)}: choose from {', '.join(VARIANTS)}")
    sources = Path(arguments.pairs_dir) / "sources.json"
    if not sources.exists():
        parser.error(f"pairs_dir={arguments.pairs_dir}: run make_translation_pairs.py first")
    header = make_header(settings, json.loads(sources.read_text(encoding="utf-8")))
    planned, folder = [], Path(arguments.output_dir).absolute() / CLAIM
    folder /= "smoke" if arguments.smoke else f"{settings.max_steps} steps"
    for seed in range(arguments.seeds):
        for variant in arguments.variants:
            request = {
                "variant": variant,
                "seed": seed,
                "settings": asdict(settings),
                "pairs": str(Path(arguments.pairs_dir).absolute()),
                "folder": str(folder / slug(variant, seed)),
            }
            module = "scripts.studies.reproduce.translation_run"
            attempt = partial(run_process, module, request, timeout=7 * 24 * 3600)
            identity = {"row": variant, "seed": seed}
            planned.append(Planned({"run": identity}, f"{variant}, seed {seed}", attempt))
    results = str(Path(arguments.results_dir) / CLAIM)
    return do_runs(parser, results, header, planned, render, plot)
