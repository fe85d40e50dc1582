"""One of several processes that read a prompt together; run by test_sequence_parallel_prefill.

Usage: torchrun --nproc_per_node COUNT sequence_parallel_prefill_workers.py DIRECTORY NAME...

Each process reads its part of a prompt together with the others, and goes on by itself with the
cache that it gets. All but the last one stop in the middle of the prompt, and go on from there. It
appends a line of JSON for each scenario to DIRECTORY/RANK.
"""

import json
import sys
from copy import deepcopy
from datetime import timedelta
from itertools import accumulate
from pathlib import Path
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor

from reformer_hf import ReformerHFCache, ReformerHFForCausalLM, SequenceParallel
from tests.models.tiny import SPARSE_PROJECTIONS, WITH_NGRAMS, WITH_SRU, random_ids, tiny_lm

BATCH, STEPS = 2, 21
LENGTHS = {2: (31, 16), 4: (9, 17, 6, 15)}
"""Tokens of each part, by the number of parts."""

LOCAL = {"local_attn_chunk_length": 3, "local_num_chunks_before": 2, "conv_kernel": 4}
AXIAL = {"position_embedding_type": "axial"}
SCENARIOS: dict[str, tuple[Any, ...]] = {
    "local and lsh": ({"attn_layers": ["local", "lsh"] * 2},),
    "all options": (WITH_NGRAMS,),
    "sparse projections, recurrent units, axial, gathered": (
        SPARSE_PROJECTIONS | WITH_SRU | AXIAL,
        "gather",
    ),
    "wide windows": ({"lsh_attn_chunk_length": 40, "num_buckets": 2},),
    "gathered": (WITH_NGRAMS | AXIAL, "gather"),
    "learned positions": (
        {"position_embedding_type": "learned", "max_position_embeddings": 47 + STEPS},
    ),
    "local": ({"attn_layers": ["local"] * 2, **LOCAL},),
    "lsh": ({"attn_layers": ["lsh"] * 3, "num_hashes": 3, "lsh_local_round": True},),
    "eager": ({"attn_implementation": "eager", "lsh_local_round": True},),
    "recurrent units": (WITH_NGRAMS | WITH_SRU,),
    "sparse projections": (SPARSE_PROJECTIONS,),
    "stored": ({"reversible": False},),
}


def model_of(fields: dict[str, Any]) -> ReformerHFForCausalLM:
    fields = {"position_embedding_type": "rotary", **fields}
    implementation = fields.pop("attn_implementation", "blockwise")
    model = tiny_lm(**fields).double()
    model.set_attn_implementation(implementation)
    return model


def prefill(
    fields: dict[str, Any], tails: Literal["chain", "gather"] = "chain"
) -> dict[str, list[float] | int | bool]:
    """Read a prompt together, go on alone, and compare with what one process does."""
    model, parallel = model_of(fields), SequenceParallel(tails=tails)
    lengths = LENGTHS[parallel.size]
    end = list(accumulate(lengths))[parallel.rank]
    ids = random_ids(BATCH, sum(lengths))
    part = ids.split(lengths, dim=1)[parallel.rank]
    model.set_sequence_parallel(parallel)
    with torch.no_grad():
        logits = model(part).logits
    plain_bytes = parallel.received_bytes
    outputs = model(part, use_cache=True)
    cached_bytes = parallel.received_bytes - plain_bytes
    model.set_sequence_parallel(None)
    cache, ids = outputs.past_key_values, ids[:, :end]
    whole = model(ids, use_cache=True)
    pair = [(cache, outputs.logits), (whole.past_key_values, whole.logits)]
    stored = [layer.keys.shape[2] for layer in cache.layers]
    return {
        "part": difference(outputs.logits, logits),
        "length": cache.get_seq_length() - end,
        "gradient": outputs.logits.requires_grad,
        "blocks": compare_blocks(model, *(deepcopy(each) for each, _ in pair)),
        "beams": compare_beams(model, ids, *(deepcopy(each) for each, _ in pair)),
        "steps": compare_steps(model, *pair),
        "more_bytes": cached_bytes - plain_bytes,
        "stored": stored,
    }


def difference(one: Tensor, other: Tensor) -> float:
    return float((one - other).abs().max())


def compare_steps(
    model: ReformerHFForCausalLM, *pair: tuple[ReformerHFCache, Tensor]
) -> list[float]:
    """Largest difference of logits behind the prompt and in each greedy step from there."""
    (cache, logits), (other_cache, other_logits) = pair
    found = []
    for _ in range(STEPS):
        found.append(difference(logits[:, -1], other_logits[:, -1]))
        token = other_logits[:, -1:].argmax(dim=-1)
        logits = model(token, past_key_values=cache).logits
        other_logits = model(token, past_key_values=other_cache).logits
    return found


def compare_blocks(
    model: ReformerHFForCausalLM, cache: ReformerHFCache, other: ReformerHFCache
) -> float:
    """The same of a long block, tokens that are taken back, and another block, padded."""
    found = 0.0
    cache.activate_past_recording()
    other.activate_past_recording()
    mask = torch.ones(BATCH, 7, dtype=torch.int64)
    mask[0, :2] = 0
    for seed, (length, options) in enumerate([(9, {}), (1, {}), (7, {"attention_mask": mask})]):
        ids = random_ids(BATCH, length, seed=seed)
        logits, expected = (
            model(ids, past_key_values=each, **options).logits for each in (cache, other)
        )
        found = max(found, difference(logits[:, 2:], expected[:, 2:]) if length > 2 else 0.0)
        if not options:
            cache.crop(-1)
            other.crop(-1)
    return found


def compare_beams(
    model: ReformerHFForCausalLM, ids: Tensor, cache: ReformerHFCache, other: ReformerHFCache
) -> bool:
    """Whether beams from both caches write the same text, one with the new tokens alone."""
    ids = torch.cat([ids, random_ids(BATCH, 1, seed=7)], dim=1)
    options: dict[str, Any] = {"num_beams": 2, "max_new_tokens": 5, "do_sample": False}
    for each in (cache, other):
        each.batch_repeat_interleave(2)
    mask = torch.ones_like(ids)
    new = model.generate(ids[:, -1:], attention_mask=mask, past_key_values=cache, **options)
    expected = model.generate(ids, past_key_values=other, **options)
    return torch.equal(new[:, 1:], expected[:, ids.shape[1] :])


def main(directory: Path, names: list[str]) -> None:
    dist.init_process_group("gloo", timeout=timedelta(seconds=600))
    for name in names:
        result = prefill(*SCENARIOS[name])
        with open(directory / str(dist.get_rank()), "a") as file:
            file.write(json.dumps({"name": name, **result}) + "\n")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
