"""What the Accelerate loop works with: processes, model, data, optimizer, schedule."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DataLoaderConfiguration, set_seed
from datasets import IterableDataset
from torch import nn
from torch.utils.data import DataLoader
from transformers import Adafactor, PreTrainedTokenizerBase, get_scheduler

from reformer_hf.models.modeling_reformer_hf import ReformerHFForCausalLM
from reformer_hf.training.build import build_model, load_tokenizer
from reformer_hf.training.collator import ReformerDataCollator
from reformer_hf.training.data_arguments import DataTrainingArguments
from reformer_hf.training.language_model_data import load_language_model_data
from reformer_hf.training.loop_arguments import LoopArguments
from reformer_hf.training.loop_checkpoints import find_checkpoint
from reformer_hf.training.model_arguments import PretrainedModelArguments
from reformer_hf.training.processes import hide_bars_unless
from reformer_hf.training.rows import FilledRows, ShuffledRows, fill


@dataclass
class Run:
    """What a run works with, prepared for its processes."""

    arguments: LoopArguments
    accelerator: Accelerator
    tokenizer: PreTrainedTokenizerBase
    model: Any
    optimizer: Any
    scheduler: Any
    train_loader: Any
    order: ShuffledRows | None
    eval_loader: Any
    max_steps: int
    checkpoint: Path | None


def make_accelerator(arguments: LoopArguments) -> Accelerator:
    """Set up the processes; accumulation is the loop's own, which weights tokens."""
    return Accelerator(
        mixed_precision=arguments.mixed_precision,
        log_with=arguments.report_to if arguments.with_tracking else None,
        project_dir=arguments.output_dir,
        dataloader_config=DataLoaderConfiguration(dispatch_batches=False),
    )


def prepare_run(
    model_arguments: PretrainedModelArguments,
    data_arguments: DataTrainingArguments,
    arguments: LoopArguments,
    accelerator: Accelerator,
) -> Run:
    """Load model and data, and share them out among the processes."""
    hide_bars_unless(accelerator.is_local_main_process)
    checkpoint = find_checkpoint(arguments.resume_from_checkpoint, Path(arguments.output_dir))
    set_seed(arguments.seed)
    tokenizer = load_tokenizer(model_arguments)
    model = build_model(
        ReformerHFForCausalLM, model_arguments, tokenizer, data_arguments.block_size
    )
    # The other processes wait for the first, and then find what it made in the cache.
    with accelerator.main_process_first():
        data = load_language_model_data(
            data_arguments,
            tokenizer,
            model.config,
            model_arguments.cache_dir,
            model_arguments.token,
            arguments.seed,
        )
    if data.train is None:
        raise ValueError("there is nothing to train on: give dataset_name or train_file")
    parts, collate = accelerator.num_processes, ReformerDataCollator(tokenizer)
    rows = fill(data.train, parts * arguments.per_device_train_batch_size)
    order = ShuffledRows(rows, arguments.seed) if isinstance(rows, FilledRows) else None
    train_loader = _loader(rows, arguments.per_device_train_batch_size, collate, order)
    eval_loader = None
    if data.validation is not None:
        rows = fill(data.validation, parts * arguments.per_device_eval_batch_size)
        eval_loader = _loader(rows, arguments.per_device_eval_batch_size, collate)
    optimizer = make_optimizer(model, arguments)
    model, optimizer, train_loader, eval_loader = accelerator.prepare(
        model, optimizer, train_loader, eval_loader
    )
    max_steps = _max_steps(arguments, train_loader, isinstance(data.train, IterableDataset))
    # Not prepared, or it would take a step for each process.
    scheduler = get_scheduler(
        arguments.lr_scheduler_type, optimizer, arguments.num_warmup_steps, max_steps
    )
    accelerator.register_for_checkpointing(scheduler)
    return Run(
        arguments,
        accelerator,
        tokenizer,
        model,
        optimizer,
        scheduler,
        train_loader,
        order,
        eval_loader,
        max_steps,
        checkpoint,
    )


def make_optimizer(model: nn.Module, arguments: LoopArguments) -> torch.optim.Optimizer:
    """Make the optimizer; biases and layer norms, which have one axis, do not decay."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {
            "params": [parameter for parameter in trained if (parameter.ndim > 1) == decays],
            "weight_decay": arguments.weight_decay if decays else 0.0,
        }
        for decays in (True, False)
    ]
    groups = [group for group in groups if group["params"]]
    if arguments.optim == "adafactor":
        beta1 = None if arguments.adam_beta1 == 0.9 else arguments.adam_beta1
        fixed = {"relative_step": False, "scale_parameter": False}
        return Adafactor(groups, lr=arguments.learning_rate, beta1=beta1, **fixed)
    betas = (arguments.adam_beta1, arguments.adam_beta2)
    return torch.optim.AdamW(groups, lr=arguments.learning_rate, betas=betas)


def _loader(rows: Any, batch_size: int, collate: Any, order: Any = None) -> DataLoader:
    # With a generator of its own, or an epoch would draw a number from the default one.
    generator = torch.Generator()
    return DataLoader(rows, batch_size, sampler=order, collate_fn=collate, generator=generator)


def _max_steps(arguments: LoopArguments, loader: Any, stream: bool) -> int:
    if arguments.max_train_steps is not None:
        return arguments.max_train_steps
    if stream:
        raise ValueError("streaming=True: a stream has no known end; give max_train_steps")
    steps = math.ceil(len(loader) / arguments.gradient_accumulation_steps)
    return arguments.num_train_epochs * steps
