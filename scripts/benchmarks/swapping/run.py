"""One run of the swapping benchmark: steps of a new model on random tokens."""

import time
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import set_seed

from reformer_hf import ReformerHFConfig, ReformerHFForCausalLM
from reformer_hf.training.memory import MemoryWatch
from reformer_hf.training.optimizer_in_backward import OptimizerInBackward
from reformer_hf.training.optimizers import make_optimizer
from scripts.benchmarks.common.memory import PeakMemory

MUON = {"adamw": None, "muon": 2e-2}
"""Names of optimizers, to Muon's learning rate."""


class Case(NamedTuple):
    """What is measured.

    Attributes:
        optimizer: a key of `MUON`.
        in_backward: whether each layer is updated in backward.
    """

    optimizer: str
    in_backward: bool


class HeldGradients:
    """The bytes of gradients that are held at a time, at most."""

    def __init__(self, model: nn.Module) -> None:
        self.most = self._held = 0
        self._sizes: dict[nn.Parameter, int] = {}
        for parameter in model.parameters():
            parameter.register_post_accumulate_grad_hook(self._count)

    def _count(self, arrived: nn.Parameter) -> None:
        self._sizes[arrived] = arrived.numel() * arrived.element_size()
        held = sum(size for each, size in self._sizes.items() if each.grad is not None)
        self.most = max(self.most, held)


def build_model(shape: dict[str, Any], length: int) -> ReformerHFForCausalLM:
    """A model of local and LSH layers in turn, in training, that keeps no activations."""
    layers = [("local", "lsh")[index % 2] for index in range(shape["num_hidden_layers"])]
    config = ReformerHFConfig(
        attn_layers=layers,
        hidden_size=shape["hidden_size"],
        num_attention_heads=shape["num_attention_heads"],
        feed_forward_size=shape["feed_forward_size"],
        max_position_embeddings=length,
        activation_budget=0,
    )
    return ReformerHFForCausalLM(config).train()


def measure(case: Case, arguments: dict[str, Any], shape: dict[str, Any]) -> dict:
    """Warm up by a step, which makes the optimizer's state, and report bytes and seconds."""
    torch.set_num_threads(arguments["num_threads"])
    set_seed(0)
    model = build_model(shape, arguments["length"])
    optimizer = make_optimizer(model, 1e-3, MUON[case.optimizer])
    in_backward = OptimizerInBackward(model, optimizer) if case.in_backward else None
    held, memory = HeldGradients(model), PeakMemory()
    ids = torch.randint(2, model.config.vocab_size, (1, arguments["length"]))

    def step() -> Tensor:
        loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss.detach()

    step()
    held.most, seconds, losses = 0, [], []
    for _ in range(arguments["steps"]):
        with memory.phase("step"):
            start = time.perf_counter()
            losses.append(round(float(step()), 6))
            seconds.append(time.perf_counter() - start)
    watch = MemoryWatch()
    watch.after_steps(model, optimizer, None if in_backward is None else held.most)
    use = watch.result()
    return {
        "parameters": sum(each.numel() for each in model.parameters()),
        "parameter_bytes": use.parameters,
        "optimizer_bytes": use.optimizer,
        "held_gradient_bytes": held.most,
        **memory.entries("step"),
        "seconds_fastest_step": round(min(seconds), 3),
        "losses": losses,
    }


def answer(request: dict) -> dict:
    """Do the run of a request; see `run_process`."""
    return measure(Case(**request["case"]), request["arguments"], request["shape"])
