"""Training steps that are timed with nothing but the package, so that any commit of it can be.

`scripts.benchmarks.training.earlier` runs this file in interpreters of its own.
"""

import resource
import statistics
import time

import torch

import reformer_hf


def measure(request: dict) -> dict:
    """Build a model of random weights and time steps of forward and backward.

    Args:
        request: `fields` of the configuration, `length` in tokens, `dtype`, `steps`, `warmup` and
            `num_threads`.

    Returns:
        Median seconds of a step, those of the processor, and the peak of resident memory in bytes.
    """
    torch.set_num_threads(request["num_threads"])
    torch.manual_seed(0)
    config = reformer_hf.ReformerHFConfig(**request["fields"])
    model = reformer_hf.ReformerHFForCausalLM(config).train()
    ids = torch.randint(1, config.vocab_size, (1, request["length"]))
    steps: list[tuple[float, float]] = []
    for _ in range(request["warmup"] + request["steps"]):
        wall, busy = time.perf_counter(), time.process_time()
        with torch.autocast("cpu", torch.bfloat16, enabled=request["dtype"] == "bfloat16"):
            loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        steps.append((time.perf_counter() - wall, time.process_time() - busy))
        model.zero_grad(set_to_none=True)
    if not loss.isfinite():
        raise RuntimeError(f"the loss is {loss.item()}")
    counted = list(zip(*steps[request["warmup"] :], strict=True))
    return {
        "seconds_per_step": round(statistics.median(counted[0]), 6),
        "cpu_seconds_per_step": round(statistics.median(counted[1]), 6),
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }
