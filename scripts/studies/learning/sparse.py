"""What sparse layers cost in quality: dense and sparse models of equal parameters.

    python -m scripts.studies.learning sparse

The base is the quickstart's recipe without n-grams, whose tables would hold nine tenths of the
parameters, and twice as wide. Sparse rows have the width inside the feed-forward sub-layer that
makes their parameters as many as the base's. Goes on where it was interrupted.
"""

from dataclasses import dataclass

import torch

from reformer_hf import ReformerHFForCausalLM
from reformer_hf.training.arguments import argument
from scripts.studies.learning.ablation import BASE, AblationArguments, plot, render
from scripts.studies.learning.common import Row, run_rows
from scripts.studies.learning.recipe import Recipe

BLOCK = 16
"""Units of a block, and modules of sparse QKV."""

_FEED_FORWARD = {"ff_sparsity": BLOCK}
_QKV = {"attention_sparsity": BLOCK, "attention_output_projection": False}
SPARSE = {
    "sparse feed-forward": _FEED_FORWARD,
    "sparse QKV, no output projection": _QKV,
    "both": {**_FEED_FORWARD, **_QKV},
}


@dataclass
class SparseArguments(AblationArguments):
    """How long each run trains."""

    corpora: list[str] = argument(["python"], "Texts, of python and bible.")
    seeds: int = argument(2, "Seeds of each row.")
    budgets: list[str] = argument(["tokens"], "What is equal, of tokens, minutes.")
    tokens: int = argument(2**19, "Tokens of a run where they are what is equal.")
    max_minutes: float = argument(5.0, "Minutes of a run where they are what is equal.")


def make_rows(recipe: Recipe) -> dict[str, Row]:
    """The base and the sparse models of as many parameters."""
    config = recipe.config()
    base = recipe.changed(
        hidden_size=2 * config.hidden_size,
        num_attention_heads=2 * config.num_attention_heads,
        attention_head_size=config.attention_head_size,
        feed_forward_size=2 * config.feed_forward_size,
        ngram_sizes=[],
    )
    rows = {name: Row(as_large_as(base, base.changed(**f))) for name, f in SPARSE.items()}
    return {BASE: Row(base), **rows}


def as_large_as(base: Recipe, sparse: Recipe) -> Recipe:
    """The sparse recipe with the feed-forward width that brings it nearest to the base's size."""
    wanted = parameters(base)
    sizes = range(BLOCK, 4 * base.config().feed_forward_size, BLOCK)
    recipes = [sparse.changed(feed_forward_size=size) for size in sizes]
    low, high = 0, len(recipes) - 1
    while low < high:  # parameters grow with the width
        middle = (low + high) // 2
        if parameters(recipes[middle]) < wanted:
            low = middle + 1
        else:
            high = middle
    nearest = recipes[max(0, low - 1) : low + 1]
    return min(nearest, key=lambda each: abs(parameters(each) - wanted))


def parameters(recipe: Recipe) -> int:
    """Of the model of a recipe."""
    with torch.device("meta"):
        return ReformerHFForCausalLM(recipe.config()).num_parameters()


def run_part(argv: list[str] | None = None) -> int:
    """Run what is missing."""
    settings = ("tokens", "max_minutes")
    return run_rows("sparse", SparseArguments, __doc__, make_rows, settings, render, plot, argv)
