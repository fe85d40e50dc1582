"""A tiny run of the training benchmark, and made-up records of runs."""

import torch

from scripts.benchmarks.training.run import TrainingRun


def tiny_training_run(**changes):
    values = {
        "variant": "band",
        "length": 64,
        "rows": 2,
        "dtype": "float32",
        "mode": "training",
        "steps": 2,
        "warmup": 1,
        "max_seconds": 60.0,
        "num_threads": torch.get_num_threads(),
    }
    return TrainingRun(**values | changes)


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
