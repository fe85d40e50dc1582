"""Tiny sizes for the tests of the benchmarks, their arguments and results."""

import json
from pathlib import Path

from scripts.benchmarks.common.peers import ModelShape

RESULTS = Path(__file__).parents[3] / "scripts" / "results"
TINY = {
    "num_hidden_layers": 2,
    "hidden_size": 16,
    "num_attention_heads": 2,
    "feed_forward_size": 16,
    "num_hashes": 2,
    "num_buckets": 4,
    "attn_chunk_length": 16,
    "vocab_size": 20,
    "max_positions": 256,
}
SHAPE = ModelShape(**TINY)


def words_of(values):
    """A command line."""
    words = []
    for name, value in values.items():
        words += [f"--{name}", *map(str, value if isinstance(value, list) else [value])]
    return words


def results_of(folder):
    return json.loads((folder / "results.json").read_text())


def rendered_and_written(render, name):
    """What a report makes of recorded results, and what it made of them when they were new."""
    results = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    written = (RESULTS / f"{name}.md").read_text(encoding="utf-8")
    return render(results, results["runs"]), written
