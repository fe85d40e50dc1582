"""Report how often a bucket id falls differently in float32 and bfloat16 than in float64.

The same model reads the same text in each precision. `layer` gives every precision the float64
streams of the layer, so that only its own rounding counts; `model` runs each precision from the
embeddings on, so that errors of earlier layers, and their flips, add up.
"""

import sys
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from reformer_hf import ReformerHFForCausalLM
from reformer_hf.nn.attention import LSHSelfAttention
from reformer_hf.nn.reversible import Decision
from reformer_hf.training.arguments import argument
from reformer_hf.training.record import machine_record
from reformer_hf.training.storage import write_json
from scripts.benchmarks.common.arguments import make_parser
from scripts.studies.library import random_model, read_ids

PRECISIONS = ("float32", "bfloat16 autocast", "bfloat16 parameters")


@dataclass
class FlipArguments:
    """Which model, how much text."""

    model_name_or_path: str | None = argument(
        None, "A byte-level model; by default one with random weights."
    )
    text_file: str | None = argument(None, "Text; this Python's standard library by default.")
    num_tokens: int = argument(4096, "Bytes of text.")
    output_file: str = argument("scripts/results/bucket_flips/result.json", "Where it goes.")


def lsh_modules(model: ReformerHFForCausalLM) -> list[LSHSelfAttention]:
    """The LSH attention modules, from the first layer to the last."""
    return [module for module in model.modules() if isinstance(module, LSHSelfAttention)]


@torch.no_grad()
def run(
    model: ReformerHFForCausalLM, ids: Tensor, autocast: bool
) -> tuple[list[Tensor], list[Tensor]]:
    """Bucket ids and the normalised input of each LSH layer."""
    inputs: list[Tensor] = []
    hooks = [
        module.register_forward_pre_hook(lambda _, arguments: inputs.append(arguments[0]))
        for module in lsh_modules(model)
    ]
    decisions: list[Decision] = [Decision() for _ in model.config.attn_layers]
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        model(ids, hash_decisions=decisions)
    for hook in hooks:
        hook.remove()
    lsh = [i for i, kind in enumerate(model.config.attn_layers) if kind == "lsh"]
    return [decisions[i].recall(list) for i in lsh], inputs


@torch.no_grad()
def hash_inputs(model: ReformerHFForCausalLM, inputs: list[Tensor], autocast: bool) -> list[Tensor]:
    """Bucket ids of given layer inputs."""
    buckets = []
    for module, hidden_states in zip(lsh_modules(model), inputs, strict=True):
        dtype = next(module.query_key.parameters()).dtype
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            (query,) = module.project_input([module.query_key], hidden_states.to(dtype))
        buckets.append(module.hash(query, model.config.hash_seed or 0))
    return buckets


def flip_rate(buckets: list[Tensor], reference: list[Tensor]) -> float:
    """Share of (token, head, round, layer) whose bucket differs."""
    different = [
        (mine != theirs).double().mean() for mine, theirs in zip(buckets, reference, strict=True)
    ]
    return float(torch.stack(different).mean())


def measure(model: ReformerHFForCausalLM, ids: Tensor) -> dict[str, dict[str, float]]:
    """Flip rates against float64, by precision."""
    reference, inputs = run(model, ids, autocast=False)
    rates = {}
    for precision in PRECISIONS:
        autocast = precision.endswith("autocast")
        dtype = torch.bfloat16 if precision.endswith("parameters") else torch.float32
        narrow = deepcopy(model).to(dtype)  # type: ignore[arg-type]
        rates[precision] = {
            "layer": flip_rate(hash_inputs(narrow, inputs, autocast), reference),
            "model": flip_rate(run(narrow, ids, autocast)[0], reference),
        }
    return rates


def main(argv: list[str] | None = None) -> int:
    """Measure, print and write."""
    parser = make_parser([FlipArguments], "studies.bucket_flips", __doc__)
    (arguments,) = parser.parse_args_into_dataclasses(argv)
    name = arguments.model_name_or_path
    model = random_model() if name is None else ReformerHFForCausalLM.from_pretrained(name)
    model = model.double().eval()
    ids = read_ids(arguments.num_tokens, arguments.text_file)
    rates = measure(model, ids)
    report = {
        "model": name or "random weights",
        "tokens": ids.shape[1],
        "num_buckets": model.config.num_buckets,
        "num_hashes": model.config.num_hashes,
        "flip_rate": rates,
        "machine": machine_record(),
    }
    write_json(Path(arguments.output_file), report)
    print(f"{'precision':<22}{'layer':>12}{'model':>12}")
    for precision, rate in rates.items():
        print(f"{precision:<22}{rate['layer']:>12.2e}{rate['model']:>12.2e}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
