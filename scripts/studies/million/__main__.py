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
from dataclasses import asdict
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm
from transformers import set_seed

from reformer_hf import ReformerHFForCausalLM
from reformer_hf.training.memory import peak_memory_bytes
from reformer_hf.training.record import machine_record
from reformer_hf.training.storage import write_json
from scripts.benchmarks.common.arguments import make_parser
from scripts.benchmarks.common.memory import RETURN_LARGE
from scripts.studies.library import read_ids
from scripts.studies.million.arguments import StepArguments
from scripts.studies.million.check import check

TOLERANCE = 1e-9  # of the checks, in float64


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
