"""Training steps that are timed with nothing but the package, so that any commit of it can be.

`scripts.benchmarks.training.earlier` runs this file in interpreters of its own.
"""

import resource
import time
from collections.abc import Callable

import torch

import reformer_hf


def make_step(request: dict) -> Callable[[], dict]:
    """Build a model of random weights.

    Args:
        request: `fields` of the configuration, `length` in tokens, `dtype` and `num_threads`.

    Returns:
        What does a step, forward and backward, and returns its `seconds`, those of the processor,
        and the peak of resident memory so far in bytes.
    """
    torch.set_num_threads(request["num_threads"])
    torch.manual_seed(0)
    config = reformer_hf.ReformerHFConfig(**request["fields"])
    model = reformer_hf.ReformerHFForCausalLM(config).train()
    ids = torch.randint(1, config.vocab_size, (1, request["length"]))

    def step() -> dict:
        wall, busy = time.perf_counter(), time.process_time()
        with torch.autocast("cpu", torch.bfloat16, enabled=request["dtype"] == "bfloat16"):
            loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        wall, busy = time.perf_counter() - wall, time.process_time() - busy
        model.zero_grad(set_to_none=True)
        if not loss.isfinite():
            raise RuntimeError(f"the loss is {loss.item()}")
        return {
            "seconds": round(wall, 6),
            "cpu_seconds": round(busy, 6),
            "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        }

    return step
