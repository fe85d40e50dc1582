"""What LSH is for: ask for something that stands far back in the row.

    python -m scripts.studies.recall

Two tasks on random symbols: recall (pairs of a key and a value, filler, then every key again) and
copy (a text, filler, then the text again). Trains small models by a curriculum of short rows, with
LSH attention of several numbers of rounds, local attention and full attention, and asks each at
distances up to 64K with several numbers of rounds. Writes results.json and results.md to the output
folder after every part, results.png at the end, and goes on where it was interrupted.
"""

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from reformer_hf.training.arguments import argument
from reformer_hf.training.record import machine_record
from scripts.benchmarks.common.arguments import make_parser
from scripts.benchmarks.common.plot import new_figure
from scripts.benchmarks.common.runs import Planned, do_runs, timed
from scripts.benchmarks.common.tables import counts, describe_machine, length_table, short
from scripts.studies.recall.run import NEXT, SETTINGS, WINDOW, Learner, Stage, evaluate, train
from scripts.studies.recall.task import SYMBOLS, TASKS, Size

HASHED = ("lsh", NEXT)
UNHASHED = ("local", "full", "full_shared_qk")
CURRICULUM = {
    "recall": [
        Stage(Size(16, 64, 16), rows=16, steps=100, num_buckets=16),
        Stage(Size(32, 128, 96), rows=6, steps=80, num_buckets=64),
        Stage(Size(32, 192, 320), rows=3, steps=300, num_buckets=512),
    ],
    "copy": [
        Stage(Size(16, 32, 16), rows=16, steps=200, num_buckets=16),
        Stage(Size(32, 64, 128), rows=6, steps=100, num_buckets=32),
        Stage(Size(32, 256, 768), rows=2, steps=80, num_buckets=128),
    ],
}
SUMMARY = (
    "Random symbols, 64 in each alphabet. One layer for recall, a local layer and one more for "
    f"copy; hidden 128, one head of 64, window {WINDOW}, no positions, and but with next values a "
    "convolution over 2 tokens. Trained by a curriculum on short rows, with Muon and AdamW."
)
ASKED = {"recall": (32, 256), "copy": (32, 256)}
"""Pairs, or symbols to copy, and tokens that they are scattered over, in evaluation."""


@dataclass
class RecallArguments:
    """What is trained and asked."""

    output_dir: str = argument("outputs/recall", "Output folder; keeps the weights, too.")
    tasks: list[str] = argument(["recall"], "Of recall and copy.")
    attention: list[str] = argument(
        ["lsh", *UNHASHED],
        f"Kinds of attention, of {', '.join((*HASHED, *UNHASHED))}; {NEXT} is lsh with values of "
        "next tokens.",
    )
    train_hashes: list[int] = argument([8, 4, 2, 1], "Rounds in training, a model each.")
    eval_hashes: list[int] = argument([1, 2, 4, 8, 16], "Rounds in evaluation.")
    distances: list[int] = argument(
        [1024, 4096, 16384, 65536], "Tokens of filler before questions."
    )
    max_full_distance: int = argument(16384, "Largest distance of full attention.")
    eval_tokens: int = argument(32768, "Tokens of all rows of an evaluation, four rows at least.")
    seeds: int = argument(1, "Models of each kind.")
    num_threads: int = argument(1, "Threads of torch.")
    smoke: bool = argument(False, "A few steps and short rows, to see that everything runs.")

    def __post_init__(self) -> None:
        if self.smoke:
            self.distances, self.eval_tokens = [128, 256], 512
            self.train_hashes, self.eval_hashes = [2], [1, 2]

    def stages(self, task: str) -> list[Stage]:
        """The curriculum of a task."""
        if not self.smoke:
            return CURRICULUM[task]
        return [stage._replace(rows=2, steps=2) for stage in CURRICULUM[task][:2]]

    def learners(self) -> Iterator[Learner]:
        """What is trained, the most telling first."""
        for seed in range(self.seeds):
            for task in self.tasks:
                for attention in self.attention:
                    hashes = self.train_hashes if attention in HASHED else [0]
                    yield from (Learner(task, attention, count, seed) for count in hashes)


def plan(arguments: RecallArguments) -> list[Planned]:
    """Each training, and each evaluation of what it made."""
    planned = []
    for learner in arguments.learners():
        path = Path(arguments.output_dir) / "models" / f"{learner.name}.pt"
        stages = arguments.stages(learner.task)
        identity = {**learner._asdict(), "part": "training"}
        do = partial(train, learner, stages, path)
        planned.append(Planned(identity, f"train {learner.name}", partial(timed, do)))
        for distance in arguments.distances:
            if learner.attention.startswith("full") and distance > arguments.max_full_distance:
                continue
            size = Size(*ASKED[learner.task], distance)
            rows = max(4, arguments.eval_tokens // distance)
            for count in arguments.eval_hashes if learner.num_hashes else [0]:
                identity = {**learner._asdict(), "part": "evaluation"}
                identity |= {"distance": distance, "eval_hashes": count}
                do = partial(evaluate, learner, path, size, count, rows)
                name = f"{learner.name} at {short(distance)}"
                planned.append(Planned(identity, name, partial(timed, do)))
    return planned


def label(run: dict) -> str:
    """How a line of the tables and of the plot is named."""
    if not run["num_hashes"]:
        return run["attention"]
    rounds = f"{run['num_hashes']} round{'s' * (run['num_hashes'] > 1)}"
    kind = "lsh, next values" if run["attention"] == NEXT else "lsh"
    return f"{kind}, {rounds} in training, {run['eval_hashes']} in evaluation"


def by_line(runs: Sequence[dict], task: str) -> dict[str, dict[int, list[dict]]]:
    """The evaluations of a task: by line, then by distance, one for each seed."""
    lines: dict[str, dict[int, list[dict]]] = {}
    mine = [run for run in runs if run["part"] == "evaluation" and run["task"] == task]
    order = ("attention", "num_hashes", "eval_hashes")
    for run in sorted(filter(counts, mine), key=lambda run: [run[name] for name in order]):
        lines.setdefault(label(run), {}).setdefault(run["distance"], []).append(run)
    return lines


def percent(runs: Sequence[dict], name: str) -> str:
    """The mean of a share over the seeds; a dash where it was not measured."""
    shares = [run[name] for run in runs if name in run]
    return f"{100 * sum(shares) / len(shares):.1f}" if shares else "-"


def render(header: dict, runs: Sequence[dict]) -> str:
    """The results as Markdown."""
    distances = sorted({run["distance"] for run in runs if "distance" in run})
    lines = [describe_machine(header), ""]
    for task in TASKS:
        found = by_line(runs, task)
        if not found:
            continue
        for title, name in (
            ("right answers, %", "accuracy"),
            ("questions that share a bucket with their answer in a round, %", "same_bucket"),
            ("the same, and the answer is in the window there, %", "shown"),
        ):
            rows = [
                (line, partial(lambda cells, d: percent(cells.get(d, []), name), cells))  # noqa: B023
                for line, cells in found.items()
                if any(name in run for many in cells.values() for run in many)
            ]
            if rows:
                lines += [f"## {task}: {title}", "", *length_table(distances, rows, "distance")]
    trained = [run for run in runs if counts(run) and run["part"] == "training"]
    minutes = sum(run["seconds"] for run in filter(counts, runs)) / 60
    busy = sum(run["cpu_seconds"] for run in filter(counts, runs)) / 60
    longest = max((run["tokens"] for run in trained), default=0)
    lines.append(
        f"A guess is right once in {SYMBOLS} times. Trainings of {longest:,} tokens at "
        f"most. All parts took {minutes:.0f} minutes, in which the processor worked {busy:.1f} for "
        "them."
    )
    return "\n".join([*lines, ""])


def plot(runs: Sequence[dict], folder: Path) -> None:
    """Draw the right answers over the distance.

    Of LSH only models of the most rounds in training, and all models with as many in evaluation.
    """
    most = max(run["num_hashes"] for run in runs)
    counted = ((run["num_hashes"], run.get("eval_hashes")) for run in runs)
    runs = [run for run, both in zip(runs, counted, strict=True) if not both[0] or most in both]
    tasks = [task for task in TASKS if by_line(runs, task)]
    figure = new_figure(6.5 * max(1, len(tasks)), 4.5)
    for axes, task in zip(figure.subplots(1, max(1, len(tasks)), squeeze=False)[0], tasks):  # noqa: B905
        for name, cells in by_line(runs, task).items():
            shares = [
                100 * sum(run["accuracy"] for run in many) / len(many)
                for _, many in sorted(cells.items())
            ]
            style = "o-" if name.startswith("lsh") else "s--"
            axes.plot(sorted(cells), shares, style, label=name, markersize=4)
        distances = sorted({d for cells in by_line(runs, task).values() for d in cells})
        axes.set_xscale("log", base=2)
        axes.set_xticks(distances, [short(distance) for distance in distances])
        axes.set(title=task, xlabel="tokens between", ylabel="right answers, %", ylim=(-3, 103))
        axes.grid(alpha=0.3)
        axes.legend(fontsize=6)
    figure.savefig(folder / "results.png", dpi=120)


def main(argv: list[str] | None = None) -> int:
    """Do the parts that are missing."""
    parser = make_parser([RecallArguments], "studies.recall", __doc__)
    (arguments,) = parser.parse_args_into_dataclasses(argv)
    for name, known in (("tasks", TASKS), ("attention", (*HASHED, *UNHASHED))):
        if unknown := set(getattr(arguments, name)) - set(known):
            parser.error(f"unknown {name} {sorted(unknown)}: choose from {list(known)}")
    torch.set_num_threads(arguments.num_threads)
    settings = {
        **SETTINGS,
        "stages": {task: arguments.stages(task) for task in TASKS},
        "asked": ASKED,
        "eval_tokens": arguments.eval_tokens,
    }
    header = {
        "machine": machine_record() | {"torch_threads": arguments.num_threads},
        "summary": SUMMARY,
        "settings": json.loads(json.dumps(settings)),  # as an earlier call's file has them
    }
    return do_runs(parser, arguments.output_dir, header, plan(arguments), render, plot)


if __name__ == "__main__":
    sys.exit(main())
