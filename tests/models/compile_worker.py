"""Compares compiled and plain cached steps; prints at which lengths a graph was compiled.

A process of its own: the shape checks of the tests can not be compiled.
"""

import json
import sys

import torch
from torch._dynamo.utils import counters

from reformer_hf import ReformerHFCache
from tests.models.tiny import random_ids, tiny_lm

PROMPT = 20


def decode(backend: str, steps: int) -> list[int]:
    """Lengths at which a graph was compiled."""
    model = tiny_lm(position_embedding_type="none").double()
    ids = random_ids(2, PROMPT + steps)
    compiled = torch.compile(model, fullgraph=True, backend=backend)
    caches = [ReformerHFCache(model.config) for _ in range(2)]
    compilations = []
    with torch.no_grad():
        for cache in caches:
            model(ids[:, :PROMPT], past_key_values=cache)
        for length in range(PROMPT, PROMPT + steps):
            graphs = counters["stats"]["unique_graphs"]
            token = ids[:, length : length + 1]
            logits = compiled(token, past_key_values=caches[0]).logits
            expected = model(token, past_key_values=caches[1]).logits
            torch.testing.assert_close(logits, expected, rtol=1e-9, atol=1e-9)
            if counters["stats"]["unique_graphs"] > graphs:
                compilations.append(length)
    return compilations


if __name__ == "__main__":
    print(json.dumps(decode(sys.argv[1], int(sys.argv[2]))))
