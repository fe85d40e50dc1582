"""Bits per byte by the place in the context: does a model make use of what is far back?

    python -m scripts.studies.learning position --models lsh=outputs/mine local=outputs/twin

The folders are those of any trainings on bytes; by default they are the first seed's of this
package's model and of its twin with local layers only, which `comparison` has trained. Scores all
on the same held-out windows; a byte with n bytes before it counts in the bin of powers of two that
holds n. Differences from the first model are those of the same windows.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from tqdm import tqdm
from transformers import AutoModelForCausalLM, AutoTokenizer

from reformer_hf.training.arguments import argument
from reformer_hf.training.data.bytes import ByteRows, check_byte_tokenizer
from reformer_hf.training.record import machine_record
from scripts.benchmarks.common.arguments import make_parser
from scripts.benchmarks.common.plot import new_figure
from scripts.benchmarks.common.runs import Planned, do_runs
from scripts.benchmarks.common.tables import counts, describe_machine, table
from scripts.studies.learning.common import RESULTS, SMOKE_BYTES, slug
from scripts.studies.learning.corpora import CORPORA, write_corpus

_TRAINED = Path("outputs/learning/comparison")
_DEFAULTS = [
    f"{name}={_TRAINED / slug(name, 'python', 'minutes', 0)}"
    for name in ("reformer_hf", "local layers only")
]
_LOGITS = 1024  # places whose logits are held at a time


@dataclass
class PositionArguments:
    """Which models are scored, and on what."""

    models: list[str] = argument(_DEFAULTS, "name=folder of each model; the first is the base.")
    corpus: str = argument("python", f"Its held-out part; of {', '.join(CORPORA)}.")
    text_file: str | None = argument(None, "A text that no model has read, in place of it.")
    length: int = argument(8192, "Bytes in a window.")
    windows: int = argument(64, "Windows, evenly spread over the text.")
    output_dir: str = argument("outputs/learning", "Folder of the texts.")
    results_dir: str = argument(RESULTS, "Folder of the folder of results.")
    smoke: bool = argument(False, "A short text, to see whether all works.")

    def __post_init__(self) -> None:
        if self.smoke and self.results_dir == RESULTS:
            self.results_dir = str(Path(self.output_dir, "smoke"))


def bins(length: int) -> list[tuple[int, int]]:
    """Powers of two up to a length: the least and the largest number of bytes before a place.

    >>> bins(8)
    [(1, 1), (2, 3), (4, 7)]
    """
    return [(2**k, min(2 ** (k + 1), length) - 1) for k in range((length - 1).bit_length())]


@torch.no_grad()
def window_bits(model: Any, ids: Tensor) -> list[float]:
    """Mean bits of the bytes of each bin of a window.

    Args:
        model: causal, in eval mode.
        ids: token ids, one a byte, (seq,).
    """
    logits = model(input_ids=ids[None]).logits[0, :-1]
    pairs = zip(logits.split(_LOGITS), ids[1:].split(_LOGITS), strict=True)
    nats = torch.cat([cross_entropy(x.double(), y, reduction="none") for x, y in pairs])
    bits = (nats / math.log(2)).tolist()  # the first of them has one byte before it
    return [mean(bits[first - 1 : last]) for first, last in bins(len(ids))]


def score(folder: str, text: Path, length: int, windows: int) -> dict[str, Any]:
    """Score a model; returns `bits` of each window and bin, or an `error`.

    Args:
        folder: of the model and its tokenizer.
        text: file.
        length: bytes in a window.
        windows: how many.
    """
    try:
        check_byte_tokenizer(AutoTokenizer.from_pretrained(folder))
        model = AutoModelForCausalLM.from_pretrained(folder).eval()
        limit = model.config.position_limit
        if limit is not None and length > limit:
            raise ValueError(f"length={length}: {folder} has {limit} positions; give at most that")
    except (OSError, ValueError) as error:
        return {"error": str(error).strip().splitlines()[0]}
    rows = whole_windows(text, length)
    chosen = [i * len(rows) // windows for i in range(windows)]
    bits = [window_bits(model, rows[i]) for i in tqdm(chosen, Path(folder).name, leave=False)]
    return {"parameters": model.num_parameters(), "bits": bits}


def whole_windows(text: Path, length: int) -> list[Tensor]:
    """The windows of a text that are not cut short by its end, token ids of `length` bytes each."""
    rows = ByteRows([text], length)
    return [row["input_ids"] for row in rows if len(row["input_ids"]) == length]


def render(header: dict, runs: Sequence[dict]) -> str:
    """The results as Markdown: a column per model, and what it gains on the first one."""
    finished = list(filter(counts, runs))
    lines = [describe_machine(header), ""]
    if not finished:
        return "\n".join(lines)
    bits = {run["run"]["model"]: np.array(run["bits"]) for run in finished}
    base, *others = bits
    rows = []
    for place, (first, last) in enumerate(bins(header["settings"]["length"])):
        row = [f"{first:,} to {last:,}", *(f"{bits[name][:, place].mean():.3f}" for name in bits)]
        for name in others:
            row.append(_mean_and_error(bits[name][:, place] - bits[base][:, place]))
        rows.append(row)
    columns = ["bytes before", *bits, *(f"{name} above {base}" for name in others)]
    return "\n".join([*lines, *table(columns, rows)])


def _mean_and_error(gaps: np.ndarray) -> str:
    """The mean over windows, and its standard error."""
    text = f"{gaps.mean():+.3f}"
    return f"{text} ± {stdev(gaps) / math.sqrt(len(gaps)):.3f}" if len(gaps) > 1 else text


def plot(runs: Sequence[dict], folder: Path) -> None:
    """Draw bits per byte against the place, a line per model."""
    figure = new_figure(7, 4.5)
    axes = figure.add_subplot()
    for run in filter(counts, runs):
        means = np.mean(run["bits"], axis=0)
        axes.plot([2**k for k in range(len(means))], means, "o-", label=run["run"]["model"])
    axes.set_xscale("log", base=2)
    axes.set(xlabel="bytes before, from … on", ylabel="held-out bits per byte")
    axes.grid(alpha=0.3)
    if axes.lines:
        axes.legend()
        figure.savefig(folder / "results.png", dpi=120)


def run_part(argv: list[str] | None = None) -> int:
    """Score what is missing."""
    parser = make_parser([PositionArguments], "studies.learning position", __doc__)
    (arguments,) = parser.parse_args_into_dataclasses(argv)
    if unfit := [model for model in arguments.models if "=" not in model]:
        parser.error(f"models={unfit}: give name=folder")
    if arguments.text_file is None and arguments.corpus not in CORPORA:
        parser.error(f"corpus={arguments.corpus}: choose from {', '.join(CORPORA)}")
    if arguments.text_file is not None:
        text, described = Path(arguments.text_file), f"the file {Path(arguments.text_file).name}"
    else:
        folder, size = (
            Path(arguments.output_dir) / "texts",
            SMOKE_BYTES if arguments.smoke else None,
        )
        text = write_corpus(arguments.corpus, folder, size).held_out
        described = f"the end of {CORPORA[arguments.corpus]}"
    found = text.stat().st_size // arguments.length
    if not found or arguments.length < 2:
        parser.error(f"length={arguments.length}: {text} has {text.stat().st_size:,} bytes")
    windows = min(arguments.windows, found)
    header = {
        "machine": machine_record(),
        "summary": f"{windows} windows of {arguments.length:,} bytes of {described}. Mean bits per "
        "byte; differences with their standard error over windows.",
        "settings": {
            "text": described,
            "text_bytes": text.stat().st_size,
            "length": arguments.length,
            "windows": windows,
        },
    }
    planned = []
    for model in arguments.models:
        name, _, folder = model.partition("=")
        attempt = partial(score, folder, text, arguments.length, windows)
        planned.append(Planned({"run": {"model": name, "folder": folder}}, name, attempt))
    results = str(Path(arguments.results_dir) / "position")
    return do_runs(parser, results, header, planned, render, plot)
