"""One of two processes that train a tiny model; started with torchrun by test_distributed.

Usage: torchrun --nproc_per_node 2 distributed_workers.py DIRECTORY

Each scenario trains a model in parallel on a share of a batch, and a copy alone on the whole
batch, then compares gradients and weights after a step of the optimizer. Each process writes one
JSON file, DIRECTORY/RANK, with what it found.
"""

import copy
import json
import sys
from collections.abc import Callable
from contextlib import nullcontext
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from accelerate import Accelerator, FullyShardedDataParallelPlugin
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType
from torch import Tensor, nn
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel
from torch.optim import SGD
from transformers import Trainer, TrainingArguments

from reformer_hf import ReformerHFForCausalLM, ReformerHFForConditionalGeneration
from reformer_hf.models.layers import ReformerHFLayer
from reformer_hf.training.processes import end_processes
from tests.models.seq2seq import tiny_seq2seq
from tests.models.tiny import WITH_NGRAMS, random_ids, tiny_lm

WORLD_SIZE = 2
Prepared = tuple[nn.Module, torch.optim.Optimizer, Callable[[Tensor], None]]


def make_model(**fields: Any) -> ReformerHFForCausalLM | ReformerHFForConditionalGeneration:
    """The same model in each process and for each number of rows."""
    if "decoder_form" in fields:
        return tiny_seq2seq(redraw_rotations=False, **fields).double().train()
    layers = ["local", "lsh", "lsh"]
    fields |= {"redraw_rotations": False}  # or processes would differ
    if "ff_sparsity" in fields:
        fields |= {"ff_sparsity_hard_share": 0.0}  # or they would, too
    return tiny_lm(attn_layers=layers, **fields).double().train()


def make_optimizer(model: nn.Module) -> torch.optim.Optimizer:
    return SGD(model.parameters(), lr=0.5)


def rows(rank: int, index: int) -> Tensor:
    """A process's share of one batch."""
    return random_ids(2, 13, seed=10 * rank + index)


def count_calls(model: nn.Module) -> dict[str, int]:
    """Counts the calls of every sub-layer, by name."""
    calls = {}
    for name, module in model.named_modules():
        if name.endswith((".attention", ".feed_forward")):
            calls[name] = 0

            def count(*_, name: str = name) -> None:
                calls[name] += 1

            module.register_forward_hook(count)
    return calls


def ddp(**options) -> Callable[[nn.Module], Prepared]:
    def prepare(model: nn.Module) -> Prepared:
        wrapped = DistributedDataParallel(model, **options)
        return wrapped, make_optimizer(model), Tensor.backward

    return prepare


def fsdp(model: nn.Module, **options: Any) -> Prepared:
    """FSDP2, each layer sharded on its own."""
    for module in model.modules():
        if isinstance(module, ReformerHFLayer):
            fully_shard(module, **options)
    fully_shard(model, **options)
    return model, make_optimizer(model), Tensor.backward


def accelerate_fsdp(model: nn.Module) -> Prepared:
    """FSDP2 as accelerate sets it up, by `_no_split_modules`.

    accelerate takes its FSDP plugin on accelerators only, so its state is set by hand.
    """
    AcceleratorState._reset_state()
    PartialState._reset_state()
    plugin = FullyShardedDataParallelPlugin(
        fsdp_version=2,
        auto_wrap_policy="transformer_based_wrap",
        cpu_ram_efficient_loading=False,
        reshard_after_forward=True,
    )
    accelerator = Accelerator(cpu=True)
    accelerator.state.distributed_type = DistributedType.FSDP
    accelerator.state.fsdp_plugin = plugin
    model, optimizer = accelerator.prepare(model, make_optimizer(model))
    return model, optimizer, accelerator.backward


SCENARIOS: dict[str, dict] = {
    "ddp": {"prepare": ddp()},
    "ddp, find_unused_parameters": {"prepare": ddp(find_unused_parameters=True)},
    "ddp, static_graph": {"prepare": ddp(static_graph=True), **WITH_NGRAMS},
    "ddp, no_sync": {"prepare": ddp(), "num_batches": 2},
    "ddp, chunked loss": {"prepare": ddp(), "chunk_size_lm_head": 4},
    "ddp, encoder-decoder": {"prepare": ddp(), "decoder_form": "cross_attention"},
    "ddp, packed decoder": {"prepare": ddp(), "decoder_form": "packed"},
    "fsdp": {"prepare": fsdp, **WITH_NGRAMS},
    "fsdp, accelerate, encoder-decoder": {
        "prepare": accelerate_fsdp,
        "decoder_form": "cross_attention",
    },
    "fsdp, accelerate, packed decoder": {"prepare": accelerate_fsdp, "decoder_form": "packed"},
    "fsdp, chunked loss": {"prepare": fsdp, "chunk_size_lm_head": 4},
    "fsdp, accelerate": {"prepare": accelerate_fsdp},
    "fsdp, accelerate, chunked loss": {"prepare": accelerate_fsdp, "chunk_size_lm_head": 4},
}


def whole(tensor: Tensor) -> Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def largest_difference(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    assert found.keys() == expected.keys(), found.keys() ^ expected.keys()
    return max(float((whole(found[n]) - expected[n]).detach().abs().max()) for n in expected)


def named_gradients(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def train_alone(num_batches: int, **fields: Any) -> tuple[nn.Module, dict[str, Tensor]]:
    """A copy after one step on the rows of all processes, and its gradients."""
    model = make_model(**fields)
    for index in range(num_batches):
        ids = torch.cat([rows(rank, index) for rank in range(WORLD_SIZE)])
        model(ids, labels=ids).loss.backward()
    gradients = copy.deepcopy(named_gradients(model))
    make_optimizer(model).step()
    return model, gradients


def run(
    rank: int, prepare: Callable[[nn.Module], Prepared], num_batches: int = 1, **fields: Any
) -> dict:
    expected_model, expected = train_alone(num_batches, **fields)
    model = make_model(**fields)
    start = copy.deepcopy(dict(model.named_parameters()))
    calls = count_calls(model)
    wrapped, optimizer, backward = prepare(model)
    sharded = sum(isinstance(parameter, DTensor) for parameter in wrapped.parameters())
    for index in range(num_batches):
        last, ids = index == num_batches - 1, rows(rank, index)
        with nullcontext() if last else wrapped.no_sync():
            backward(wrapped(ids, labels=ids).loss)
    difference = largest_difference(named_gradients(model), expected)
    optimizer.step()
    return {
        "gradient difference": difference,
        "gradient": max(float(gradient.abs().max()) for gradient in expected.values()),
        "weight difference": largest_difference(
            dict(model.named_parameters()), dict(expected_model.named_parameters())
        ),
        "step": largest_difference(start, dict(expected_model.named_parameters())),
        "calls": sorted(set(calls.values())),
        "sharded": sharded,
        "parameters": len(list(wrapped.parameters())),
        "wrapped": sorted(n for m in wrapped.modules() if (n := type(m).__name__)[:4] == "FSDP"),
    }


def run_mixed_precision() -> dict:
    """bfloat16 parameters under FSDP2, with streams left in float32, against plain layers."""
    found, ids = [], rows(dist.get_rank(), 0)
    for reversible in (True, False):
        model = make_model(reversible=reversible).float()
        calls = count_calls(model)
        policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, cast_forward_inputs=False)
        wrapped, _, backward = fsdp(model, mp_policy=policy)
        backward(wrapped(ids, labels=ids).loss)
        found.append((named_gradients(wrapped), sorted(set(calls.values()))))
    (gradients, calls), (plain, plain_calls) = found
    narrow, error = make_model().float(), ""
    wrapped, *_ = fsdp(narrow, mp_policy=MixedPrecisionPolicy(param_dtype=torch.bfloat16))
    try:
        wrapped(ids)
    except ValueError as raised:
        error = str(raised)
    return {
        "gradient difference": largest_difference(gradients, {n: whole(plain[n]) for n in plain}),
        "gradient": max(float(whole(gradient).abs().max()) for gradient in plain.values()),
        "calls": [*calls, *plain_calls],
        "error with narrow streams": error,
    }


def run_trainer(rank: int, directory: Path) -> dict:
    """One step of Trainer with its defaults, on rows with different numbers of labels."""
    AcceleratorState._reset_state()
    PartialState._reset_state()
    model, alone = make_model(), make_model()
    calls = count_calls(model)
    data = [{"input_ids": row, "labels": row.clone()} for row in random_ids(4, 13)]
    for index, row in enumerate(data):
        row["labels"][:index] = -100
    arguments = TrainingArguments(
        str(directory / "trainer"),
        max_steps=1,
        per_device_train_batch_size=2,
        optim="sgd",
        learning_rate=0.5,
        max_grad_norm=0.0,
        save_strategy="no",
        disable_tqdm=True,
        use_cpu=True,
    )
    trainer = Trainer(model, arguments, train_dataset=data)
    trainer.train()
    batch = {name: torch.stack([row[name] for row in data]) for name in data[0]}
    alone(**batch).loss.backward()
    SGD(alone.parameters(), lr=0.5).step()
    return {
        "processes": trainer.args.world_size,
        "wrapped": type(trainer.model_wrapped).__name__,
        "weight difference": largest_difference(
            dict(model.named_parameters()), dict(alone.named_parameters())
        ),
        "step": largest_difference(
            dict(make_model().named_parameters()), dict(alone.named_parameters())
        ),
        "calls": sorted(set(calls.values())),
    }


def main(directory: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", timeout=timedelta(seconds=60))
    rank = dist.get_rank()
    found = {"world size": dist.get_world_size()}
    for name, scenario in SCENARIOS.items():
        found[name] = run(rank, **scenario)
    found["mixed precision"] = run_mixed_precision()
    found["trainer"] = run_trainer(rank, directory)
    (directory / str(rank)).write_text(json.dumps(found), encoding="utf-8")
    dist.barrier()
    end_processes()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
