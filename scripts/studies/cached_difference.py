"""Report how far cached and uncached logits of the `chunk` scope are apart.

In that scope a token more moves the borders of chunks and with them the hidden states of earlier
tokens, which a cache holds as they were. Each cached step is exact for its layer; what comes of it
over a whole model is measured here, for a model with random weights or a given checkpoint: a text
is read once with a cache, token by token behind a prompt, and once anew for each of its prefixes.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from reformer_hf import ReformerHFCache, ReformerHFForCausalLM
from reformer_hf.training.arguments import argument
from reformer_hf.training.record import machine_record
from reformer_hf.training.storage import write_json
from scripts.benchmarks.common.arguments import make_parser
from scripts.studies.library import random_model, read_ids

LAYOUTS = {"local, lsh": 1, "(local, lsh) x 2": 2, "(local, lsh) x 3": 3}
"""Names to the number of pairs of layers."""


@dataclass
class DifferenceArguments:
    """Which model, how much text."""

    model_name_or_path: str | None = argument(
        None, "A byte-level model; by default some with random weights."
    )
    text_file: str | None = argument(None, "Text; this Python's standard library by default.")
    prompt_tokens: int = argument(512, "Bytes read at once.")
    new_tokens: int = argument(128, "Bytes read one by one behind them.")
    output_file: str = argument("scripts/results/cached_difference/result.json", "Where it goes.")


def lively_model(pairs: int, scope: str) -> ReformerHFForCausalLM:
    """A model with weights large enough for attention to matter."""
    return random_model(
        attn_layers=["local", "lsh"] * pairs,
        attention_scope=scope,
        num_buckets=32,
        axial_pos_shape=[64, 64],
        initializer_range=0.1,
        axial_norm_std=1.0,
    )


@torch.no_grad()
def measure(model: ReformerHFForCausalLM, ids: Tensor, prompt: int) -> dict[str, float]:
    """Compare the logits behind each token after the prompt."""
    model = model.double().eval()
    cache = ReformerHFCache(model.config)
    model(ids[:, :prompt], past_key_values=cache)
    cached, uncached = [], []
    for end in tqdm(range(prompt + 1, ids.shape[1] + 1), leave=False):
        cached.append(model(ids[:, end - 1 : end], past_key_values=cache).logits[:, -1])
        whole = model(ids[:, :end], use_cache=False, logits_to_keep=1)
        uncached.append(whole.logits[:, -1])
    mine, theirs = torch.cat(cached), torch.cat(uncached)
    divergence = torch.nn.functional.kl_div(
        mine.log_softmax(-1), theirs.log_softmax(-1), log_target=True, reduction="batchmean"
    )
    return {
        "same_most_likely_token": float((mine.argmax(-1) == theirs.argmax(-1)).double().mean()),
        "largest_logit_difference": float((mine - theirs).abs().max()),
        "logit_standard_deviation": float(theirs.std()),
        "mean_kl_divergence_nats": float(divergence),
    }


def main(argv: list[str] | None = None) -> int:
    """Measure, print and write."""
    parser = make_parser([DifferenceArguments], "studies.cached_difference", __doc__)
    (arguments,) = parser.parse_args_into_dataclasses(argv)
    ids = read_ids(arguments.prompt_tokens + arguments.new_tokens, arguments.text_file)
    if arguments.model_name_or_path is not None:
        name = arguments.model_name_or_path
        models = {name: ReformerHFForCausalLM.from_pretrained(name)}
    else:
        models = {
            f"{scope}: {name}": lively_model(pairs, scope)
            for scope in ("band", "chunk")
            for name, pairs in LAYOUTS.items()
        }
    rows = {name: measure(model, ids, arguments.prompt_tokens) for name, model in models.items()}
    report = {
        "weights": "random" if arguments.model_name_or_path is None else "of the checkpoint",
        "prompt_tokens": arguments.prompt_tokens,
        "new_tokens": arguments.new_tokens,
        "dtype": "float64",
        "models": rows,
        "machine": machine_record(),
    }
    write_json(Path(arguments.output_file), report)
    for name, row in rows.items():
        print(f"{name:<28}" + "  ".join(f"{key} {value:.3g}" for key, value in row.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
