"""One of several processes that train and keep the first gradients; started by test_distributed.

Usage: accelerate launch --config_file CONFIG.yaml distributed_worker.py ARGUMENTS...

with the arguments of scripts/train_clm_no_trainer.py. The gradients of the first step, before they
are clipped, go to gradients.safetensors in `output_dir`. accelerate takes its FSDP plugin on
accelerators only, so its state is set by hand here; what the configuration says comes through the
environment, as it would there. Only memory of the host is not pinned, for want of an accelerator.
"""

import os
import weakref
from pathlib import Path

import torch
from accelerate import Accelerator, FullyShardedDataParallelPlugin
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DataLoaderConfiguration, DistributedType
from safetensors.torch import save_file
from torch.distributed.fsdp import CPUOffloadPolicy
from torch.distributed.tensor import DTensor

from reformer_hf.training.arguments import (
    DataTrainingArguments,
    LoopArguments,
    PretrainedModelArguments,
)
from reformer_hf.training.parsing import parse_arguments
from scripts import train_clm_no_trainer as script
from scripts.train_clm_no_trainer import Run, make_accelerator


def sharded_accelerator() -> Accelerator:
    """What `Accelerator()` is on accelerators under that configuration."""
    plugin = FullyShardedDataParallelPlugin()
    if isinstance(plugin.cpu_offload, CPUOffloadPolicy):
        plugin.cpu_offload = CPUOffloadPolicy(pin_memory=False)  # type: ignore[assignment]
    accelerator = Accelerator(
        cpu=True, dataloader_config=DataLoaderConfiguration(dispatch_batches=False)
    )
    for state in (PartialState._shared_state, AcceleratorState._shared_state):
        state["distributed_type"] = DistributedType.FSDP
    accelerator.state.fsdp_plugin = plugin
    return accelerator


def keep_gradients(run: Run) -> None:
    """Write the gradients of the first step when the loop is about to clip them."""
    clip = run.accelerator.clip_grad_norm_

    def keep_and_clip(*args):
        run.accelerator.clip_grad_norm_ = clip
        found = {}
        for name, parameter in run.model.named_parameters():
            gradient = parameter.grad
            if isinstance(gradient, DTensor):
                gradient = gradient.to(run.accelerator.device).full_tensor()
            found[name.removeprefix("module.")] = gradient.clone()
        if run.accelerator.is_main_process:
            folder = Path(run.arguments.output_dir)
            folder.mkdir(parents=True, exist_ok=True)
            save_file(found, folder / "gradients.safetensors")
        return clip(*args)

    run.accelerator.clip_grad_norm_ = keep_and_clip


def expect_the_model_gone_first(run: Run) -> None:
    """Fail if the process group is destroyed while a model that uses it is alive."""
    model, destroy = weakref.ref(run.model), torch.distributed.destroy_process_group

    def check_and_destroy(*args):
        assert model() is None, "a DDP model that outlives its group may wait for ever"
        destroy(*args)

    torch.distributed.destroy_process_group = check_and_destroy


def check_sharding(run: Run) -> None:
    layers = [m for m in run.model.modules() if type(m).__name__ == "FSDPReformerHFLayer"]
    assert len(layers) == 2, "each layer is sharded on its own"
    assert all(isinstance(parameter, DTensor) for parameter in run.model.parameters())


def main() -> None:
    torch.set_num_threads(1)
    sharded = os.environ.get("ACCELERATE_USE_FSDP") == "true"
    kinds = (PretrainedModelArguments, DataTrainingArguments, LoopArguments)
    model, data, arguments = parse_arguments(kinds)
    accelerator = sharded_accelerator() if sharded else make_accelerator(arguments)
    prepare = script.prepare_run

    def prepare_run(*args):
        run = prepare(*args)
        if arguments.max_grad_norm and run.in_backward is None:  # or nobody clips them
            keep_gradients(run)
        expect_the_model_gone_first(run)
        if sharded:
            check_sharding(run)
        return run

    script.prepare_run = prepare_run
    script.train_clm_no_trainer(model, data, arguments, accelerator)


if __name__ == "__main__":
    main()
