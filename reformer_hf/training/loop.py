"""A causal language model trained with a plain loop on Accelerate, from arguments to results."""

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, skip_first_batches
from torch import Tensor
from tqdm.auto import tqdm
from transformers.utils import logging

from reformer_hf.training.collator import IGNORE_INDEX
from reformer_hf.training.data_arguments import DataTrainingArguments
from reformer_hf.training.loop_arguments import LoopArguments
from reformer_hf.training.loop_checkpoints import Progress, load_checkpoint, save_checkpoint
from reformer_hf.training.loop_run import Run, make_accelerator, prepare_run
from reformer_hf.training.model_arguments import PretrainedModelArguments
from reformer_hf.training.plots import write_curves
from reformer_hf.training.processes import end_processes
from reformer_hf.training.run_record import RUN_RECORD, describe_data, make_record
from reformer_hf.training.scoring import Score, score_batches
from reformer_hf.training.storage import write_json

HYPERPARAMETERS = (
    "learning_rate",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "max_train_steps",
    "num_train_epochs",
    "optim",
    "lr_scheduler_type",
    "num_warmup_steps",
    "weight_decay",
    "max_grad_norm",
    "mixed_precision",
    "seed",
)
"""Arguments that a model card shows."""

logger = logging.get_logger(__name__)


def train_clm_no_trainer(
    model_arguments: PretrainedModelArguments,
    data_arguments: DataTrainingArguments,
    arguments: LoopArguments,
    accelerator: Accelerator | None = None,
) -> dict[str, Any]:
    """Train, evaluate at the end of each epoch, and save.

    The output folder gets the model, its tokenizer, `all_results.json`, `run_record.json`,
    `loss_curve.csv` and `loss_curve.png`, and the checkpoints.

    Args:
        model_arguments: which model.
        data_arguments: which data.
        arguments: how.
        accelerator: what the processes share; made from the arguments if None.

    Returns:
        The content of `all_results.json`.

    Raises:
        FloatingPointError: if training diverges.
        OSError: if something cannot be found or the disk is full.
        ValueError: if arguments do not fit together.
    """
    accelerator = accelerator or make_accelerator(arguments)
    run = prepare_run(model_arguments, data_arguments, arguments, accelerator)
    if arguments.with_tracking:
        settings = asdict(model_arguments) | asdict(data_arguments) | asdict(arguments)
        settings = {k: v for k, v in settings.items() if k != "token"}
        plain = {k: v if isinstance(v, int | float) else str(v) for k, v in settings.items()}
        accelerator.init_trackers("clm_no_trainer", plain)
    progress = train(run)
    score = evaluate(run)
    _report(run, progress, score)
    results = {"train_steps": progress.step, "epoch": progress.epoch}
    results |= {"perplexity": score.perplexity} | score.metrics() if score else {}
    save_model(run, Path(arguments.output_dir))
    if accelerator.is_main_process:
        write_json(Path(arguments.output_dir, "all_results.json"), results)
        write_curves(progress.log_history, Path(arguments.output_dir))
        record = _record(run, progress, score, data_arguments)
        write_json(Path(arguments.output_dir, RUN_RECORD), record)
    accelerator.wait_for_everyone()
    del run
    accelerator.free_memory()
    end_processes()
    accelerator.end_training()
    return results


def train(run: Run) -> Progress:
    """Train from the start or from a checkpoint, to the last step."""
    arguments, accelerator = run.arguments, run.accelerator
    progress = Progress()
    if run.checkpoint is not None:
        progress = load_checkpoint(accelerator, run.checkpoint)
        logger.info(f"going on from {run.checkpoint}")
    directory, every = Path(arguments.output_dir), arguments.steps_between_checkpoints
    start = time.perf_counter() - progress.seconds

    def save(name: str) -> None:
        progress.seconds = time.perf_counter() - start
        save_checkpoint(accelerator, directory, name, progress, arguments.save_total_limit)

    bar = tqdm(
        initial=progress.step,
        total=run.max_steps,
        desc="training",
        disable=not accelerator.is_local_main_process,
    )
    run.model.train()
    while progress.step < run.max_steps:
        for group in _groups(run, progress):
            progress.loss += take_step(run, group)
            progress.step += 1
            progress.rows += len(group) * _rows_at_a_time(run)
            bar.update()
            _log(run, progress)
            if every and progress.step % every == 0:
                save(f"step_{progress.step}")
            if progress.step >= run.max_steps:
                break
        if progress.rows == 0:
            raise ValueError("dataset_name, train_file: there are no rows to train on")
        name = f"epoch_{progress.epoch}"
        if progress.step < run.max_steps:
            progress.epoch, progress.rows = progress.epoch + 1, 0
            _report(run, progress, evaluate(run))
        if arguments.checkpointing_steps == "epoch":
            save(name)
    bar.close()
    progress.seconds = time.perf_counter() - start
    return progress


def take_step(run: Run, batches: Sequence[dict[str, Tensor]]) -> float:
    """One step of the optimizer on the batches of all processes, each token of the same weight.

    Returns:
        The loss per token.
    """
    accelerator, model = run.accelerator, run.model
    count = torch.stack([_targets(batch) for batch in batches]).sum()
    count: Any = accelerator.reduce(count, "sum")
    count = count.clamp(min=1)
    loss = torch.zeros((), device=accelerator.device)
    for index, batch in enumerate(batches):
        last = index == len(batches) - 1
        with nullcontext() if last else accelerator.no_sync(model):
            with accelerator.autocast():
                share = model(**batch, num_items_in_batch=count).loss
            # DDP and FSDP take the mean over the processes, which the count has divided by already.
            accelerator.backward(share * accelerator.num_processes)
        loss += share.detach()
    if run.arguments.max_grad_norm:
        accelerator.clip_grad_norm_(model.parameters(), run.arguments.max_grad_norm)
    run.optimizer.step()
    run.scheduler.step()
    run.optimizer.zero_grad()
    value = float(accelerator.reduce(loss, "sum"))  # type: ignore[arg-type]
    if not math.isfinite(value):
        raise FloatingPointError(
            f"the loss is {value}: training diverged. Start anew with a lower learning_rate (now "
            f"{run.arguments.learning_rate}), or with max_grad_norm"
        )
    return value


def evaluate(run: Run) -> Score | None:
    """Score the rows that are held out; None if there are none."""
    if run.eval_loader is None:
        return None
    batches = tqdm(
        run.eval_loader,
        "evaluation",
        disable=not run.accelerator.is_local_main_process,
        leave=False,
    )
    model = run.accelerator.unwrap_model(run.model)
    return score_batches(model, batches, run.tokenizer, run.accelerator)


def save_model(run: Run, directory: Path) -> None:
    """Save the model, gathered from all processes, and the tokenizer."""
    accelerator = run.accelerator
    state = accelerator.get_state_dict(run.model)
    if accelerator.is_main_process:
        accelerator.unwrap_model(run.model).save_pretrained(directory, state_dict=state)
        run.tokenizer.save_pretrained(directory)


def _record(
    run: Run, progress: Progress, score: Score | None, data_arguments: DataTrainingArguments
) -> dict[str, Any]:
    """What a model card says of the run."""
    losses = [entry["loss"] for entry in progress.log_history if "loss" in entry]
    training = {
        "steps": progress.step,
        "epochs": progress.epoch,
        "seconds": round(progress.seconds, 3),
        "timed_from_step": 0,
        "last_loss": losses[-1] if losses else None,
    }
    hyperparameters = {name: getattr(run.arguments, name) for name in HYPERPARAMETERS}
    return make_record(
        run.accelerator.unwrap_model(run.model),
        describe_data(data_arguments),
        training,
        hyperparameters | {"num_processes": run.accelerator.num_processes},
        {} if score is None else asdict(score),
    )


def _groups(run: Run, progress: Progress) -> Iterator[list[dict[str, Tensor]]]:
    """The batches of an epoch that are not seen yet, those of a step together."""
    loader: Any = run.train_loader
    seen, rest = divmod(progress.rows, _rows_at_a_time(run))
    if rest:
        raise ValueError(
            f"resume_from_checkpoint: the run had seen {progress.rows} rows of an epoch, which is "
            f"no multiple of {_rows_at_a_time(run)}; give the number of processes and the "
            "per_device_train_batch_size that it had"
        )
    if seen:
        loader = skip_first_batches(loader, seen)
    loader.set_epoch(progress.epoch)
    if run.order is not None:  # which a loader that skips batches may not reach
        run.order.set_epoch(progress.epoch)
    batches = iter(loader)
    while group := list(islice(batches, run.arguments.gradient_accumulation_steps)):
        yield group


def _rows_at_a_time(run: Run) -> int:
    return run.arguments.per_device_train_batch_size * run.accelerator.num_processes


def _targets(batch: dict[str, Tensor]) -> Tensor:
    return (batch["labels"][:, 1:] != IGNORE_INDEX).sum()


def _log(run: Run, progress: Progress) -> None:
    every = run.arguments.logging_steps
    if progress.step % every and progress.step != run.max_steps:
        return
    steps = progress.step % every or every
    entry = {
        "step": progress.step,
        "epoch": progress.epoch,
        "loss": progress.loss / steps,
        "learning_rate": run.scheduler.get_last_lr()[0],
    }
    progress.loss = 0.0
    _keep(run, progress, entry)


def _report(run: Run, progress: Progress, score: Score | None) -> None:
    if score is not None:
        entry = {"step": progress.step, "epoch": progress.epoch, **score.metrics()}
        _keep(run, progress, entry)
        if run.accelerator.is_local_main_process:
            tqdm.write(f"epoch {progress.epoch}: {score}")


def _keep(run: Run, progress: Progress, entry: dict[str, Any]) -> None:
    progress.log_history.append(entry)
    run.accelerator.log({k: v for k, v in entry.items() if k != "step"}, step=progress.step)
