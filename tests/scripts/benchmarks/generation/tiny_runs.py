"""A tiny run of the generation benchmark."""

import torch

from scripts.benchmarks.generation.arguments import GenerationArguments
from scripts.benchmarks.generation.report import Case


def tiny_run(variant="band", **changes):
    """A case and the arguments that it is measured with."""
    values = {"steps": 2, "warmup": 1, "max_seconds_per_run": 60.0, "prefill_tokens": 48}
    values |= {"num_threads": torch.get_num_threads(), **changes}
    return Case(variant, context=64, batch=1), GenerationArguments(**values)
