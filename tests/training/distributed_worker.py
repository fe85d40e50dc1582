"""One of several processes that train with FSDP2; started by test_distributed.

Usage: accelerate launch --config_file accelerate_fsdp2.yaml distributed_worker.py ARGUMENTS...

with the arguments of scripts/train_clm_no_trainer.py. accelerate takes its FSDP plugin on
accelerators only, so its state is set by hand here; what the configuration says comes through the
environment, as it would there. OFFLOAD=1 adds the policy that keeps parameters on the host.
"""

import os

import torch
from accelerate import Accelerator, FullyShardedDataParallelPlugin
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DataLoaderConfiguration, DistributedType
from torch.distributed.fsdp import CPUOffloadPolicy
from torch.distributed.tensor import DTensor

from reformer_hf.training import loop
from reformer_hf.training.data_arguments import DataTrainingArguments
from reformer_hf.training.loop_arguments import LoopArguments
from reformer_hf.training.model_arguments import PretrainedModelArguments
from reformer_hf.training.parsing import parse_arguments


def sharded_accelerator() -> Accelerator:
    """What `Accelerator()` is on accelerators under that configuration."""
    assert os.environ["ACCELERATE_USE_FSDP"] == "true"
    plugin = FullyShardedDataParallelPlugin()
    if os.environ.get("OFFLOAD") == "1":
        plugin.cpu_offload = CPUOffloadPolicy(pin_memory=False)  # type: ignore[assignment]
    accelerator = Accelerator(
        cpu=True, dataloader_config=DataLoaderConfiguration(dispatch_batches=False)
    )
    for state in (PartialState._shared_state, AcceleratorState._shared_state):
        state["distributed_type"] = DistributedType.FSDP
    accelerator.state.fsdp_plugin = plugin
    return accelerator


def main() -> None:
    torch.set_num_threads(1)
    kinds = (PretrainedModelArguments, DataTrainingArguments, LoopArguments)
    accelerator = sharded_accelerator()
    prepare, runs = loop.prepare_run, []

    def keep(*args):
        runs.append(prepare(*args))
        return runs[0]

    loop.prepare_run = keep
    loop.train_clm_no_trainer(*parse_arguments(kinds), accelerator)
    (run,) = runs
    layers = [m for m in run.model.modules() if type(m).__name__ == "FSDPReformerHFLayer"]
    assert len(layers) == 2, "each layer is sharded on its own"
    assert all(isinstance(parameter, DTensor) for parameter in run.model.parameters())


if __name__ == "__main__":
    main()
