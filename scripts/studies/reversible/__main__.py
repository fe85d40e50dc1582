"""Compare reversible with plain encoder-decoders: loss curves and peak memory.

    python scripts/make_translation_pairs.py
    python -m scripts.studies.reversible --output_dir outputs/compare_reversible

Trains, for each seed, a reversible encoder-decoder, the same one with all activations stored
(`config.reversible=False`), and a Transformer with one residual stream (transformers' mBART of the
same widths), each in a process of its own on the same pairs. Then measures the peak memory of a
step against the number of layers. Writes results.json and results.md to the output folder after
every run and results.png at the end, and goes on where it was interrupted.
"""

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import mean

from reformer_hf.training.arguments import argument
from reformer_hf.training.record import machine_record
from scripts.benchmarks.common.arguments import make_parser
from scripts.benchmarks.common.memory import RETURN_LARGE
from scripts.benchmarks.common.plot import new_figure
from scripts.benchmarks.common.processes import exit_when_terminated, run_process
from scripts.benchmarks.common.runs import Planned, do_runs
from scripts.benchmarks.common.tables import describe_machine, table
from scripts.studies.reversible.run import ONE_STREAM, PLAIN, REVERSIBLE, ReversibleRun, Settings

STYLES = {REVERSIBLE: "C0-", PLAIN: "C1--", ONE_STREAM: "C2:"}
RETURN_MORE = RETURN_LARGE | {"MALLOC_TRIM_THRESHOLD_": str(2**24)}  # the models are small


@dataclass
class CompareArguments:
    """What is compared, and how long each run trains."""

    output_dir: str = argument("outputs/compare_reversible", "Output folder.")
    pairs_dir: str = argument("outputs/translation_pairs", "What make_translation_pairs.py wrote.")
    seeds: int = argument(3, "Seeds of each variant.")
    memory_layers: list[int] = argument(
        [2, 4, 8, 16], "Layers of each side at which a step's peak memory is measured."
    )
    max_minutes: float = argument(30.0, "Limit of one run.")


def plan(arguments: CompareArguments, settings: Settings) -> list[ReversibleRun]:
    """All runs, seed by seed, then the measurements of memory."""
    folders = (arguments.pairs_dir, arguments.output_dir)
    trained = [(seed, settings.num_hidden_layers) for seed in range(arguments.seeds)]
    measured = [(None, layers) for layers in arguments.memory_layers]
    return [
        ReversibleRun(variant, seed, layers, *folders, settings)
        for seed, layers in trained + measured
        for variant in STYLES
    ]


def of(runs: Sequence[dict], variant: str, trained: bool) -> list[dict]:
    """The finished runs of a variant: those that were trained, or those that measured memory."""
    return [
        run
        for run in runs
        if "error" not in run
        and run["run"]["variant"] == variant
        and (run["run"]["seed"] is not None) == trained
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


def render(header: dict, runs: Sequence[dict]) -> str:
    """The results as Markdown."""
    lines = [describe_machine(header), "", *training_table(runs)]
    if of(runs, REVERSIBLE, True):
        lines += [
            "For scale: two reversible curves of different seeds are up to "
            f"{spread_of_seeds(runs):.4f} apart at a step.",
            "",
        ]
    layers = sorted({run["run"]["layers"] for run in runs if run["run"]["seed"] is None})
    if layers:
        rows = []
        for variant in STYLES:
            cells = {run["run"]["layers"]: _megabytes(run) for run in of(runs, variant, False)}
            rows.append([variant, *(cells.get(n, "") for n in layers)])
        lines += [
            "Peak memory of forward and backward, MB, and (in brackets) above what the process "
            f"held before; layers of each side, {header['settings']['memory_tokens']:,} tokens on "
            "each side:",
            "",
            *table(["variant", *map(str, layers)], rows),
        ]
    return "\n".join(lines)


def training_table(runs: Sequence[dict]) -> list[str]:
    """What the trained models came to."""
    rows = []
    for variant in STYLES:
        mine = of(runs, variant, True)
        if not mine:
            continue
        losses = [run["held_out_loss"] for run in mine]
        gap = largest_gap(runs, variant) if variant != REVERSIBLE else None
        rows.append(
            [
                variant,
                f"{mine[0]['parameters']:,}",
                ", ".join(f"{loss:.4f}" for loss in losses),
                f"{mean(losses):.4f}",
                "" if gap is None else f"{gap:.4f}",
                ", ".join(f"{run['peak_bytes'] / 1e6:.0f}" for run in mine),
            ]
        )
    columns = ["variant", "parameters", "held-out loss, by seed", "mean"]
    columns += ["largest gap to reversible, same seed", "peak memory, MB"]
    return table(columns, rows)


def _megabytes(run: dict) -> str:
    peak, before = run["peak_bytes"], run["before_bytes"] or 0
    return f"{peak / 1e6:.0f} ({(peak - before) / 1e6:.0f})"


def plot(runs: Sequence[dict], folder: Path) -> None:
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
    figure.savefig(folder / "results.png", dpi=120)


def main(argv: list[str] | None = None) -> int:
    """Run what is missing."""
    parser = make_parser([CompareArguments, Settings], "studies.reversible", __doc__)
    arguments, settings = parser.parse_args_into_dataclasses(argv)
    sources = Path(arguments.pairs_dir) / "sources.json"
    if not sources.exists():
        parser.error(f"pairs_dir={arguments.pairs_dir}: run make_translation_pairs.py first")
    data = json.loads(sources.read_text())
    header = {
        "machine": machine_record(),
        "summary": (
            f"{settings.max_steps} steps of {settings.per_device_train_batch_size} pairs of "
            f"{sum(data['pairs'].values()):,} English-German messages, "
            f"{settings.num_hidden_layers} + {settings.num_hidden_layers} layers, hidden "
            f"{settings.hidden_size}, full attention, dropout {settings.dropout}, float32."
        ),
        "settings": asdict(settings) | {"pairs": data["pairs"]},
        "data": data,
    }
    timeout, environment = 60 * arguments.max_minutes, os.environ | RETURN_MORE
    module = "scripts.studies.reversible.run"
    planned = []
    for run in plan(arguments, settings):
        attempt = partial(run_process, module, asdict(run), timeout, environment)
        label = f"{run.variant}, {run.layers} layers, seed {run.seed}"
        identity = {"variant": run.variant, "seed": run.seed, "layers": run.layers}
        planned.append(Planned({"run": identity}, label, attempt))
    return do_runs(parser, arguments.output_dir, header, planned, render, plot)


if __name__ == "__main__":
    exit_when_terminated()
    sys.exit(main())
