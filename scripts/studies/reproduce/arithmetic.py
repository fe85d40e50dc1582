"""The talk's arithmetic: a million tokens, with and without reversible layers, beside measurements.

    python -m scripts.studies.reproduce arithmetic

The talk counts 2 GB for the embeddings of a million tokens and 50 GB for the activations of 12
layers. Counts the same for the sizes of a result of `scripts.studies.million`, measures the bytes
that a layer of these sizes stores for a token with and without reversibility, and puts the measured
peak of the million-token step beside them. Goes on where it was interrupted.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from reformer_hf.training.arguments import argument
from scripts.benchmarks.common.plot import new_figure
from scripts.benchmarks.common.runs import do_runs
from scripts.benchmarks.common.tables import Repeats, describe_machine, table
from scripts.studies.reproduce.common import parse
from scripts.studies.reproduce.costs import Subject
from scripts.studies.reproduce.timed import TimedArguments, make_timed_header, plan_subjects

CLAIM = "arithmetic"
TALK = {"layers": 12, "embeddings": 2e9, "activations": 50e9}
"""Bytes, at a million tokens of width 512 in float32."""
_OF_ALL_HEADS = """What has no layers is, of reversible ones, above all the attention of one layer
with all heads at a time. The steps below attend with one head at a time."""
PLAIN, REVERSIBLE = "all activations stored", "reversible"
FLOAT = 4  # bytes


class MemoryCase(NamedTuple):
    """What is measured: whether activations are stored, and how many layers there are."""

    variant: str
    layers: int

    def __str__(self) -> str:
        return f"{self.variant}, {self.layers} layers"


@dataclass
class ArithmeticArguments(TimedArguments):
    """Which steps are told, and at which length layers are measured."""

    million: list[str] = argument(
        ["scripts/results/million/result.json"], "Results of scripts.studies.million."
    )
    length: int = argument(2**13, "Tokens at which bytes of a layer are measured.")
    layer_counts: list[int] = argument([2, 6], "Layers, of which the difference counts.")
    steps: int = argument(1, "Steps of a run.")

    def smoke_values(self) -> dict[str, Any]:
        """Arguments that are tiny with `smoke`."""
        return super().smoke_values() | {"length": 64, "layer_counts": [1, 2]}

    def read_steps(self) -> list[dict]:
        """The recorded steps."""
        return [json.loads(Path(file).read_text(encoding="utf-8")) for file in self.million]

    def cases(self, sizes: dict[str, Any]) -> Iterator[tuple[MemoryCase, Subject]]:
        """What is measured, of the sizes of a recorded step."""
        for layers in self.layer_counts:
            for name in (PLAIN, REVERSIBLE):
                subject = Subject(
                    attention=sizes["attention_scope"],
                    implementation="blockwise",
                    rows=1,
                    length=self.length,
                    rounds=1 if self.smoke else sizes["num_hashes"],
                    layers=layers,
                    feed_forward_size=16 if self.smoke else sizes["feed_forward_size"],
                    reversible=name == REVERSIBLE,
                    chunked=True,
                )
                yield MemoryCase(name, layers), subject


def case_of(run: dict) -> MemoryCase:
    """The case of a recorded run."""
    return MemoryCase(*(run[name] for name in MemoryCase._fields))


def bytes_of_layers(runs: Sequence[dict], variant: str) -> tuple[float, float] | None:
    """Measured bytes of a token: of each layer, and of what is there without any; or None."""
    results = Repeats(runs, case_of)
    points = {}
    for case in results.cases:
        found = results.per_repeat(case, lambda run: run["memory_bytes"] / run["subject"]["length"])
        if case.variant == variant and found:
            points[case.layers] = min(found.values())
    if len(points) < 2:
        return None
    few, many = min(points), max(points)
    slope = (points[many] - points[few]) / (many - few)
    return slope, points[few] - few * slope


def stored(tokens: int, width: int, layers: int) -> int:
    """Bytes of the outputs of all sub-layers, two of a layer, as the talk counts them."""
    return tokens * width * FLOAT * 2 * layers


def counted(step: dict) -> list[tuple[str, float]]:
    """What a recorded step must hold, by the sizes of its model; bytes."""
    sizes = step["arguments"]
    tokens, width, layers = (
        sizes[name] for name in ("num_tokens", "hidden_size", "num_hidden_layers")
    )
    hashed = layers // 2 * sizes["num_hashes"] * sizes["num_attention_heads"] * tokens
    return [
        ("embeddings", tokens * width * FLOAT),
        (f"outputs of the sub-layers of {TALK['layers']} layers", stored(tokens, width, 12)),
        (f"the same, of its {layers} layers", stored(tokens, width, layers)),
        ("reversible: both streams", 2 * tokens * width * FLOAT),
        ("reversible: bucket ids of all rounds", 2 * hashed),  # int16
        ("weights, gradients and AdamW's moments", 4 * FLOAT * step["parameters"]),
    ]


def render(header: dict, runs: Sequence[dict]) -> str:
    """The results as Markdown."""
    lines = [describe_machine(header), ""]
    lines += [
        f"The talk: {_gigabytes(TALK['embeddings'])} of embeddings at a million tokens of width "
        f"512 in float32, {_gigabytes(TALK['activations'])} for {TALK['layers']} layers.",
        "",
    ]
    per_token = {name: bytes_of_layers(runs, name) for name in (PLAIN, REVERSIBLE)}
    rows = [
        [name, f"{found[0]:,.0f}", f"{found[1]:,.0f}"]
        for name, found in per_token.items()
        if found is not None
    ]
    columns = ["bytes of a token, measured", "of each LSH layer", "of what has no layers"]
    lines += ["## Layers, measured at a shorter length", "", *table(columns, rows)]
    lines += [_OF_ALL_HEADS, ""]
    plain = per_token[PLAIN]
    measured = header["steps"][0]["arguments"]  # whose sizes the layers above have
    for step in header["steps"]:
        sizes = step["arguments"]
        tokens, layers = sizes["num_tokens"], sizes["num_hidden_layers"]
        kind = "bfloat16" if sizes["bf16"] else "float32"
        lines += [f"## {tokens:,} tokens, {layers} layers, {kind}", ""]
        cells = [[name, _gigabytes(value)] for name, value in counted(step)]
        if plain and sizes == measured:
            for count in (layers, TALK["layers"]):
                value = tokens * (plain[0] * count + plain[1])
                text = f"{PLAIN}, {count} LSH layers: from the bytes above"
                cells.append([text, _gigabytes(value)])
        peak = step["peak_memory_gib"]
        cells.append(["measured: the peak of the whole step", _gigabytes((peak or 0) * 2**30)])
        lines += table(["", "GB"], cells)
        seconds = step["seconds"]["step"]
        lines.append(f"The step took {seconds / 60:.1f} minutes, {step['machine']['date'][:10]}.\n")
    return "\n".join(lines)


def _gigabytes(size: float) -> str:
    return f"{size / 1e9:.1f} GB"


def plot(runs: Sequence[dict], folder: Path) -> None:
    """Draw bytes of a token over the layers."""
    figure = new_figure(6, 4)
    axes = figure.subplots()
    for variant, style in ((PLAIN, "C0o-"), (REVERSIBLE, "C1s-")):
        mine = [run for run in runs if run["variant"] == variant and run.get("memory_bytes")]
        points = sorted((r["layers"], r["memory_bytes"] / r["subject"]["length"]) for r in mine)
        if points:
            axes.plot(*zip(*points, strict=True), style, label=variant)
            axes.legend()
    axes.set(xlabel="layers", ylabel="bytes of a token", title="Memory of forward and backward")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    figure.savefig(folder / "results.png", dpi=120)


def run(argv: list[str] | None = None) -> int:
    """Count, and measure what is missing."""
    parser, arguments = parse(ArithmeticArguments, CLAIM, __doc__, argv)
    if problem := arguments.first_problem({}, ("warmup", "length")):
        parser.error(problem)
    try:
        steps = arguments.read_steps()
    except (OSError, ValueError) as error:
        parser.error(f"million={arguments.million}: {error}")
    sizes = steps[0]["arguments"]
    if not arguments.smoke:
        arguments.hidden_size, arguments.heads = sizes["hidden_size"], sizes["num_attention_heads"]
    header = make_timed_header(arguments, f"Layers measured on {arguments.length:,} tokens.")
    header["settings"]["length"] = arguments.length
    header["steps"] = steps
    planned = plan_subjects(arguments.cases(sizes), arguments, exact_memory=True)
    folder = str(Path(arguments.results_dir, CLAIM))
    return do_runs(parser, folder, header, planned, render, plot)
