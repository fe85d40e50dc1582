"""A folder as a training run leaves it."""

import json
from pathlib import Path

from reformer_hf import ReformerHFByteTokenizer
from tests.models.tiny import tiny_lm

PUBLISHED = {
    "README.md",
    "config.json",
    "generation_config.json",
    "loss_curve.csv",
    "loss_curve.png",
    "metrics.json",
    "model.safetensors",
    "runs/events.out",
    "tokenizer.json",
    "tokenizer_config.json",
}
"""What belongs on the Hub."""

CARD = """---
license: apache-2.0
library_name: transformers
pipeline_tag: text-generation
tags:
- reformer
---

# A model
"""


def write_model_folder(folder: Path) -> Path:
    """Write a tiny model with all that may lie beside it."""
    tiny_lm(vocab_size=258).save_pretrained(folder)
    ReformerHFByteTokenizer().save_pretrained(folder)
    files = {
        "README.md": CARD,
        "metrics.json": json.dumps({"bits_per_byte": 3.0}),
        "loss_curve.csv": "step,loss\n1,5.5\n",
        "loss_curve.png": "\x89PNG",
        "runs/events.out": "tensorboard",
        "optimizer.pt": "state",
        "scheduler.pt": "state",
        "rng_state.pth": "state",
        "trainer_state.json": "{}",
        "_run_settings.json": "{}",
        "run_settings.json": "{}",
        "training_args.bin": "arguments",
        "checkpoint-5/model.safetensors": "weights",
        "checkpoint-5/optimizer.pt": "state",
        ".cache/x": "hidden",
        "_images/train.bin": "pixels",
        "__pycache__/x.pyc": "code",
        ".metrics.json.incomplete": "half",
    }
    for name, text in files.items():
        (folder / name).parent.mkdir(exist_ok=True, parents=True)
        (folder / name).write_text(text)
    return folder
