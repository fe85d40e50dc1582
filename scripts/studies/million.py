"""One training step on a single very long sequence, in little memory.

    python -m scripts.studies.million                                # 1,048,576 tokens, hidden 512
    python -m scripts.studies.million --preset crime-and-punishment  # 524,288 tokens, hidden 256

Makes a model with random weights, reads the bytes of your Python's standard library as one
sequence, and does a whole step: forward, backward, optimizer. Before it, the same settings are
checked on a shorter sequence: against a model that keeps every activation, and, in the `band`
scope, that the loss of the first tokens of a sequence and its gradients are those of these tokens
alone. Writes result.json to the output folder and ends with status 1 if a check fails.
"""

import contextlib
import os
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm
from transformers import set_seed

from reformer_hf import ReformerHFConfig, ReformerHFForCausalLM
from reformer_hf.training.arguments import argument
from reformer_hf.training.memory import peak_memory_bytes
from reformer_hf.training.record import machine_record
from reformer_hf.training.storage import write_json
from scripts.benchmarks.common.arguments import make_parser
from scripts.benchmarks.common.memory import RETURN_LARGE
from scripts.studies.library import read_ids

TOLERANCE = 1e-9  # of the checks, in float64
VOCABULARY = 320  # of the published checkpoint; bytes are a part of it
PRESETS = {
    "million": {
        "num_tokens": 2**20,
        "hidden_size": 512,
        "num_attention_heads": 8,
        "feed_forward_size": 1024,
        "num_hashes": 4,
        "attention_scope": "band",
    },
    # google/reformer-crime-and-punishment, of which transformers' announcement says "half a
    # million tokens in less than 8 GB".
    "crime-and-punishment": {
        "num_tokens": 2**19,
        "hidden_size": 256,
        "num_attention_heads": 2,
        "feed_forward_size": 512,
        "num_hashes": 1,
        "num_buckets": [64, 128],
        "hidden_dropout_prob": 0.05,
        "local_attention_probs_dropout_prob": 0.05,
        "attention_scope": "chunk",
    },
}
SIZES = (
    *("attention_scope", "hidden_size", "num_hidden_layers", "num_attention_heads"),
    *("feed_forward_size", "num_hashes"),
    *("chunk_size_attention_heads", "chunk_size_feed_forward", "chunk_size_lm_head"),
)
"""Arguments that are fields of the configuration."""


@dataclass
class StepArguments:
    """What is trained on what. Sizes that are left out are the preset's."""

    preset: str = argument("million", "Sizes to start from.", choices=list(PRESETS))
    output_dir: str = argument("outputs/train_million", "Output folder.")
    num_tokens: int | None = argument(None, "Tokens of the sequence.")
    num_hidden_layers: int = argument(6, "Layers: local, LSH in turn.")
    hidden_size: int | None = argument(None, "Width of a stream.")
    num_attention_heads: int | None = argument(None, "Heads of 64.")
    feed_forward_size: int | None = argument(None, "Width inside.")
    num_hashes: int | None = argument(None, "Rounds of hashing.")
    attention_scope: str | None = argument(None, "band (the preset million) or chunk (the other).")
    bf16: bool = argument(
        False,
        "Compute sub-layers in bfloat16, the streams in float32. Saves memory; slow on processors "
        "without bfloat16 products.",
    )
    learning_rate: float = argument(1e-3, "Of AdamW.")
    chunk_size_attention_heads: int = argument(1, "Heads that attend at a time; 0 for all.")
    chunk_size_feed_forward: int = argument(4096, "Tokens in the feed-forward sub-layer at a time.")
    chunk_size_lm_head: int = argument(4096, "Tokens whose logits are held at a time.")
    check_tokens: int = argument(4096, "Tokens of the check before the step; 0 for none.")
    seed: int = argument(0, "Of weights and rotations.")
    num_threads: int = argument(0, "Of torch; 0 for its own choice.")

    def __post_init__(self) -> None:
        """Fill in what the preset says."""
        for name, value in PRESETS[self.preset].items():
            if getattr(self, name, value) is None:
                setattr(self, name, value)

    def config(self, **changes: Any) -> ReformerHFConfig:
        """Configure the model; `changes` replace fields."""
        assert self.num_tokens and self.hidden_size
        quarter = self.hidden_size // 4
        fields = {
            **{name: value for name, value in PRESETS[self.preset].items() if name != "num_tokens"},
            **{name: getattr(self, name) for name in SIZES},
            "vocab_size": VOCABULARY,
            "is_decoder": True,
            "attention_head_size": 64,
            "hash_length": self.num_tokens,
            "max_position_embeddings": self.num_tokens,
            "axial_pos_embds_dim": [quarter, self.hidden_size - quarter],
            "activation_budget": 0,
        }
        return ReformerHFConfig(**{**fields, **changes})


@contextlib.contextmanager
def progress(model: ReformerHFForCausalLM, tokens: int) -> Iterator[None]:
    """A bar that moves with each run of a sub-layer, in forward and again in backward."""
    layers: list[Any] = list(model.reformer.encoder.layers)
    runs, ids = 0, torch.empty(1, tokens, 1)
    for layer in layers:
        piece = layer.feed_forward.piece_length(ids) or tokens
        runs += len(layer.attention.head_groups()) + -(-tokens // piece)
    with tqdm(total=2 * runs, unit="sub-layer", smoothing=0) as bar:
        parts = [part for layer in layers for part in (layer.attention, layer.feed_forward)]
        handles = [part.register_forward_hook(lambda *_: bar.update() and None) for part in parts]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


def gradients(
    model: ReformerHFForCausalLM, ids: Tensor, labels: Tensor
) -> tuple[float, dict[str, Tensor]]:
    """Loss and gradients."""
    model.zero_grad()
    loss = model(ids, labels=labels).loss
    loss.backward()
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return loss.item(), found


def difference(left: tuple, right: tuple) -> dict:
    """How far two results of `gradients` are apart, relative to the second."""
    mine, theirs = (torch.cat([g.flatten() for g in each[1].values()]) for each in (left, right))
    gradient = float((mine - theirs).abs().max() / theirs.abs().max())
    return {"loss": abs(left[0] - right[0]) / abs(right[0]), "gradient": gradient}


def check(arguments: StepArguments, ids: Tensor) -> dict:
    """Compare a short sequence with plain computations of the same, without dropout.

    In float64, because in float32 the two could round a hash to different buckets.
    """
    changes = {
        "redraw_rotations": False,
        "hidden_dropout_prob": 0.0,
        "local_attention_probs_dropout_prob": 0.0,
    }
    plain_changes = {
        "reversible": False,
        "chunk_size_attention_heads": 0,
        "chunk_size_feed_forward": 0,
        "attn_implementation": "eager",
    }
    set_seed(arguments.seed)
    lean = ReformerHFForCausalLM(arguments.config(**changes)).double().train()
    plain = ReformerHFForCausalLM(arguments.config(**changes, **plain_changes)).double().train()
    plain.load_state_dict(lean.state_dict())
    whole = gradients(lean, ids, ids)
    results = {"against plain autograd": difference(whole, gradients(plain, ids, ids))}
    if arguments.attention_scope == "band":
        half = ids[:, : ids.shape[1] // 2]
        first_labels = ids.clone()
        first_labels[:, half.shape[1] :] = -100
        within, alone = gradients(lean, ids, first_labels), gradients(lean, half, half)
        results["first half of the sequence against it alone"] = difference(within, alone)
    return results


def step(arguments: StepArguments, ids: Tensor) -> dict:
    """Do the step; returns what was measured."""
    set_seed(arguments.seed)
    model = ReformerHFForCausalLM(arguments.config()).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=arguments.learning_rate)
    seconds, start = {}, time.perf_counter()
    with progress(model, ids.shape[1]):
        with torch.autocast("cpu", torch.bfloat16, enabled=arguments.bf16):
            loss = model(ids, labels=ids).loss
        seconds["forward"] = time.perf_counter() - start
        forward_peak = peak_memory_bytes()
        loss.backward()
    seconds["backward"] = time.perf_counter() - start - seconds["forward"]
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), torch.inf, error_if_nonfinite=True)
    optimizer.step()
    seconds["step"] = time.perf_counter() - start
    return {
        "loss": loss.item(),
        "gradient_norm": norm.item(),
        "parameters": model.num_parameters(),
        "seconds": {name: round(value, 1) for name, value in seconds.items()},
        "peak_memory_gib_after_forward": gibibytes(forward_peak),
        "peak_memory_gib": gibibytes(peak_memory_bytes()),
    }


def gibibytes(size: int | None) -> float | None:
    """Bytes in GiB; None where they are unknown."""
    return None if size is None else round(size / 2**30, 2)


def return_large_pages() -> None:
    """Start again with an allocator that gives large tensors' memory back at once.

    By default glibc keeps what was freed below the last live allocation, which here is as much
    again as what is in use.
    """
    if sys.platform == "linux" and not RETURN_LARGE.keys() <= os.environ.keys():
        command = [sys.executable, "-m", "scripts.studies.million", *sys.argv[1:]]
        os.execve(sys.executable, command, {**os.environ, **RETURN_LARGE})


def main(argv: list[str] | None = None) -> int:
    """Check, do the step, and write the result."""
    parser = make_parser([StepArguments], "studies.million", __doc__)
    (arguments,) = parser.parse_args_into_dataclasses(argv)
    if arguments.num_threads:
        torch.set_num_threads(arguments.num_threads)
    ids = read_ids(arguments.num_tokens)
    print(f"One step on {ids.shape[1]:,} tokens: {arguments.preset}", flush=True)
    checks = {}
    if arguments.check_tokens:
        # In a process of its own: its memory is not the step's.
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            checks = pool.submit(check, arguments, ids[:, : arguments.check_tokens]).result()
        for name, result in checks.items():
            print(f"Check, {name}: relative differences {result}", flush=True)
    result = {
        "machine": machine_record(),
        "allocator": {name: os.environ.get(name) for name in RETURN_LARGE},
        "arguments": asdict(arguments),
        "checks": checks,
        **step(arguments, ids),
    }
    folder = Path(arguments.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "result.json", result)
    print({name: result[name] for name in ("loss", "seconds", "peak_memory_gib")})
    passed = all(value <= TOLERANCE for one in checks.values() for value in one.values())
    return int(not passed)  # also where a value is not a number


if __name__ == "__main__":
    return_large_pages()
    sys.exit(main())
