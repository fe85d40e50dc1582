"""One of several processes that hold rows together; run by test_sequence_parallel.

Usage: torchrun --nproc_per_node COUNT sequence_parallel_workers.py DIRECTORY

Each process computes whole rows by itself and then its part of them together with the others. It
appends a line of JSON for each scenario to DIRECTORY/RANK.
"""

import json
import os
import sys
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from reformer_hf import SequenceParallel
from reformer_hf.models.layers import ReformerHFLayer
from tests.models.tiny import (
    ALL_OPTIONS,
    SPARSE_PROJECTIONS,
    WITH_NGRAMS,
    WITH_SRU,
    gradients,
    random_ids,
    tiny_lm,
    tiny_masked_lm,
)

BATCH, SEQ = 2, 53
"""Odd, so that parts are of different lengths."""

ROTARY = {"position_embedding_type": "rotary", "chunk_size_lm_head": 16}
"""With a loss in float64, since it is our own."""


def one_document() -> dict[str, Tensor]:
    return {}


def numbered_documents() -> dict[str, Tensor]:
    """One that ends within the first part, one that goes on over parts, two in the last."""
    return {"seq_idx": torch.tensor([3] * 7 + [5] * 38 + [9] * 2 + [10] * 6).expand(BATCH, -1)}


def documents_at_borders() -> dict[str, Tensor]:
    """In one row documents begin where parts do; in the other a single one does not end."""
    first = torch.cat([torch.full((part,), i) for i, part in enumerate((14, 13, 13, 13))])
    return {"seq_idx": torch.stack([first, torch.zeros(SEQ, dtype=torch.int64)])}


def restarting_positions() -> dict[str, Tensor]:
    lengths = (9, 30, 14)
    return {"position_ids": torch.cat([torch.arange(n) for n in lengths]).expand(BATCH, -1)}


def padded() -> dict[str, Tensor]:
    """A whole part of padding, on either side."""
    mask = torch.ones(BATCH, SEQ, dtype=torch.int64)
    mask[0, :28] = 0
    mask[1, 25:] = 0
    return {"attention_mask": mask}


def padded_documents() -> dict[str, Tensor]:
    return padded() | numbered_documents()


Given = Callable[[], dict[str, Tensor]]
SCENARIOS: dict[str, tuple[Any, ...]] = {
    "local and lsh": (one_document, {"attn_layers": ["local", "lsh"] * 2}),
    "axial positions": (one_document, {"position_embedding_type": "axial"}),
    "learned positions": (
        one_document,
        {"position_embedding_type": "learned", "max_position_embeddings": SEQ},
    ),
    "all options": (one_document, WITH_NGRAMS),
    "sparse projections": (one_document, SPARSE_PROJECTIONS),
    "recurrent units": (one_document, WITH_SRU),
    "recurrent units, documents": (numbered_documents, WITH_SRU),
    "recurrent units, documents at borders": (documents_at_borders, WITH_SRU),
    "recurrent units, padding": (padded, WITH_SRU),
    "eager": (one_document, {"attn_implementation": "eager", "lsh_local_round": True}),
    "stored": (one_document, {"reversible": False}),
    "budget": (one_document, {"activation_budget": 2**20}),
    "groups of heads": (one_document, {"chunk_size_attention_heads": 1}),
    "wide windows": (one_document, {"lsh_attn_chunk_length": 40, "num_buckets": 2}),
    "numbered documents": (numbered_documents, WITH_NGRAMS),
    "numbered documents, sparse": (numbered_documents, SPARSE_PROJECTIONS),
    "numbered documents, lsh": (numbered_documents, {"attn_layers": ["lsh"] * 3}),
    "numbered documents, axial": (numbered_documents, {"position_embedding_type": "axial"}),
    "documents at borders": (documents_at_borders, WITH_NGRAMS),
    "restarting positions": (restarting_positions, WITH_NGRAMS),
    "gathered": (one_document, {"attn_layers": ["local", "lsh"] * 2}, "gather"),
    "gathered documents": (documents_at_borders, WITH_NGRAMS, "gather"),
    "padding": (padded, WITH_NGRAMS),
    "padding, axial": (padded, {"position_embedding_type": "axial"}),
    "padding and documents": (padded_documents, ALL_OPTIONS | {"position_embedding_type": "axial"}),
}

BOTH_SIDES = {"is_decoder": False}
UNEVEN = {"local_num_chunks_before": 2, "lsh_num_chunks_before": 0, "lsh_num_chunks_after": 2}
SCENARIOS |= {
    f"both sides, {name}": (given, BOTH_SIDES | fields, *form)
    for name, (given, fields, *form) in {
        "local and lsh": (one_document, {"attn_layers": ["local", "lsh"] * 2}),
        "gathered": (one_document, {"attn_layers": ["local", "lsh"] * 2}, "gather"),
        "all options": (one_document, WITH_NGRAMS),
        "sparse projections": (one_document, SPARSE_PROJECTIONS),
        "eager": (one_document, {"attn_implementation": "eager", "lsh_local_round": True}),
        "stored": (one_document, {"reversible": False, "lsh_num_chunks_after": 0}),
        "uneven windows": (numbered_documents, UNEVEN),
        "wide windows": (one_document, {"lsh_attn_chunk_length": 40, "num_buckets": 2}),
        "numbered documents": (numbered_documents, WITH_NGRAMS),
        "numbered documents, sparse": (numbered_documents, SPARSE_PROJECTIONS),
        "documents at borders": (documents_at_borders, WITH_NGRAMS),
        "gathered documents": (documents_at_borders, ALL_OPTIONS, "gather"),
        "restarting positions": (restarting_positions, ALL_OPTIONS),
        "padding": (padded, WITH_NGRAMS),
        "padding and documents": (padded_documents, {"position_embedding_type": "axial"}),
    }.items()
}
"""Those of masked models, which look to both sides."""


ENOUGH_ONCE = {
    *("learned positions", "sparse projections", "eager", "stored", "budget", "groups of heads"),
    *("numbered documents, sparse", "numbered documents, axial", "padding and documents"),
    "recurrent units",
    *(
        f"both sides, {name}"
        for name in (
            *("gathered", "all options", "sparse projections", "eager", "stored", "uneven windows"),
            *("numbered documents, sparse", "restarting positions", "padding and documents"),
        )
    ),
}
"""What two processes show, and more would not show better."""


def scenarios_of(count: int) -> dict[str, tuple[Any, ...]]:
    """What so many processes compute."""
    names = [name for name in SCENARIOS if count == 2 or name not in ENOUGH_ONCE]
    return {name: SCENARIOS[name] for name in names}


def row_inputs(given: Given) -> dict[str, Tensor]:
    """Whole rows with labels."""
    inputs = {"input_ids": random_ids(BATCH, SEQ), **given()}
    labels = inputs["input_ids"].clone()
    if "attention_mask" in inputs:
        labels[inputs["attention_mask"] == 0] = -100
    labels[:, 20:23] = -100
    return {**inputs, "labels": labels}


def model_of(fields: dict[str, Any]) -> nn.Module:
    fields = {**ROTARY, **fields}
    implementation = fields.pop("attn_implementation", "blockwise")
    make = tiny_lm if fields.get("is_decoder", True) else tiny_masked_lm
    model = make(**fields).double()
    model.set_attn_implementation(implementation)
    return model


def compare(
    given: Given, fields: dict[str, Any], tails: Literal["chain", "gather"] = "chain"
) -> dict[str, Any]:
    """Logits, loss and gradients of this process's part against those of whole rows."""
    model, inputs = model_of(fields), row_inputs(given)
    expected = model(**inputs)
    expected.loss.backward()
    whole = gradients(model)
    model.zero_grad()
    parallel = SequenceParallel(tails=tails)
    model.set_sequence_parallel(parallel)
    outputs = model(**{name: parallel.shard(tensor) for name, tensor in inputs.items()})
    outputs.loss.backward()
    found = {name: mean(gradient) for name, gradient in gradients(model).items()}
    difference = (outputs.logits - parallel.shard(expected.logits)).detach().abs()
    if "attention_mask" in inputs:
        difference *= parallel.shard(inputs["attention_mask"]).unsqueeze(-1)
    return {
        "logits": float(difference.max()),
        "loss": float((mean(outputs.loss.detach()) - expected.loss).abs()),
        "missing": sorted(whole.keys() ^ found.keys()),
        "gradients": max(float((found[n] - whole[n]).abs().max()) for n in whole),
        "least_gradient": min(float(g.abs().max()) for g in whole.values()),
        "received_bytes": parallel.received_bytes,
    }


def mean(tensor: Tensor) -> Tensor:
    """Mean over all processes, as DDP takes it of gradients."""
    tensor = tensor.clone()
    dist.all_reduce(tensor)
    return tensor / dist.get_world_size()


def train_step() -> dict[str, Any]:
    """New rotations, which the first process draws, and a loss that keeps no logits."""
    model, inputs = model_of({}).train(), row_inputs(one_document)
    torch.manual_seed(5)
    expected = model(**inputs).loss
    parallel = SequenceParallel()
    model.set_sequence_parallel(parallel)
    torch.manual_seed(5 + parallel.rank)
    loss = model(**{name: parallel.shard(tensor) for name, tensor in inputs.items()}).loss
    return {"loss": float((mean(loss.detach()) - expected).abs())}


def ddp(model: nn.Module) -> nn.Module:
    return DistributedDataParallel(model)


def fsdp(model: nn.Module) -> nn.Module:
    for layer in model.modules():
        if isinstance(layer, ReformerHFLayer):
            fully_shard(layer)
    return fully_shard(model)


def two_dimensions(wrap: Callable[[nn.Module], nn.Module]) -> dict[str, Any]:
    """Each half of the processes holds a row; gradients are those of the mean over the rows."""
    mesh = init_device_mesh("cpu", (2, dist.get_world_size() // 2), mesh_dim_names=("dp", "sp"))
    model, inputs = model_of({}), row_inputs(one_document)
    rows = [{name: tensor[row : row + 1] for name, tensor in inputs.items()} for row in range(2)]
    (sum(model(**row).loss for row in rows) / 2).backward()
    whole = gradients(model)
    model.zero_grad()
    parallel = SequenceParallel(mesh["sp"])
    model.set_sequence_parallel(parallel)
    own, wrapped = rows[mesh.get_local_rank("dp")], wrap(model)  # DDP must outlive its backward
    wrapped(**{name: parallel.shard(tensor) for name, tensor in own.items()}).loss.backward()
    found = gradients(model)
    found = {n: g.full_tensor() if isinstance(g, DTensor) else g for n, g in found.items()}
    return {
        "gradients": max(float((found[n] - whole[n]).abs().max()) for n in whole),
        "missing": sorted(whole.keys() ^ found.keys()),
    }


def refusals() -> dict[str, str]:
    """What every process says about parts that make no rows."""
    parallel = SequenceParallel()
    model = model_of({"position_embedding_type": "axial"})
    model.set_sequence_parallel(parallel)
    ids = parallel.shard(random_ids(BATCH, SEQ))
    last = parallel.rank == parallel.size - 1
    falling = torch.full_like(ids, parallel.size - parallel.rank)
    torn = torch.ones_like(ids)
    torn[:, 3] = 0
    filled = model(input_ids=ids, use_cache=True).past_key_values
    passes = {
        "short": {"input_ids": ids[:, :2] if last else ids},
        "rows": {"input_ids": ids[:1] if last else ids},
        "some": {"input_ids": ids, **({"seq_idx": torch.zeros_like(ids)} if last else {})},
        "falling": {"input_ids": ids, "seq_idx": falling},
        "torn": {"input_ids": ids, "attention_mask": torn},
        "far": {"input_ids": ids, "position_ids": torch.full_like(ids, 300 if last else 0)},
        "cache": {"input_ids": ids, "use_cache": last},
        "filled": {
            "input_ids": ids,
            **({"past_key_values": filled} if last else {"use_cache": True}),
        },
        "maps": {"input_ids": ids, "output_attentions": True},
    }
    return {name: message(partial(model, **inputs), ValueError) for name, inputs in passes.items()}


def message(call: Callable[[], Any], kind: type[Exception]) -> str:
    try:
        call()
    except kind as error:
        return str(error)
    return "nothing was raised"


def lose_the_last_process() -> dict[str, str]:
    """The last process ends between forward and backward."""
    model, parallel = model_of({}), SequenceParallel()
    model.set_sequence_parallel(parallel)
    inputs = row_inputs(one_document)
    loss = model(**{name: parallel.shard(tensor) for name, tensor in inputs.items()}).loss
    if parallel.rank == parallel.size - 1:
        os._exit(0)
    return {"message": message(loss.backward, RuntimeError)}


def main(directory: Path) -> None:
    dist.init_process_group("gloo", timeout=timedelta(seconds=600))
    calls: dict[str, Callable[[], dict[str, Any]]] = {
        name: lambda scenario=scenario: compare(*scenario)
        for name, scenario in scenarios_of(dist.get_world_size()).items()
    }
    calls |= {"train": train_step, "refusals": refusals}
    if dist.get_world_size() == 4:
        calls |= {"ddp": lambda: two_dimensions(ddp), "fsdp": lambda: two_dimensions(fsdp)}
    calls["lost"] = lose_the_last_process
    for name, call in calls.items():
        result = call()
        with open(directory / str(dist.get_rank()), "a") as file:
            file.write(json.dumps({"name": name, **result}) + "\n")
    os._exit(0)  # whatever the others are waiting for


if __name__ == "__main__":
    main(Path(sys.argv[1]))
