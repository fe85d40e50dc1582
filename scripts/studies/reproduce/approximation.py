"""How near LSH attention comes to exact attention, on the queries of a trained model.

    python -m scripts.studies.reproduce approximation

Reads held-out text with a byte-level model and takes queries and values of its LSH layers. Compares
full shared-QK attention with LSH attention of several scopes, rounds and bucket sizes: the share of
the true top keys that are found, the error of the output, and how many keys of a query's own bucket
it is not shown. Draws buckets and attention on the text. Goes on where it was interrupted.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import mean
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from reformer_hf import ReformerHFForCausalLM
from reformer_hf.training.arguments import argument
from reformer_hf.training.data.bytes import ByteRows
from scripts.benchmarks.common.plot import new_figure
from scripts.benchmarks.common.runs import Planned, do_runs, timed
from scripts.benchmarks.common.tables import counts, describe_machine, table
from scripts.studies.library import DESCRIPTION, join_standard_library, random_model
from scripts.studies.reproduce.approximation_picture import draw_text
from scripts.studies.reproduce.approximation_run import (
    VARIANTS,
    Case,
    Layer,
    measure,
    read_layers,
)
from scripts.studies.reproduce.common import ClaimArguments, make_header, parse

CLAIM = "approximation"
HELD_OUT = 5  # percent of the rows, as in the quickstart
COLUMNS = {
    "hashed_1": "top key hashed alike",
    "shown_1": "top key shown",
    "shown_8": "top 8 shown",
    "shown_32": "top 32 shown",
    "weight": "exact weight shown",
    "output_error": "error of the output",
    "output_error_once": "error, each key once",
}


@dataclass
class ApproximationArguments(ClaimArguments):
    """What is compared, on which model and text."""

    model_name_or_path: str = argument("outputs/quickstart", "A trained byte-level model.")
    text_file: str | None = argument(None, "Text; this Python's standard library by default.")
    num_tokens: int = argument(4096, "Bytes of the row, of the held-out ones.")
    variants: list[str] = argument(list(VARIANTS), "Ways to choose keys.")
    rounds: list[int] = argument([1, 2, 4, 8, 16], "Rounds of hashing.")
    buckets: list[int] = argument([16, 32, 64, 128], "Tokens of a mean bucket.")
    window: int = argument(64, "Places that a query sees in a round.")
    draws: int = argument(2, "Draws of the rotations.")

    def smoke_values(self) -> dict[str, Any]:
        """Arguments that are tiny with `smoke`."""
        sizes = {"num_tokens": 96, "window": 8, "rounds": [1, 2], "buckets": [8], "draws": 1}
        return {"model_name_or_path": "random weights", **sizes}

    def first_problem(self) -> str | None:
        """The first field whose value cannot be, and the fix; None if all can."""
        if unknown := set(self.variants) - set(VARIANTS):
            return f"unknown variants {sorted(unknown)}: choose from {list(VARIANTS)}"
        folder = self.model_name_or_path
        if not self.smoke and not Path(folder).is_dir():
            return f"model_name_or_path={folder}: no such folder; run the quickstart, or give one"
        return None

    def read_model(self) -> ReformerHFForCausalLM:
        """The model; with `smoke` one of random weights."""
        if self.smoke:
            return random_model(attn_layers=["lsh"])
        return ReformerHFForCausalLM.from_pretrained(self.model_name_or_path)

    def describe_model(self) -> dict[str, str]:
        """Its name, and a digest of the weights: those of different models are not mixed."""
        name, digest = Path(self.model_name_or_path).name, hashlib.sha256()
        for file in sorted(Path(self.model_name_or_path).glob("*.safetensors")):
            digest.update(file.read_bytes())
        return {"name": name, "sha256": digest.hexdigest()[:16]}

    def read_row(self) -> Tensor:
        """Token ids of held-out bytes, (1, num_tokens)."""
        with TemporaryDirectory() as folder:
            size = 40 * self.num_tokens if self.smoke else None
            written = Path(folder, "text")
            path = Path(self.text_file) if self.text_file else join_standard_library(written, size)
            rows = ByteRows([path], self.num_tokens).split(HELD_OUT)[1]
            return rows[0]["input_ids"][None]


class Layers:
    """The LSH layers of the model on the row, read when they are first needed."""

    def __init__(self, arguments: ApproximationArguments):
        self.arguments = arguments
        self._read: list[Layer] | None = None

    def read(self) -> list[Layer]:
        """All of them."""
        if self._read is None:
            self._read = read_layers(self.arguments.read_model(), self.arguments.read_row())
        return self._read


def measure_all(layers: Layers, case: Case, window: int, draws: int) -> dict[str, Any]:
    """What `measure` returns, for each layer and their mean."""
    by_layer = [measure(layer, case, window, draws) for layer in layers.read()]
    means = {name: mean(one[name] for one in by_layer) for name in by_layer[0]}
    return {**means, "by_layer": by_layer}


def render(header: dict, runs: Sequence[dict]) -> str:
    """The results as Markdown."""
    finished = sorted(filter(counts, runs), key=lambda run: [run[n] for n in Case._fields])
    lines = [describe_machine(header), ""]
    for variant in VARIANTS:
        rows = [
            [str(run["bucket"]), str(run["rounds"])] + [_cell(run[name], name) for name in COLUMNS]
            for run in finished
            if run["variant"] == variant
        ]
        if rows:
            columns = ["tokens of a bucket", "rounds", *COLUMNS.values()]
            lines += [f"## {variant}", "", *table(columns, rows)]
    rows = [
        [run["variant"], str(run["bucket"]), _cell(run["lost"], "lost"), _cell(run["crowded"], "")]
        for run in finished
        if run["variant"] in VARIANTS[:2] and run["rounds"] == max(r["rounds"] for r in finished)
    ]
    columns = ["variant", "tokens of a bucket", "pairs of a bucket that are not shown"]
    columns += ["tokens in buckets of more than twice the mean"]
    lines += ["## What chunk and window lose of a bucket", "", *table(columns, rows)]
    return "\n".join(lines)


def _cell(value: float, name: str) -> str:
    return f"{value:.3f}" if name.startswith("output_error") else f"{100 * value:.1f} %"


def plot(runs: Sequence[dict], folder: Path) -> None:
    """Draw what is found and the error over the rounds, a line for each variant and bucket."""
    figure = new_figure(13, 4.5)
    names = {"shown_8": "top 8 keys shown", "weight": "exact weight shown", "output_error": "error"}
    finished = list(filter(counts, runs))
    sizes = sorted({run["bucket"] for run in finished})
    for axes, (name, title) in zip(figure.subplots(1, len(names)), names.items(), strict=True):
        for index, variant in enumerate(VARIANTS):
            for size in sizes:
                mine = [r for r in finished if (r["variant"], r["bucket"]) == (variant, size)]
                points = sorted((run["rounds"], run[name]) for run in mine)
                if points:
                    style = f"C{index}{['-', '--', '-.', ':'][sizes.index(size) % 4]}"
                    label = f"{variant}, {size}" if axes is figure.axes[0] else None
                    axes.plot(*zip(*points, strict=True), style, marker="o", ms=3, label=label)
        axes.set_xscale("log", base=2)
        axes.set(title=title, xlabel="rounds")
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
    figure.axes[0].legend(fontsize=6, title="variant, tokens of a bucket", title_fontsize=6)
    figure.savefig(folder / "results.png", dpi=120)


def run(argv: list[str] | None = None) -> int:
    """Measure what is missing, and draw."""
    parser, arguments = parse(ApproximationArguments, CLAIM, __doc__, argv)
    if problem := arguments.first_problem():
        parser.error(problem)
    layers = Layers(arguments)
    text = f"the file {Path(arguments.text_file).name}" if arguments.text_file else DESCRIPTION
    model = arguments.describe_model()
    settings = {"num_tokens": arguments.num_tokens, "window": arguments.window, "model": model}
    settings |= {"draws": arguments.draws, "text": text}
    summary = (
        f"LSH layers of the model {model['name']} on {arguments.num_tokens:,} held-out bytes of "
        f"{text}; a query sees {arguments.window} places in a round. Means over layers, heads, "
        f"queries and {arguments.draws} draws of rotations."
    )
    header = make_header(arguments, summary, settings)
    cases = [
        Case(variant, rounds, bucket)
        for rounds in arguments.rounds
        for bucket in arguments.buckets
        for variant in arguments.variants
    ]
    planned = []
    for case in cases:
        do = partial(measure_all, layers, case, arguments.window, arguments.draws)
        planned.append(Planned(case._asdict(), str(case), partial(timed, do)))
    folder = Path(arguments.results_dir, CLAIM)
    status = do_runs(parser, str(folder), header, planned, render, plot)
    with torch.no_grad():
        draw_text(layers.read()[-1], arguments.read_row()[0], arguments.window, folder)
    return status
