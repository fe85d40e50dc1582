"""Measure what quantised weights cost: held-out bits per byte, and bytes of weights.

    bash scripts/quickstart.sh
    python -m scripts.studies.quantisation --model_name_or_path outputs/quickstart

Loads a trained byte-level model in each format and scores the same held-out rows, those that the
quickstart holds out. Needs torchao, the extra `quantization`. Writes results.json and results.md
to the output folder, after every format, and goes on where it was interrupted.
"""

import importlib.util
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from transformers import TorchAoConfig

from reformer_hf import ReformerHFByteTokenizer, ReformerHFForCausalLM
from reformer_hf.quickstart import STANDARD_LIBRARY
from reformer_hf.training.arguments import argument
from reformer_hf.training.data.bytes import ByteRows
from reformer_hf.training.data.text import find_files
from reformer_hf.training.evaluation import score_batches
from reformer_hf.training.record import machine_record
from scripts.benchmarks.common.arguments import make_parser
from scripts.benchmarks.common.runs import Planned, do_runs
from scripts.benchmarks.common.tables import counts, describe_machine, table
from scripts.studies.library import DESCRIPTION, random_model

FORMATS = {
    "float32": ("float32", None),
    "bfloat16": ("bfloat16", None),
    "float32, int8 weights": ("float32", "int8 weights"),
    "bfloat16, int8 weights": ("bfloat16", "int8 weights"),
    "bfloat16, int8 weights and inputs": ("bfloat16", "int8 weights and inputs"),
    "bfloat16, int4 weights in groups of 32": ("bfloat16", "int4 weights"),
}
"""Name to the dtype of what is not quantised, and the kind of `quantization_config`."""


@dataclass
class QuantisationArguments:
    """Which model, on which text, in which formats."""

    model_name_or_path: str | None = argument(None, "A trained byte-level model.")
    output_dir: str = argument("outputs/quantisation", "Output folder.")
    text_files: str = argument(STANDARD_LIBRARY, "Text; this Python's standard library by default.")
    formats: list[str] = argument(list(FORMATS), "Formats to score.")
    block_size: int = argument(8192, "Context in bytes.")
    validation_split_percentage: int = argument(5, "Share of the files, or last rows, to score.")
    max_eval_samples: int = argument(32, "Held-out rows.")
    smoke: bool = argument(False, "A tiny random model and short rows, to see whether all works.")

    def __post_init__(self) -> None:
        """Shrink a smoke test."""
        if self.smoke:
            self.block_size, self.max_eval_samples = 64, 1


def quantization_config(kind: str | None) -> TorchAoConfig | None:
    """What `from_pretrained` is given."""
    if kind is None:
        return None
    from torchao.prototype.quantization.int4 import PrototypeInt4WeightOnlyConfig
    from torchao.quantization import Int8DynamicActivationInt8WeightConfig, Int8WeightOnlyConfig

    kinds: dict[str, Any] = {
        "int8 weights": Int8WeightOnlyConfig(),
        "int8 weights and inputs": Int8DynamicActivationInt8WeightConfig(),
        "int4 weights": PrototypeInt4WeightOnlyConfig(group_size=32),
    }
    return TorchAoConfig(kinds[kind])


def score(arguments: QuantisationArguments, name: str, held_out: ByteRows) -> dict:
    """Load the model in a format and score the rows."""
    dtype, kind = FORMATS[name]
    options = {"dtype": dtype, "quantization_config": quantization_config(kind)}
    model = ReformerHFForCausalLM.from_pretrained(arguments.model_name_or_path, **options)
    wanted = min(len(held_out), arguments.max_eval_samples)
    chosen = (held_out[i * len(held_out) // wanted]["input_ids"][None] for i in range(wanted))
    batches = ({"input_ids": ids, "labels": ids} for ids in chosen)
    found = score_batches(model, batches, ReformerHFByteTokenizer(), Accelerator(cpu=True))
    layers = list(model.reformer.encoder.parameters())
    return {
        "bits_per_byte": found.bits_per_byte,
        "bytes_scored": found.bytes,
        "parameters_of_layers": sum(weight.numel() for weight in layers),
        "bytes_of_layers": sum(map(bytes_of, layers)),
    }


def bytes_of(weight: torch.Tensor) -> int:
    """Bytes of a weight with its scales."""
    if hasattr(weight, "__tensor_flatten__"):
        names, _ = weight.__tensor_flatten__()  # type: ignore[attr-defined]
        return sum(bytes_of(getattr(weight, name)) for name in names)
    return weight.numel() * weight.element_size()


def render(header: dict, runs: Sequence[dict]) -> str:
    """The results as Markdown."""
    finished = [run for run in runs if counts(run)]
    first = finished[0]["bits_per_byte"] if finished else 0.0
    rows = []
    for run in finished:
        bits, size = run["bits_per_byte"], run["bytes_of_layers"] / run["parameters_of_layers"]
        rows.append([run["format"], f"{bits:.4f}", f"{bits - first:+.4f}", f"{size:.2f}"])
    columns = [
        "held-out bits per byte",
        f"more than {finished[0]['format'] if finished else 'the first'}",
        "bytes per parameter of the layers",
    ]
    return "\n".join([describe_machine(header), "", *table(["format", *columns], rows)])


def main(argv: list[str] | None = None) -> int:
    """Score what is missing."""
    parser = make_parser([QuantisationArguments], "studies.quantisation", __doc__)
    (arguments,) = parser.parse_args_into_dataclasses(argv)
    if unknown := set(arguments.formats) - set(FORMATS):
        parser.error(f"unknown formats {sorted(unknown)}: choose from {list(FORMATS)}")
    if importlib.util.find_spec("torchao") is None:
        parser.error('torchao is missing: pip install "reformer_hf[quantization]"')
    folder = Path(arguments.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    if arguments.smoke:
        arguments.model_name_or_path = str(folder / "random")
        model = random_model(attn_layers=["local", "lsh"], is_decoder=True)
        model.save_pretrained(arguments.model_name_or_path)
    elif arguments.model_name_or_path is None:
        parser.error("--model_name_or_path is missing: name a trained byte-level model")
    files = find_files("text_files", arguments.text_files)
    rows = ByteRows(files, arguments.block_size)
    _, held_out = rows.split(arguments.validation_split_percentage)
    own = arguments.text_files == STANDARD_LIBRARY
    text = DESCRIPTION if own else f"the files {Path(arguments.text_files).name}"
    not_decisive = ("output_dir", "text_files", "formats", "smoke")
    settings = {k: v for k, v in asdict(arguments).items() if k not in not_decisive}
    settings["model_name_or_path"] = Path(str(arguments.model_name_or_path)).name
    header = {
        "machine": machine_record(),
        "summary": (
            f"The model {settings['model_name_or_path']}, {arguments.max_eval_samples} held-out "
            f"rows of {arguments.block_size:,} bytes of {text}."
        ),
        "settings": settings | {"text": text, "torchao": version("torchao")},
    }
    planned = [
        Planned({"format": name}, name, partial(score, arguments, name, held_out))
        for name in arguments.formats
    ]
    return do_runs(parser, arguments.output_dir, header, planned, render)


if __name__ == "__main__":
    sys.exit(main())
