"""Compare the scopes of attention on real text: `band`, `chunk` and full attention.

    python -m scripts.studies.scopes

Trains one small model per variant and seed on the same rows in the same order, and scores the same
held-out bytes. Writes results.json and results.md to the output folder, after every run, and goes
on where it was interrupted. The keys that a query attends to are counted, not computed.
"""

import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import mean

import torch
from accelerate import Accelerator
from torch import Tensor
from transformers import Trainer, TrainingArguments, set_seed

from reformer_hf import ReformerHFByteTokenizer, ReformerHFConfig, ReformerHFForCausalLM
from reformer_hf.training.arguments import argument
from reformer_hf.training.data.bytes import ByteRows
from reformer_hf.training.evaluation import score_batches
from reformer_hf.training.record import machine_record
from scripts.benchmarks.common.arguments import make_parser
from scripts.benchmarks.common.runs import Planned, do_runs
from scripts.benchmarks.common.tables import counts, describe_machine, table
from scripts.studies.library import DESCRIPTION, join_standard_library

LOCAL_AND_LSH = ["local", "lsh"]
VARIANTS = {
    "full": {"attn_layers": ["full", "full_shared_qk"]},
    "chunk": {"attention_scope": "chunk", "attn_chunk_length": 64, "num_buckets": 64},
    "band, L/W buckets": {"num_buckets": 22},
    "band, L/3W buckets": {"num_buckets": 8},
    "band, L/10W buckets": {"num_buckets": 2},
    "band, L/3W buckets, deduplicated": {"num_buckets": 8, "deduplicate_rounds": True},
}


@dataclass
class ScopeArguments:
    """What is compared, and how long each run trains."""

    output_dir: str = argument("outputs/compare_scopes", "Output folder.")
    text_file: str | None = argument(None, "Text; this Python's standard library by default.")
    validation_split_percentage: int = argument(5, "Share of the rows, the last, to score.")
    variants: list[str] = argument(list(VARIANTS), "Variants to train.")
    seeds: int = argument(2, "Seeds per variant.")
    max_steps: int = argument(500, "Optimiser steps per run.")
    per_device_train_batch_size: int = argument(2, "Rows in a step.")
    block_size: int = argument(2048, "Context in bytes.")
    hidden_size: int = argument(128, "Width of a stream.")
    num_hidden_layers: int = argument(2, "Layers.")
    num_hashes: int = argument(2, "Rounds of hashing.")
    learning_rate: float = argument(1e-3, "Highest learning rate.")
    max_eval_samples: int = argument(64, "Held-out rows.")


def build_config(arguments: ScopeArguments, variant: str) -> ReformerHFConfig:
    """The configuration of a variant; all have the same number of parameters."""
    fields = {"attn_layers": LOCAL_AND_LSH, "attention_scope": "band", **VARIANTS[variant]}
    fields["attn_layers"] = fields["attn_layers"] * (arguments.num_hidden_layers // 2)
    # A band of 96 keys shows about as many as a chunk of 64 and the one before it.
    chunk_length = fields.pop("attn_chunk_length", 96)
    return ReformerHFConfig(
        is_decoder=True,
        hidden_size=arguments.hidden_size,
        num_attention_heads=2,
        feed_forward_size=2 * arguments.hidden_size,
        local_attn_chunk_length=chunk_length,
        lsh_attn_chunk_length=chunk_length,
        num_hashes=arguments.num_hashes,
        max_position_embeddings=arguments.block_size,
        chunk_size_lm_head=1024,
        **fields,
    )


@torch.no_grad()
def mean_visible_keys(model: ReformerHFForCausalLM, ids: Tensor) -> dict[str, float]:
    """Distinct keys that a query attends to, the mean over queries, heads and layers of a kind."""
    attentions = model.eval()(ids[None], output_attentions="sparse").attentions
    found: dict[str, list[float]] = {}
    for kind, attention_map in zip(model.config.attn_layers, attentions, strict=True):
        seen = (attention_map.to_dense() > 0).sum(dim=-1).double().mean()
        found.setdefault(kind, []).append(float(seen))
    return {kind: round(mean(values), 1) for kind, values in found.items()}


def train_one(
    arguments: ScopeArguments, variant: str, seed: int, train_rows: ByteRows, held_out: ByteRows
) -> dict:
    """Train and score one variant with one seed."""
    set_seed(seed)
    model = ReformerHFForCausalLM(build_config(arguments, variant))
    first_ids = held_out[0]["input_ids"]
    keys_at_start = mean_visible_keys(model, first_ids)
    trainer = Trainer(
        model,
        TrainingArguments(
            output_dir=str(Path(arguments.output_dir) / "trainer"),
            max_steps=arguments.max_steps,
            per_device_train_batch_size=arguments.per_device_train_batch_size,
            learning_rate=arguments.learning_rate,
            lr_scheduler_type="cosine",
            warmup_steps=max(1, arguments.max_steps // 20),
            seed=seed,
            logging_steps=20,
            save_strategy="no",
            report_to="none",
            dataloader_pin_memory=False,
        ),
        train_dataset=train_rows,
        data_collator=lambda rows: _batch([row["input_ids"] for row in rows]),
    )
    start = time.perf_counter()
    trainer.train()
    seconds = time.perf_counter() - start
    wanted = min(len(held_out), arguments.max_eval_samples)
    chosen = (held_out[i * len(held_out) // wanted] for i in range(wanted))  # spread out
    batches = (_batch([row["input_ids"]]) for row in chosen)
    score = score_batches(model, batches, ReformerHFByteTokenizer(), Accelerator())
    return {
        "bits_per_byte": score.bits_per_byte,
        "bytes_scored": score.bytes,
        "visible_keys_at_start": keys_at_start,
        "visible_keys_at_end": mean_visible_keys(model, first_ids),
        "train_seconds": round(seconds, 1),
        "num_buckets": model.config.num_buckets,
    }


def _batch(rows: Sequence[Tensor]) -> dict[str, Tensor]:
    ids = torch.stack(list(rows))
    return {"input_ids": ids, "labels": ids}


def render(header: dict, runs: Sequence[dict]) -> str:
    """The results as Markdown."""
    rows, finished = [], [run for run in runs if counts(run)]
    for variant in dict.fromkeys(run["variant"] for run in finished):
        mine = [run for run in finished if run["variant"] == variant]
        scores = [run["bits_per_byte"] for run in mine]
        keys = {
            kind: mean(run["visible_keys_at_end"][kind] for run in mine)
            for kind in mine[0]["visible_keys_at_end"]
        }
        seen = ", ".join(f"{kind} {value:.0f}" for kind, value in keys.items())
        listed = ", ".join(f"{score:.3f}" for score in scores)
        rows.append([variant, listed, f"{mean(scores):.3f}", seen])
    columns = ["held-out bits per byte, by seed", "mean", "distinct keys per query at the end"]
    return "\n".join([describe_machine(header), "", *table(["variant", *columns], rows)])


def main(argv: list[str] | None = None) -> int:
    """Run what is missing."""
    parser = make_parser([ScopeArguments], "studies.scopes", __doc__)
    (arguments,) = parser.parse_args_into_dataclasses(argv)
    if unknown := set(arguments.variants) - set(VARIANTS):
        parser.error(f"unknown variants {sorted(unknown)}: choose from {list(VARIANTS)}")
    folder = Path(arguments.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    path = Path(arguments.text_file or join_standard_library(folder / "text"))
    text = DESCRIPTION if arguments.text_file is None else f"the file {path.name}"
    rows = ByteRows([path], arguments.block_size).split(arguments.validation_split_percentage)
    not_decisive = ("output_dir", "text_file", "variants", "seeds")
    settings = {k: v for k, v in asdict(arguments).items() if k not in not_decisive}
    header = {
        "machine": machine_record(),
        "summary": (
            f"{arguments.max_steps} steps of {arguments.per_device_train_batch_size} rows of "
            f"{arguments.block_size:,} bytes, {arguments.num_hidden_layers} layers, hidden "
            f"{arguments.hidden_size}, {arguments.num_hashes} hashes, {text}."
        ),
        "settings": settings | {"corpus": {"description": text, "bytes": path.stat().st_size}},
    }
    planned = []
    for seed in range(arguments.seeds):
        for variant in arguments.variants:
            attempt = partial(train_one, arguments, variant, seed, *rows)
            identity = {"variant": variant, "seed": seed}
            planned.append(Planned(identity, f"{variant}, seed {seed}", attempt))
    return do_runs(parser, arguments.output_dir, header, planned, render)


if __name__ == "__main__":
    sys.exit(main())
