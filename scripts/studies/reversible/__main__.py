"""Compare reversible with plain encoder-decoders: loss curves and peak memory.

    python scripts/make_translation_pairs.py
    python -m scripts.studies.reversible --output_dir outputs/compare_reversible

Trains, for each seed, a reversible encoder-decoder, the same one with all activations stored
(`config.reversible=False`), and a Transformer with one residual stream (transformers' mBART of the
same widths), each in a process of its own on the same pairs. Then measures the peak memory of a
step against the number of layers. Writes results.json, results.md and results.png to the output
folder after every run, and goes on where it was interrupted.
"""

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import mean
from typing import Any

from transformers import HfArgumentParser

from reformer_hf.training.machine import machine_record
from reformer_hf.training.storage import write_json
from scripts.benchmarks.common.plot import new_figure
from scripts.benchmarks.common.processes import run_process
from scripts.studies.reversible.run import ONE_STREAM, PLAIN, REVERSIBLE, ReversibleRun

CHILD = "scripts.studies.reversible.run"
STYLES = {REVERSIBLE: "C0-", PLAIN: "C1--", ONE_STREAM: "C2:"}
RETURN_LARGE = {"MALLOC_MMAP_THRESHOLD_": "1048576", "MALLOC_TRIM_THRESHOLD_": "16777216"}
"""Settings of glibc that give large blocks back, so that the peak is what was needed."""


@dataclass
class CompareArguments:
    """What is compared, and how long each run trains."""

    output_dir: str = field(
        default="outputs/compare_reversible", metadata={"help": "Output folder."}
    )
    pairs_dir: str = field(
        default="outputs/translation_pairs",
        metadata={"help": "What make_translation_pairs.py wrote."},
    )
    seeds: int = field(default=3, metadata={"help": "Seeds of each variant."})
    max_steps: int = field(default=300, metadata={"help": "Optimiser steps of a run."})
    per_device_train_batch_size: int = field(default=16, metadata={"help": "Pairs in a step."})
    max_length: int = field(default=64, metadata={"help": "Tokens of a source or target."})
    num_hidden_layers: int = field(default=4, metadata={"help": "Of encoder, and of decoder."})
    hidden_size: int = field(default=128, metadata={"help": "Width of a stream."})
    vocab_size: int = field(default=2000, metadata={"help": "Pieces of the vocabulary."})
    learning_rate: float = field(default=2e-3, metadata={"help": "Highest learning rate."})
    dropout: float = field(default=0.1, metadata={"help": "Of hidden states and attention."})
    memory_layers: list[int] = field(
        default_factory=lambda: [2, 4, 8, 16],
        metadata={"help": "Layers of each side at which a step's peak memory is measured."},
    )
    memory_tokens: int = field(
        default=4096,
        metadata={"help": "Tokens on each side in those steps, in rows of max_length."},
    )
    max_minutes: float = field(default=30.0, metadata={"help": "Limit of one run."})


def plan(arguments: CompareArguments) -> list[ReversibleRun]:
    """All runs, seed by seed, then the measurements of memory."""
    common = {
        "pairs_dir": arguments.pairs_dir,
        "folder": arguments.output_dir,
        "max_steps": arguments.max_steps,
        "max_length": arguments.max_length,
        "hidden_size": arguments.hidden_size,
        "vocab_size": arguments.vocab_size,
        "learning_rate": arguments.learning_rate,
        "dropout": arguments.dropout,
    }
    rows = arguments.memory_tokens // arguments.max_length
    runs = [
        ReversibleRun(
            variant,
            seed,
            arguments.num_hidden_layers,
            batch_size=arguments.per_device_train_batch_size,
            **common,
        )
        for seed in range(arguments.seeds)
        for variant in STYLES
    ]
    return runs + [
        ReversibleRun(variant, None, layers, batch_size=rows, **common)
        for layers in arguments.memory_layers
        for variant in STYLES
    ]


def of(runs: Sequence[dict], variant: str, trained: bool) -> list[dict]:
    """The runs of a variant: those that were trained, or those that measured memory."""
    return [
        run
        for run in runs
        if run["run"]["variant"] == variant and (run["run"]["seed"] is not None) == trained
    ]


def largest_gap(runs: Sequence[dict], variant: str) -> float | None:
    """Largest distance of a variant's curves from the reversible ones of the same seeds."""
    curves = {run["run"]["seed"]: dict(run["curve"]) for run in of(runs, REVERSIBLE, True)}
    gaps = [
        abs(loss - curves[run["run"]["seed"]][step])
        for run in of(runs, variant, True)
        if run["run"]["seed"] in curves
        for step, loss in run["curve"]
    ]
    return max(gaps) if gaps else None


def spread_of_seeds(runs: Sequence[dict]) -> float:
    """Largest distance between two reversible curves of different seeds at one step."""
    by_step: dict[int, list[float]] = {}
    for run in of(runs, REVERSIBLE, True):
        for step, loss in run["curve"]:
            by_step.setdefault(step, []).append(loss)
    return max(max(losses) - min(losses) for losses in by_step.values())


def tables(header: dict, runs: Sequence[dict]) -> str:
    """The results as Markdown."""
    machine = header["machine"]
    lines = [
        f"{machine['date'][:10]}, {machine['processor']}, {machine['torch_threads']} thread(s), "
        f"torch {machine['versions']['torch']}. {header['summary']}",
        "",
        "| variant | parameters | held-out loss, by seed | mean "
        "| largest gap to reversible, same seed | peak memory, MB |",
        "|---|---|---|---|---|---|",
    ]
    for variant in STYLES:
        mine = of(runs, variant, True)
        if not mine:
            continue
        losses = [run["held_out_loss"] for run in mine]
        gap = largest_gap(runs, variant) if variant != REVERSIBLE else None
        peaks = ", ".join(f"{run['peak_bytes'] / 1e6:.0f}" for run in mine)
        lines.append(
            f"| {variant} | {mine[0]['parameters']:,} "
            f"| {', '.join(f'{loss:.4f}' for loss in losses)} | {mean(losses):.4f} "
            f"| {'' if gap is None else f'{gap:.4f}'} | {peaks} |"
        )
    if of(runs, REVERSIBLE, True):
        lines += [
            "",
            "For scale: two reversible curves of different seeds are up to "
            f"{spread_of_seeds(runs):.4f} apart at a step.",
        ]
    layers = sorted({run["run"]["layers"] for run in runs if run["run"]["seed"] is None})
    if layers:
        lines += [
            "",
            "Peak memory of forward and backward, MB, and (in brackets) above what the process "
            f"held before; layers of each side, {header['settings']['memory_tokens']:,} tokens on "
            "each side:",
            "",
            f"| variant | {' | '.join(str(layer) for layer in layers)} |",
            "|---|" + "---|" * len(layers),
        ]
        for variant in STYLES:
            cells = {run["run"]["layers"]: _megabytes(run) for run in of(runs, variant, False)}
            lines.append(f"| {variant} | {' | '.join(cells.get(n, '') for n in layers)} |")
    return "\n".join(lines) + "\n"


def _megabytes(run: dict) -> str:
    return f"{run['peak_bytes'] / 1e6:.0f} ({(run['peak_bytes'] - run['before_bytes']) / 1e6:.0f})"


def plot(runs: Sequence[dict], path: Path) -> None:
    """Draw loss curves, a line per seed, and peak memory against layers."""
    figure = new_figure(11, 4.5)
    curves, memory = figure.subplots(1, 2)
    for variant, style in STYLES.items():
        for index, run in enumerate(of(runs, variant, True)):
            label = variant if index == 0 else None
            curves.plot(*zip(*run["curve"], strict=True), style, label=label, linewidth=1)
        points = sorted(
            (r["run"]["layers"], r["peak_bytes"] / 1e6) for r in of(runs, variant, False)
        )
        if points:
            memory.plot(*zip(*points, strict=True), style, marker="o", label=variant)
    curves.set(xlabel="step", ylabel="training loss", title="Loss, a line per seed")
    memory.set(xlabel="layers of each side", ylabel="MB", title="Peak resident memory of a step")
    memory.set_ylim(bottom=0)
    for axes in (curves, memory):
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend()
    figure.savefig(path, dpi=120)


def do_missing(arguments: CompareArguments, header: dict, runs: list[dict]) -> int:
    """Do the runs that are missing, each in a process; returns how many failed."""
    folder = Path(arguments.output_dir)
    done = [run["run"] for run in runs]
    failed = 0
    for one in plan(arguments):
        if one.record() in done:
            continue
        environment = os.environ | RETURN_LARGE
        result: dict[str, Any] = run_process(
            CHILD, asdict(one), 60 * arguments.max_minutes, environment
        )
        name = f"{one.variant}, " + (f"{one.layers} layers" if one.seed is None else f"{one.seed}")
        if "error" in result:
            print(f"{name}: {result['error']}", file=sys.stderr)
            failed += 1
            continue
        runs.append(result)
        print(f"{name}: {result.get('held_out_loss', '')} {result['peak_bytes'] / 1e6:.0f} MB")
        write_json(folder / "results.json", {**header, "runs": runs})
        (folder / "results.md").write_text(tables(header, runs), encoding="utf-8")
        plot(runs, folder / "results.png")
    return failed


def main(options: list[str] | None = None) -> int:
    """Run what is missing."""
    parser = HfArgumentParser(CompareArguments, description=__doc__)  # type: ignore[arg-type]
    (arguments,) = parser.parse_args_into_dataclasses(options)
    sources = Path(arguments.pairs_dir) / "sources.json"
    if not sources.exists():
        parser.error(f"pairs_dir={arguments.pairs_dir}: run make_translation_pairs.py first")
    data = json.loads(sources.read_text())
    settings = {
        name: value
        for name, value in asdict(arguments).items()
        if name not in ("output_dir", "pairs_dir", "seeds", "memory_layers", "max_minutes")
    } | {"pairs": data["pairs"]}
    header = {
        "machine": machine_record(),
        "summary": (
            f"{arguments.max_steps} steps of {arguments.per_device_train_batch_size} pairs of "
            f"{sum(data['pairs'].values()):,} English-German messages, "
            f"{arguments.num_hidden_layers} + {arguments.num_hidden_layers} layers, hidden "
            f"{arguments.hidden_size}, full attention, dropout {arguments.dropout}, float32."
        ),
        "settings": settings,
        "data": data,
    }
    folder = Path(arguments.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    runs: list[dict] = []
    if (folder / "results.json").exists():
        earlier = json.loads((folder / "results.json").read_text())
        if earlier["settings"] != settings:
            parser.error(f"{folder} has runs with other settings: choose another output_dir")
        runs = earlier["runs"]
        print(f"Going on after {len(runs)} finished runs")
    failed = do_missing(arguments, header, runs)
    if runs:
        print(tables(header, runs))
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
