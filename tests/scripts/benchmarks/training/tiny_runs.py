"""A tiny run of the training benchmark, and made-up records of runs."""

import torch

from scripts.benchmarks.training.arguments import TrainingBenchmarkArguments
from scripts.benchmarks.training.report import TrainingCase
from tests.scripts.benchmarks.tiny import SHAPE


def tiny_training_run(variant="band", mode="training", length=64, **changes):
    """A case and the arguments that it is measured with."""
    values = {"tokens_per_batch": 2 * length, "steps": 2, "warmup": 1, "max_seconds_per_run": 60.0}
    values |= {"num_threads": torch.get_num_threads(), **changes}
    case = TrainingCase(variant, length, "float32", mode, SHAPE.num_hidden_layers)
    return case, TrainingBenchmarkArguments(**values)


def recorded(variant, length, seconds, repeat=0, megabytes=600, **changes):
    memory = {"imported": 400e6, "built": 450e6, "forward": 500e6, "backward": megabytes * 1e6}
    return {
        "variant": variant,
        "length": length,
        "dtype": "float32",
        "mode": "training",
        "layers": 6,
        "repeat": repeat,
        "seconds_per_step": seconds,
        "tokens_per_second": 4096 / seconds,
        "parameter_bytes": 50e6,
        "memory": memory | {"whole": 700e6},
        "waiting": 0.0,
        "disturbed": False,
        **changes,
    }


HEADER = {
    "summary": "Tiny.",
    "settings": {"shape": {"num_hidden_layers": 6}},
    "machine": {
        "date": "2026-01-02T03:04:05",
        "processor": "abacus",
        "torch_threads": 1,
        "versions": {"torch": "2", "transformers": "5"},
    },
}
