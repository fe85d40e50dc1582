"""One run of the benchmark of sparse layers."""

import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from unittest.mock import patch

import torch
from torch import nn
from transformers import set_seed

from reformer_hf import ReformerHFForCausalLM
from reformer_hf.models.quantised import read_int8_directly
from reformer_hf.training.memory import peak_memory_bytes
from scripts.benchmarks.common.cores import watched_cores
from scripts.benchmarks.sparse.arguments import SHAPES, Case, SparseArguments
from scripts.benchmarks.sparse.weights import PARTS, bytes_per_token

_READ_BYTES = 2**28
_READS = 5


def build(case: Case) -> ReformerHFForCausalLM:
    """The model of a case, with random weights."""
    torch.set_num_threads(case.threads)
    set_seed(0)
    dtype = torch.float32 if case.dtype == "float32" else torch.bfloat16
    config = SHAPES[case.shape].config(case.variant)
    model = ReformerHFForCausalLM._from_config(config, dtype=dtype).eval()
    if case.dtype == "int8":
        quantise(model)
    return model


def quantise(model: nn.Module) -> None:
    """Store the weights of dense layers as int8, with a scale for each of their outputs.

    Raises:
        ImportError: without torchao.
    """
    from torchao.quantization import Int8WeightOnlyConfig, quantize_

    quantize_(model, Int8WeightOnlyConfig())
    read_int8_directly(model)


@contextmanager
def timed_parts(model: ReformerHFForCausalLM, clock: Callable[[], float]) -> Iterator[dict]:
    """Add up the seconds in the parts of a model, by part."""
    seconds: dict[str, float] = defaultdict(float)

    def timed(forward: Callable, part: str) -> Callable:
        def run(*args, **kwargs):
            start = clock()
            result = forward(*args, **kwargs)
            seconds[part] += clock() - start
            return result

        return run

    modules: list[tuple[str, nn.Module]] = [("head", model.lm_head)]
    for layer in model.reformer.encoder.layers:
        modules += [(name, getattr(layer, name)) for name in ("attention", "feed_forward")]
    with ExitStack() as patches:
        for part, module in modules:
            patches.enter_context(patch.object(module, "forward", timed(module.forward, part)))
        yield seconds


def bandwidth(clock: Callable[[], float]) -> float:
    """Bytes per second that a product of a float32 matrix and a vector reads, at its best."""
    matrix, vector = torch.ones(_READ_BYTES // 4 // 4096, 4096), torch.ones(4096)
    seconds = []
    for _ in range(_READS):
        start = clock()
        torch.mv(matrix, vector)
        seconds.append(clock() - start)
    return _READ_BYTES / min(seconds)


@torch.no_grad()
def measure(case: Case, arguments: SparseArguments, clock: Callable[[], float]) -> dict:
    """Decode one row, and report times and bytes."""
    model = build(case)
    token = torch.ones(1, 1, dtype=torch.int64)
    prompt = torch.ones(1, arguments.context, dtype=torch.int64)
    cache = model(prompt, use_cache=True, logits_to_keep=1).past_key_values
    milliseconds, parts, watched = [], defaultdict(list), {}
    with watched_cores(watched, "waiting"), timed_parts(model, clock) as seconds:
        for step in range(arguments.warmup + arguments.steps):
            seconds.clear()
            start = clock()
            logits = model(token, past_key_values=cache, use_cache=True, logits_to_keep=1).logits
            end = clock()
            token = logits[:, -1].argmax(dim=-1, keepdim=True)
            if step >= arguments.warmup:
                milliseconds.append(1000 * (end - start))
                for part in PARTS:
                    parts[part].append(1000 * seconds[part])
    return {
        "ms_per_step": round(statistics.median(milliseconds), 4),
        "ms_fastest_step": round(min(milliseconds), 4),
        "ms_of_parts": {part: round(statistics.median(parts[part]), 4) for part in PARTS},
        "layers": SHAPES[case.shape].layers,
        "parameters": model.num_parameters(),
        "bytes_of_parts": bytes_per_token(model),
        "bytes_per_second": round(bandwidth(clock)),
        "peak_memory_bytes": peak_memory_bytes(),
        **watched,
    }


def answer(request: dict) -> dict:
    """Do the run of a request; see `run_process`."""
    arguments = SparseArguments(**request["arguments"])
    return measure(Case(**request["case"]), arguments, time.perf_counter)
