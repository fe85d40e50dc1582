"""Compare the scopes of attention on real text: `band`, `chunk` and full attention.

Trains one small model per variant and seed on the same windows in the same order, and scores the
same held-out bytes. Writes results.json and results.md to the output folder, after every run, and
goes on where it was interrupted. The keys that a query attends to are counted, not computed.
"""

import json
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import mean

import torch
from torch import Tensor
from transformers import HfArgumentParser, Trainer, TrainingArguments, set_seed

from reformer_hf import ReformerHFConfig, ReformerHFForCausalLM
from reformer_hf.training.arguments import CorpusArguments
from reformer_hf.training.causal_lm import axial_shape
from reformer_hf.training.corpus import open_corpus
from reformer_hf.training.data import TokenWindows, describe_corpus, load_splits, spread
from reformer_hf.training.evaluation import score_held_out
from reformer_hf.training.machine import machine_record
from reformer_hf.training.storage import write_json

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
class CompareArguments:
    """What is compared, and how long each run trains."""

    output_dir: str = field(default="outputs/compare_scopes", metadata={"help": "Output folder."})
    variants: list[str] = field(
        default_factory=lambda: list(VARIANTS), metadata={"help": "Variants to train."}
    )
    seeds: int = field(default=2, metadata={"help": "Seeds per variant."})
    max_steps: int = field(default=500, metadata={"help": "Optimiser steps per run."})
    per_device_train_batch_size: int = field(default=2, metadata={"help": "Windows in a step."})
    block_size: int = field(default=2048, metadata={"help": "Context in bytes."})
    hidden_size: int = field(default=128, metadata={"help": "Width of a stream."})
    num_hidden_layers: int = field(default=2, metadata={"help": "Layers."})
    num_hashes: int = field(default=2, metadata={"help": "Rounds of hashing."})
    learning_rate: float = field(default=1e-3, metadata={"help": "Highest learning rate."})
    max_eval_samples: int = field(default=64, metadata={"help": "Held-out windows."})


def build_config(arguments: CompareArguments, variant: str) -> ReformerHFConfig:
    """The configuration of a variant; all have the same number of parameters."""
    fields = {"attn_layers": LOCAL_AND_LSH, "attention_scope": "band", **VARIANTS[variant]}
    fields["attn_layers"] = fields["attn_layers"] * (arguments.num_hidden_layers // 2)
    # A band of 96 keys shows about as many as a chunk of 64 and the one before it.
    chunk_length = fields.pop("attn_chunk_length", 96)
    shape = list(axial_shape(arguments.block_size))
    half = arguments.hidden_size // 2
    return ReformerHFConfig(
        vocab_size=258,
        eos_token_id=1,
        is_decoder=True,
        hidden_size=arguments.hidden_size,
        num_attention_heads=2,
        attention_head_size=arguments.hidden_size // 2,
        feed_forward_size=2 * arguments.hidden_size,
        local_attn_chunk_length=chunk_length,
        lsh_attn_chunk_length=chunk_length,
        num_hashes=arguments.num_hashes,
        axial_pos_shape=shape,
        axial_pos_embds_dim=[half, arguments.hidden_size - half],
        axial_norm_std=0.02,  # at 1, the default, positions drown the words for long
        hidden_dropout_prob=0.0,
        local_attention_probs_dropout_prob=0.0,
        lsh_attention_probs_dropout_prob=0.0,
        chunk_size_lm_head=1024,
        **fields,
    )


@torch.no_grad()
def mean_visible_keys(model: ReformerHFForCausalLM, ids: Tensor) -> dict[str, float]:
    """Distinct keys that a query attends to, the mean over queries, heads and layers of a kind."""
    attentions = model.eval()(ids[None], output_attentions=True).attentions
    counts: dict[str, list[float]] = {}
    for kind, attention_map in zip(model.config.attn_layers, attentions, strict=True):
        seen = (attention_map.to_dense() > 0).sum(dim=-1).double().mean()
        counts.setdefault(kind, []).append(float(seen))
    return {kind: round(mean(values), 1) for kind, values in counts.items()}


def train_one(
    arguments: CompareArguments,
    variant: str,
    seed: int,
    train_windows: TokenWindows,
    held_out: TokenWindows,
) -> dict:
    """Train and score one variant with one seed."""
    set_seed(seed)
    model = ReformerHFForCausalLM(build_config(arguments, variant))
    keys_at_start = mean_visible_keys(model, held_out[0]["input_ids"])
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
        train_dataset=train_windows,
    )
    start = time.perf_counter()
    trainer.train()
    seconds = time.perf_counter() - start
    score = score_held_out(model, spread(held_out, arguments.max_eval_samples))
    return {
        "variant": variant,
        "seed": seed,
        "bits_per_byte": score.bits_per_byte,
        "bytes_scored": score.bytes_scored,
        "visible_keys_at_start": keys_at_start,
        "visible_keys_at_end": mean_visible_keys(model, held_out[0]["input_ids"]),
        "train_seconds": round(seconds, 1),
        "num_buckets": model.config.num_buckets,
    }


def write_results(folder: Path, header: dict, runs: list[dict]) -> None:
    """Write all runs so far, as JSON and as a table."""
    write_json(folder / "results.json", {**header, "runs": runs})
    lines = [
        f"{header['machine']['date'][:10]}, {header['machine']['processor']}, "
        f"{header['machine']['torch_threads']} threads. {header['summary']}",
        "",
        "| variant | held-out bits per byte, by seed | mean | distinct keys per query at the end |",
        "|---|---|---|---|",
    ]
    for variant in dict.fromkeys(run["variant"] for run in runs):
        mine = [run for run in runs if run["variant"] == variant]
        scores = [run["bits_per_byte"] for run in mine]
        keys = {
            kind: mean(run["visible_keys_at_end"][kind] for run in mine)
            for kind in mine[0]["visible_keys_at_end"]
        }
        seen = ", ".join(f"{kind} {value:.0f}" for kind, value in keys.items())
        listed = ", ".join(f"{score:.3f}" for score in scores)
        lines.append(f"| {variant} | {listed} | {mean(scores):.3f} | {seen} |")
    (folder / "results.md").write_text("\n".join(lines) + "\n")


def main() -> int:
    """Run what is missing."""
    kinds = [CorpusArguments, CompareArguments]
    parser = HfArgumentParser(kinds, description=__doc__)  # type: ignore[arg-type]
    corpus_arguments, arguments = parser.parse_args_into_dataclasses()
    unknown = set(arguments.variants) - set(VARIANTS)
    if unknown:
        parser.error(f"unknown variants {sorted(unknown)}: choose from {list(VARIANTS)}")
    folder = Path(arguments.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    corpus = open_corpus(corpus_arguments, exclude=folder)
    record = describe_corpus(corpus, corpus_arguments.validation_split_percentage)
    windows = load_splits(corpus, record, folder / "corpus", arguments.block_size)
    settings = {"corpus": asdict(record), **asdict(arguments)}
    for name in ("variants", "seeds", "output_dir"):
        del settings[name]
    header = {
        "machine": machine_record(),
        "summary": (
            f"{arguments.max_steps} steps of {arguments.per_device_train_batch_size} windows of "
            f"{arguments.block_size:,} bytes, {arguments.num_hidden_layers} layers, hidden "
            f"{arguments.hidden_size}, {arguments.num_hashes} hashes, {record.description}."
        ),
        "settings": settings,
    }
    path = folder / "results.json"
    runs = []
    if path.exists():
        earlier = json.loads(path.read_text())
        if earlier["settings"] != settings:
            parser.error(f"{path} has runs with other settings: choose another output_dir")
        runs = earlier["runs"]
        print(f"Going on after {len(runs)} finished runs")
    done = {(run["variant"], run["seed"]) for run in runs}
    for seed in range(arguments.seeds):
        for variant in arguments.variants:
            if (variant, seed) not in done:
                runs.append(train_one(arguments, variant, seed, *windows))
                write_results(folder, header, runs)
                print(json.dumps(runs[-1]))
    print((folder / "results.md").read_text())
    return 0


if __name__ == "__main__":
    sys.exit(main())
