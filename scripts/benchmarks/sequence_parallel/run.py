"""One run of the benchmark of rows over several processes: steps on a row of random tokens."""

import json
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import spawn
from transformers import set_seed

from reformer_hf import ReformerHFConfig, ReformerHFForCausalLM, SequenceParallel
from reformer_hf.ops.hashing import total_buckets
from scripts.benchmarks.common.cores import watched_cores
from scripts.benchmarks.common.memory import PeakMemory


class Case(NamedTuple):
    """What is measured.

    Attributes:
        processes: that hold a row together.
        length: tokens of the row.
    """

    processes: int
    length: int


def build_model(shape: dict[str, Any]) -> ReformerHFForCausalLM:
    """A model of local and LSH layers in turn, in training, that keeps no activations."""
    layers = [("local", "lsh")[index % 2] for index in range(shape["num_hidden_layers"])]
    config = ReformerHFConfig(
        attn_layers=layers,
        hidden_size=shape["hidden_size"],
        num_attention_heads=shape["num_attention_heads"],
        feed_forward_size=shape["feed_forward_size"],
        num_hashes=shape["num_hashes"],
        hash_length=shape["hash_length"],
        position_embedding_type="rotary",
        activation_budget=0,
        chunk_size_lm_head=1024,
        chunk_size_feed_forward=1024,
    )
    return ReformerHFForCausalLM(config).train()


def tail_bytes(shape: dict[str, Any]) -> int:
    """Bytes of the tails that an LSH layer hands on, from the model's configuration."""
    config = build_model(shape | {"num_hidden_layers": 2}).config
    window = config.attention_window("lsh", True).before
    assert config.num_buckets is not None  # which the configuration derives
    slots = config.num_attention_heads * config.num_hashes * total_buckets(config.num_buckets)
    return slots * (2 * window * config.attention_head_size * 4 + 4)


def measure(index: int, folder: Path, case: Case, steps: int, shape: dict[str, Any]) -> dict:
    """Warm up by a step on this process's part; then seconds, bytes and memory of some more."""
    store = f"file://{folder / 'store'}"
    dist.init_process_group("gloo", store, rank=index, world_size=case.processes)
    torch.set_num_threads(1)
    set_seed(0)
    model, parallel, memory = build_model(shape), SequenceParallel(), PeakMemory()
    if case.processes > 1:  # one process attends to whole rows, as ever
        model.set_sequence_parallel(parallel)
    ids = torch.randint(2, model.config.vocab_size, (1, case.length))
    part = parallel.shard(ids)
    seconds, received, found = [], 0, {}
    for step in range(steps + 1):
        dist.barrier()
        start, before = time.perf_counter(), parallel.received_bytes
        with memory.phase("warm-up" if step == 0 else "step"), watched_cores(found, "waiting"):
            model(input_ids=part, labels=part).loss.backward()
        dist.barrier()
        seconds.append(time.perf_counter() - start)
        received = parallel.received_bytes - before
        model.zero_grad()
    dist.destroy_process_group()
    return {
        "seconds_fastest_step": round(min(seconds[1:]), 3),
        "received_bytes": received,
        **memory.entries("step"),
        **found,
    }


def _write(index: int, folder: str, *arguments: Any) -> None:
    """Measure in a process, and write what was found."""
    found = measure(index, Path(folder), *arguments)
    (Path(folder) / str(index)).write_text(json.dumps(found), encoding="utf-8")


def answer(request: dict) -> dict:
    """Do the run of a request in as many processes; of each number the largest counts."""
    case = Case(**request["case"])
    with tempfile.TemporaryDirectory() as folder:
        arguments = (folder, case, request["steps"], request["shape"])
        spawn(_write, arguments, case.processes)
        parts = [json.loads((Path(folder) / str(i)).read_text()) for i in range(case.processes)]
    return {name: max(part[name] or 0 for part in parts) for name in parts[0]}
