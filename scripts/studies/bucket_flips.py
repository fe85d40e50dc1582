"""Report how often a bucket id falls differently in float32 and bfloat16 than in float64.

The same model reads the same text in each precision. `layer` gives every precision the float64
streams of the layer, so that only its own rounding counts; `model` runs each precision from the
embeddings on, so that errors of earlier layers, and their flips, add up.
"""

import sys
from contextlib import nullcontext
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor
from transformers import HfArgumentParser, set_seed

from reformer_hf import ReformerHFConfig, ReformerHFForCausalLM
from reformer_hf.nn.attention import LSHSelfAttention
from reformer_hf.nn.heads import split_heads
from reformer_hf.nn.reversible import Decision
from reformer_hf.training.arguments import CorpusArguments
from reformer_hf.training.corpus import open_corpus
from reformer_hf.training.machine import machine_record
from reformer_hf.training.storage import write_json

PRECISIONS = ("float32", "bfloat16 autocast", "bfloat16 parameters")


@dataclass
class FlipArguments:
    """Which model, how much text."""

    model_name_or_path: str | None = field(
        default=None, metadata={"help": "A byte-level model; by default one with random weights."}
    )
    num_tokens: int = field(default=4096, metadata={"help": "Bytes of text."})
    output_file: str = field(
        default="scripts/results/bucket_flips/result.json",
        metadata={"help": "Where the report goes."},
    )


def load_model(arguments: FlipArguments) -> ReformerHFForCausalLM:
    """The model in float64, in eval mode."""
    if arguments.model_name_or_path is not None:
        model = ReformerHFForCausalLM.from_pretrained(arguments.model_name_or_path)
    else:
        set_seed(0)
        model = ReformerHFForCausalLM(
            ReformerHFConfig(
                vocab_size=258,
                attn_layers=["local", "lsh"] * 3,
                num_attention_heads=4,
                num_hashes=4,
                axial_pos_shape=[64, 128],
                **{"axial_pos_embds_dim": [64, 192], "feed_forward_size": 512},
            )
        )
    return model.double().eval()


@torch.no_grad()
def run(
    model: ReformerHFForCausalLM, ids: Tensor, autocast: bool
) -> tuple[list[Tensor], list[Tensor]]:
    """Bucket ids and the normalised input of each LSH layer."""
    inputs: list[Tensor] = []
    modules = [module for module in model.modules() if isinstance(module, LSHSelfAttention)]
    hooks = [
        module.register_forward_pre_hook(lambda _, arguments: inputs.append(arguments[0]))
        for module in modules
    ]
    decisions: list[Decision] = [Decision() for _ in model.config.attn_layers]
    with torch.autocast("cpu", torch.bfloat16) if autocast else nullcontext():
        model(ids, hash_decisions=decisions)
    for hook in hooks:
        hook.remove()
    lsh = [i for i, kind in enumerate(model.config.attn_layers) if kind == "lsh"]
    return [decisions[i].recall(list) for i in lsh], inputs


@torch.no_grad()
def hash_inputs(model: ReformerHFForCausalLM, inputs: list[Tensor], autocast: bool) -> list[Tensor]:
    """Bucket ids of given layer inputs."""
    buckets = []
    modules = [module for module in model.modules() if isinstance(module, LSHSelfAttention)]
    for module, hidden_states in zip(modules, inputs, strict=True):
        with torch.autocast("cpu", torch.bfloat16) if autocast else nullcontext():
            query = module.query_key(hidden_states.to(module.query_key.weight.dtype))
        query = split_heads(query, module.num_heads)
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


def main() -> int:
    """Measure, print and write."""
    kinds = [CorpusArguments, FlipArguments]
    parser = HfArgumentParser(kinds, description=__doc__)  # type: ignore[arg-type]
    corpus_arguments, arguments = parser.parse_args_into_dataclasses()
    content = bytearray()
    for document in open_corpus(corpus_arguments, exclude=Path(arguments.output_file)).documents():
        content += document.content.tobytes()
        if len(content) >= arguments.num_tokens:
            break
    model = load_model(arguments)
    ids = torch.tensor(list(content[: arguments.num_tokens]))[None] + 2
    rates = measure(model, ids)
    report = {
        "model": arguments.model_name_or_path or "random weights",
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
