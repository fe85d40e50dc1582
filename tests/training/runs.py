"""Tiny runs of the training scripts: a text, a model, and what to compare."""

import json
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

TINY = (
    "attn_layers=[local,lsh],hidden_size=16,num_attention_heads=2,attention_head_size=8,"
    "feed_forward_size=24,local_attn_chunk_length=8,lsh_attn_chunk_length=8,num_hashes=2,"
    "activation_budget=0,initializer_range=0.1,axial_norm_std=0.02,"
    "hidden_dropout_prob={dropout},local_attention_probs_dropout_prob={dropout}"
)


def tiny_overrides(dropout: float = 0.0, **fields: Any) -> str:
    """A model of a local and an LSH layer, as `config_overrides`."""
    more = "".join(f",{name}={str(value).lower()}" for name, value in fields.items())
    return TINY.format(dropout=dropout) + more


def write_documents(path: Path, count: int = 40, lines: int = 3) -> Path:
    """Documents of different lengths, one a line of JSON."""
    texts = [
        "".join(f"document {index} says line {line}: é\n" for line in range(1 + index % lines))
        for index in range(count)
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path


def weights(directory: Path) -> dict[str, Any]:
    """The weights in a folder, of a model or of adapters."""
    (file,) = directory.glob("*model.safetensors")
    return load_file(file)


def largest_difference(first: dict[str, Any], second: dict[str, Any]) -> float:
    """Between weights of the same names."""
    assert first.keys() == second.keys()
    return max(float((first[n].double() - second[n].double()).abs().max()) for n in first)


def losses(log_history: list[dict]) -> list[dict]:
    """The curve without its times."""
    names = ("step", "loss", "eval_loss", "learning_rate", "grad_norm")
    return [
        {name: entry[name] for name in names if name in entry}
        for entry in log_history
        if "loss" in entry or "eval_loss" in entry
    ]
