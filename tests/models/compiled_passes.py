"""Compiled whole passes; run as a script, since the tests' shape checks do not compile.

Prints as JSON, for each kind of pass, how many graphs it has and the largest difference of the loss
and of the gradients from those of a plain pass.
"""

import json
import sys
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn
from torch._dynamo.utils import counters

from tests.models.seq2seq import FORMS, tiny_seq2seq
from tests.models.tiny import ROTARY_CONVOLUTION, gradients, random_ids, tiny_lm

KINDS: dict[str, dict[str, Any]] = {
    "inference": {"ff_sparsity": 4},
    "training": {"reversible": False, "redraw_rotations": False},
    "training, new rotations": {"reversible": False},
    "reversible training": {"redraw_rotations": False, "ff_sparsity": 4, **ROTARY_CONVOLUTION},
}


def one_pass(model: nn.Module, run: Any) -> list[torch.Tensor]:
    """Loss and, in training, gradients; the same rotations each time."""
    torch.manual_seed(0)
    ids = random_ids(2, 33)
    if not model.training:
        with torch.no_grad():
            return [run(input_ids=ids, labels=ids).loss]
    model.zero_grad()
    loss = run(input_ids=ids, labels=ids).loss
    loss.backward()
    return [loss.detach(), *gradients(model).values()]


def measure(kind: str, fields: dict[str, Any], make: Callable[..., nn.Module]) -> dict:
    torch._dynamo.reset()
    counters.clear()
    model = make(**fields).double()
    model.train(kind != "inference")
    compiled = torch.compile(model.forward, backend="aot_eager")
    pairs = zip(one_pass(model, compiled), one_pass(model, model), strict=True)
    difference = max(float((found - expected).abs().max()) for found, expected in pairs)
    again = one_pass(model, compiled)
    return {
        "graphs": counters["stats"]["unique_graphs"],
        "breaks": len(counters["graph_break"]),
        "difference": difference,
        "repeats": torch.equal(again[0], one_pass(model, compiled)[0]),
    }


if __name__ == "__main__":
    warnings.simplefilter("error")
    # Of torch's own compiler.
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    warnings.filterwarnings("ignore", message="The .grad attribute of a Tensor")
    # What is drawn and what is replayed is the same in each scope.
    scopes = {"band": [*KINDS], "chunk": [*KINDS] if "--all" in sys.argv else [*KINDS][:2]}
    found = {
        scope: {
            kind: measure(
                kind,
                KINDS[kind],
                partial(tiny_lm, attn_layers=["local", "lsh"], attention_scope=scope),
            )
            for kind in kinds
        }
        for scope, kinds in scopes.items()
    }
    if "--encoder_decoder" in sys.argv:
        layers = {"encoder_attn_layers": ["full", "lsh"], "decoder_attn_layers": ["local", "lsh"]}
        found = {
            form: {
                kind: measure(kind, KINDS[kind], partial(tiny_seq2seq, decoder_form=form, **layers))
                for kind in ("inference", "training")
            }
            for form in FORMS
        }
    print(json.dumps(found))
