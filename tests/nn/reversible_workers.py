"""One of two processes that train a small reversible model; run by test_reversible_distributed.

Usage: torchrun --nproc_per_node 2 reversible_workers.py DIRECTORY

Each process computes the gradients of both processes' data with plain autograd on a model of its
own, averages them, and compares them with what distributed training gives. It appends a line of
JSON for each scenario to DIRECTORY/RANK.
"""

import copy
import json
import sys
from collections.abc import Callable
from contextlib import nullcontext
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from reformer_hf.nn.reversible import PlainCoupling, ReversibleCoupling
from reformer_hf.training.processes import end_processes
from tests.nn.reversible_toys import DIM, Attention, FeedForward, Layer, LowRankAdapter, Model

WORLD_SIZE = 2


class OneStreamModel(Model):
    """The loss sees one stream: the last feed-forward gets no gradient, yet must be inverted."""

    def forward(self, tokens: Tensor, reversible: bool = True) -> Tensor:
        coupling = ReversibleCoupling() if reversible else PlainCoupling()
        streams = self.embed(tokens)
        for layer in self.layers:
            streams = layer(*streams, coupling)
        return streams[0].sin().mean()


def frozen_middle(model: Model) -> None:
    model.layers[1].requires_grad_(False)
    model.layers[2].feed_forward.requires_grad_(False)


def frozen_bottom(model: Model) -> None:
    model.embedding.requires_grad_(False)
    model.layers[0].requires_grad_(False)


def adapters(model: Model) -> None:
    model.requires_grad_(False)
    for layer in model.layers:
        layer.attention.value = LowRankAdapter(nn.Linear(DIM, DIM)).double()


def unused_parameter(model: Model) -> None:
    model.unused = nn.Parameter(torch.zeros(3, dtype=torch.float64))


def ddp(**options) -> Callable[[Model], nn.Module]:
    return lambda model: DistributedDataParallel(model, **options)


def fsdp(*units: type[nn.Module], **options) -> Callable[[Model], nn.Module]:
    """Shards the modules of these types each on its own, and the rest as one."""

    def wrap(model: Model) -> nn.Module:
        for module in reversed(list(model.modules())):  # inner ones first
            if isinstance(module, units):
                fully_shard(module, **options)
        return fully_shard(model, **options)

    return wrap


SCENARIOS: dict[str, dict] = {
    "ddp": {"wrap": ddp()},
    "ddp, find_unused_parameters": {
        "wrap": ddp(find_unused_parameters=True),
        "change": unused_parameter,
    },
    "ddp, static_graph": {"wrap": ddp(static_graph=True)},
    "ddp, no_sync": {"wrap": ddp(), "num_batches": 3},
    "ddp, gradient_as_bucket_view": {"wrap": ddp(gradient_as_bucket_view=True)},
    "ddp, frozen layers": {"wrap": ddp(), "change": frozen_middle},
    "fsdp, root only": {"wrap": fsdp()},
    "fsdp, per layer": {"wrap": fsdp(Layer)},
    "fsdp, per layer, reshard_after_forward": {"wrap": fsdp(Layer, reshard_after_forward=True)},
    "fsdp, per layer, no reshard_after_forward": {"wrap": fsdp(Layer, reshard_after_forward=False)},
    "fsdp, per layer, accumulation": {"wrap": fsdp(Layer), "num_batches": 3},
    "fsdp, per layer, frozen layers": {"wrap": fsdp(Layer), "change": frozen_middle},
    "fsdp, per layer, frozen bottom": {"wrap": fsdp(Layer), "change": frozen_bottom},
    "fsdp, per layer, adapters": {"wrap": fsdp(Layer), "change": adapters},
    "fsdp, per layer, loss of one stream": {"wrap": fsdp(Layer), "model": OneStreamModel},
    "fsdp, per sub-layer": {"wrap": fsdp(Layer, Attention, FeedForward)},
}


def batch(rank: int, index: int) -> Tensor:
    generator = torch.Generator().manual_seed(10 * rank + index)
    return torch.randint(0, 11, (2, 5), generator=generator)


def train(model: nn.Module, rank: int, num_batches: int, reversible: bool) -> None:
    """Accumulates the gradients of some batches, synchronising with the last."""
    torch.manual_seed(rank)
    for index in range(num_batches):
        last = index == num_batches - 1
        if hasattr(model, "set_requires_gradient_sync"):
            model.set_requires_gradient_sync(last)
        with model.no_sync() if hasattr(model, "no_sync") and not last else nullcontext():
            model(batch(rank, index), reversible).backward()


def expected_gradients(model: Model, num_batches: int) -> dict[str, Tensor]:
    """Mean over the ranks of plain gradients, all computed here."""
    for rank in range(WORLD_SIZE):
        train(model, rank, num_batches, reversible=False)
    named = model.named_parameters()
    return {name: p.grad / WORLD_SIZE for name, p in named if p.grad is not None}


def run(
    rank: int,
    wrap: Callable[[Model], nn.Module],
    change: Callable[[Model], None] = lambda model: None,
    num_batches: int = 1,
    model: type[Model] = Model,
) -> dict:
    torch.manual_seed(0)
    module = model(num_layers=4).double()
    change(module)
    expected = expected_gradients(copy.deepcopy(module), num_batches)
    sharded_calls: list[str] = []

    def look(called: nn.Module, args: tuple) -> None:
        if any(isinstance(p, DTensor) for p in called.parameters()):
            sharded_calls.append(type(called).__name__)

    for submodule in module.modules():
        if isinstance(submodule, nn.Linear):
            submodule.register_forward_pre_hook(look)
    train(wrap(module), rank, num_batches, reversible=True)
    found = {name: p.grad for name, p in module.named_parameters() if p.grad is not None}
    found = {n: g.full_tensor() if isinstance(g, DTensor) else g for n, g in found.items()}
    found.pop("unused", None)  # DDP fills it with zeros
    return {
        "missing": sorted(expected.keys() ^ found.keys()),
        "difference": max(float((found[n] - expected[n]).abs().max()) for n in expected),
        "gradient": max(float(g.abs().max()) for g in expected.values()),
        "calls": module.calls(),
        "sharded_calls": sharded_calls,
        "world_size": dist.get_world_size(),
    }


def main(directory: Path) -> None:
    dist.init_process_group("gloo", timeout=timedelta(seconds=120))
    rank = dist.get_rank()
    for name, scenario in SCENARIOS.items():
        result = run(rank, **scenario)
        with open(directory / str(rank), "a") as file:
            file.write(json.dumps({"name": name, **result}) + "\n")
    dist.barrier()
    end_processes()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
