"""Compiled decode steps; run as a script, since the tests' shape checks do not compile.

Prints as JSON the largest difference from plain steps, the contexts at which something was
compiled, and the last context.
"""

import json
import sys
import warnings

import torch
from torch._dynamo.utils import counters

from tests.models.tiny import ROTARY_CONVOLUTION, random_ids, tiny_lm

FIRST = 40


def main(scope: str, backend: str, last: int) -> None:
    model = tiny_lm(
        attn_layers=["local", "lsh"],
        attention_scope=scope,
        **ROTARY_CONVOLUTION,
        eos_token_id=None,
    )
    ids = random_ids(2, last)
    step = torch.compile(model.forward, fullgraph=True, backend=backend)
    difference, compiled, graphs = 0.0, [], 0
    with torch.no_grad():
        caches = [model(ids[:, :FIRST], use_cache=True).past_key_values for _ in range(2)]
        for place in range(FIRST, last):
            new = ids[:, place : place + 1]
            expected = model(new, past_key_values=caches[0]).logits
            actual = step(new, past_key_values=caches[1]).logits
            difference = max(difference, float((actual - expected).abs().max()))
            if counters["stats"]["unique_graphs"] > graphs:
                graphs = counters["stats"]["unique_graphs"]
                compiled.append(place)
    print(json.dumps({"difference": difference, "compiled": compiled, "last": last}))


if __name__ == "__main__":
    warnings.simplefilter("error")
    # Of torch's own compiler.
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
