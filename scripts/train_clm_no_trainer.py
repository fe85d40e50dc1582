"""Train a causal Reformer with a plain loop on Accelerate: from a configuration or a checkpoint.

A first run on a text of your own, with bytes as tokens:

    accelerate launch scripts/train_clm_no_trainer.py --train_file text.txt --block_size 4096
        --max_train_steps 400 --checkpointing_steps 100 --output_dir outputs/mine

What that leaves open the script chooses for a new model, and prints (docs/new_models.md).

All arguments may stand in a file, which those behind it replace. After an interruption add
`--resume_from_checkpoint last`: the run goes on bit for bit as if it had not been interrupted.
Sample configurations of accelerate for several processes are in scripts/configs/.

This file is the loop, from top to bottom: copy it and change what you like.
"""

import math
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # before anything makes a tensor
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

import torch
from accelerate import Accelerator, skip_first_batches
from accelerate.utils import DataLoaderConfiguration, set_seed
from datasets import IterableDataset
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm.auto import tqdm
from transformers import Adafactor, PreTrainedTokenizerBase, get_scheduler
from transformers.trainer_utils import has_length

from reformer_hf.hub.card import write_run_card
from reformer_hf.hub.upload import push_folder
from reformer_hf.models.modeling_reformer_hf import ReformerHFForCausalLM
from reformer_hf.training.allocator import reuse_freed_memory
from reformer_hf.training.argument_checks import warn_of_slow_bfloat16
from reformer_hf.training.arguments import (
    DataTrainingArguments,
    LoopArguments,
    PretrainedModelArguments,
)
from reformer_hf.training.build import (
    build_model,
    describe_size,
    limit_length,
    load_tokenizer,
)
from reformer_hf.training.checkpoints import (
    PROGRESS,
    Progress,
    check_settings,
    find_checkpoint,
    load_checkpoint,
    run_settings,
    save_checkpoint,
)
from reformer_hf.training.comparison import Comparison, compare
from reformer_hf.training.costs import count_tokens, describe_costs, mean_step_tokens, run_costs
from reformer_hf.training.data.collator import IGNORE_INDEX, ReformerDataCollator
from reformer_hf.training.data.pieces import PieceBatches, RowPieces
from reformer_hf.training.data.rows import FilledRows, ShuffledRows, fill
from reformer_hf.training.data.text import (
    LanguageModelData,
    choose_block_size,
    data_settings,
    load_language_model_data,
)
from reformer_hf.training.data.token_bytes import tokens_are_bytes
from reformer_hf.training.estimate import MEASURED_STEPS, PlannedStep, conclude
from reformer_hf.training.evaluation import Score, score_batches
from reformer_hf.training.memory import MemoryWatch
from reformer_hf.training.optimizer_in_backward import (
    OptimizerInBackward,
    check_processes,
    in_backward_settings,
)
from reformer_hf.training.optimizers import (
    check_machine,
    decay_groups,
    make_optimizer,
    muon_rate,
    muon_settings,
)
from reformer_hf.training.pace import Pace, StepTimer
from reformer_hf.training.parsing import parse_arguments, readable_errors
from reformer_hf.training.plots import write_curves
from reformer_hf.training.processes import (
    Interrupted,
    StopSignals,
    end_processes,
    hide_bars_unless,
)
from reformer_hf.training.recipe import new_model_recipe
from reformer_hf.training.record import RUN_RECORD, describe_data, make_record, with_schedule
from reformer_hf.training.resuming import compare_steps, given_hyperparameters
from reformer_hf.training.row_parts import RowParts
from reformer_hf.training.row_schedule import RowSchedule, choose_row_schedule
from reformer_hf.training.storage import write_json

HYPERPARAMETERS = (
    *("learning_rate", "per_device_train_batch_size", "gradient_accumulation_steps"),
    *("max_train_steps", "num_train_epochs", "optim", "lr_scheduler_type", "num_warmup_steps"),
    *("weight_decay", "max_grad_norm", "mixed_precision", "seed"),
)
"""Arguments that a model card shows."""


@dataclass
class Run:
    """What a run works with, prepared for its processes."""

    arguments: LoopArguments
    accelerator: Accelerator
    tokenizer: PreTrainedTokenizerBase
    model: Any
    optimizer: Any
    scheduler: Any
    data: LanguageModelData
    train_loader: Any
    order: ShuffledRows | PieceBatches | None
    eval_loader: Any
    max_steps: int
    checkpoint: Path | None
    row_parts: RowParts
    in_backward: OptimizerInBackward | None = None

    @property
    def schedule(self) -> RowSchedule | None:
        """Of rows that grow with the steps; None if all have the same length."""
        return self.order.schedule if isinstance(self.order, PieceBatches) else None


def main(arguments: list[str] | None = None) -> int:
    """Parse, train, write the card, upload; what a user can mend becomes a readable message."""
    kinds = (PretrainedModelArguments, DataTrainingArguments, LoopArguments)
    with readable_errors() as status:
        model, data, loop = parse_arguments(kinds, arguments, __doc__, new_model_recipe)
        accelerator = make_accelerator(loop)
        train_clm_no_trainer(model, data, loop, accelerator)
        if accelerator.is_main_process and not loop.dry_run:
            write_run_card(loop.output_dir, (loop.hub_model_id or "").rpartition("/")[2] or None)
            if loop.push_to_hub:
                upload(loop, model.token)
    return status.code


def train_clm_no_trainer(
    model_arguments: PretrainedModelArguments,
    data_arguments: DataTrainingArguments,
    arguments: LoopArguments,
    accelerator: Accelerator | None = None,
) -> dict[str, Any]:
    """Train, evaluate at the end of each epoch, and save; returns what `all_results.json` gets.

    The output folder gets the model, its tokenizer, `all_results.json`, `run_record.json`,
    `loss_curve.csv` and `loss_curve.png`, and the checkpoints.

    With `dry_run` a few steps are timed, and what it returns is `conclude` of `estimate` says.

    Raises:
        FloatingPointError: if training diverges.
        OSError: if something cannot be found or the disk is full.
        ValueError: if arguments do not fit together.
    """
    accelerator = accelerator or make_accelerator(arguments)
    run = prepare_run(model_arguments, data_arguments, arguments, accelerator)
    if arguments.dry_run:
        return dry_run(run)
    if arguments.with_tracking:
        settings = asdict(model_arguments) | asdict(data_arguments) | asdict(arguments)
        settings = {k: v for k, v in settings.items() if k != "token"}
        plain = {k: v if isinstance(v, int | float) else str(v) for k, v in settings.items()}
        accelerator.init_trackers("clm_no_trainer", plain)
    progress = train(run)
    save_model(run, Path(arguments.output_dir))
    score = evaluate(run)
    report(run, progress, score)
    costs = costs_of(progress)
    results = {"train_steps": progress.step, "epoch": progress.epoch}
    results |= {f"train_{name}": value for name, value in costs.items()}
    results |= {"perplexity": score.perplexity} | score.metrics() if score else {}
    if accelerator.is_main_process:
        print(f"Trained on {describe_costs(costs)}")
        output, in_bytes = Path(arguments.output_dir), tokens_are_bytes(run.tokenizer)
        comparison = compare_score(run, score) if data_arguments.baselines and score else None
        references = comparison.lines if comparison else None
        log = progress.log_history
        write_curves(log, output, references=references, tokens_are_bytes=in_bytes)
        record = make_run_record(run, progress, score, data_arguments)
        if comparison:
            print(f"\n{comparison}")
            results |= comparison.metrics()
            record |= comparison.record()
        write_json(output / "all_results.json", results)
        write_json(output / RUN_RECORD, record)
    accelerator.wait_for_everyone()
    del run
    accelerator.free_memory()
    end_processes()
    accelerator.end_training()
    return results


# --- set up: processes, model, data, optimizer, schedule ---


def make_accelerator(arguments: LoopArguments) -> Accelerator:
    """Set up the processes; accumulation is the loop's own, which weights tokens."""
    accelerator = Accelerator(
        mixed_precision=arguments.mixed_precision,
        log_with=arguments.report_to if arguments.with_tracking else None,
        project_dir=arguments.output_dir,
        dataloader_config=DataLoaderConfiguration(dispatch_batches=False),
    )
    warn_of_slow_bfloat16(accelerator.device.type, accelerator.mixed_precision == "bf16")
    return accelerator


def prepare_run(
    model_arguments: PretrainedModelArguments,
    data_arguments: DataTrainingArguments,
    arguments: LoopArguments,
    accelerator: Accelerator,
) -> Run:
    """Load model and data, and share them out among the processes."""
    hide_bars_unless(accelerator.is_local_main_process)
    check_machine(arguments.muon_learning_rate, accelerator)
    check_processes(arguments.optimizer_in_backward, accelerator)
    checkpoint = find_start(model_arguments, data_arguments, arguments, accelerator)
    set_seed(arguments.seed)
    tokenizer = load_tokenizer(model_arguments)
    model = build_model(
        ReformerHFForCausalLM, model_arguments, tokenizer, data_arguments.block_size
    )
    choose_schedule = partial(
        choose_row_schedule,
        data_arguments,
        arguments,
        choose_block_size(data_arguments.block_size, model.config),
        arguments.max_train_steps,
        accelerator.num_processes,
    )
    choose_schedule()  # errors before the data
    # The other processes wait for the first, and then find what it made in the cache.
    with accelerator.main_process_first():
        data = load_language_model_data(
            data_arguments,
            tokenizer,
            model.config,
            model_arguments.cache_dir,
            model_arguments.token,
            arguments.seed,
            Path(arguments.output_dir),
        )
    schedule = None
    if data_arguments.row_lengths is not None and data.train is not None:
        schedule = choose_schedule(len(data.train))  # type: ignore[arg-type]
        assert schedule is not None
        arguments.max_train_steps = schedule.max_steps
    limit_length(tokenizer, model)
    if accelerator.is_main_process:
        rows = arguments.per_device_train_batch_size * arguments.gradient_accumulation_steps
        print(describe_size(model, data.train, schedule or rows * accelerator.num_processes))
    train_loader, order, eval_loader = make_loaders(
        data, arguments, accelerator, tokenizer, schedule
    )
    row_parts = RowParts(arguments.sequence_parallel_size, accelerator.device)
    row_parts.attach(model)
    optimizer = choose_optimizer(model, arguments)
    model, optimizer, train_loader, eval_loader = accelerator.prepare(
        model, optimizer, train_loader, eval_loader
    )
    in_backward = None
    if arguments.optimizer_in_backward:
        in_backward = OptimizerInBackward(
            accelerator.unwrap_model(model), optimizer.optimizer, arguments.max_grad_norm
        )
    max_steps = choose_max_steps(arguments, train_loader, isinstance(data.train, IterableDataset))
    # Not prepared, or it would take a step for each process.
    scheduler = get_scheduler(
        arguments.lr_scheduler_type, optimizer, arguments.num_warmup_steps, max_steps
    )
    if schedule is not None:
        schedule.slow_down(scheduler)
    accelerator.register_for_checkpointing(scheduler)
    return Run(
        *(arguments, accelerator, tokenizer, model, optimizer, scheduler),
        *(data, train_loader, order, eval_loader, max_steps, checkpoint, row_parts, in_backward),
    )


def find_start(
    model_arguments: PretrainedModelArguments,
    data_arguments: DataTrainingArguments,
    arguments: LoopArguments,
    accelerator: Accelerator,
) -> Path | None:
    """The checkpoint to go on from, if any; refuses one of other data or another model."""
    output, is_main = Path(arguments.output_dir), accelerator.is_main_process
    with accelerator.main_process_first():
        checkpoint = find_checkpoint(
            arguments.resume_from_checkpoint, output, PROGRESS, tell=print if is_main else None
        )
        data = data_settings(data_arguments, output)
        settings = run_settings(model_arguments, data, arguments.seed)
        check_settings(output, settings, checkpoint, is_main)
    return checkpoint


def make_loaders(
    data: LanguageModelData,
    arguments: LoopArguments,
    accelerator: Accelerator,
    tokenizer: PreTrainedTokenizerBase,
    schedule: RowSchedule | None = None,
) -> tuple[DataLoader, ShuffledRows | PieceBatches | None, DataLoader | None]:
    """Batches to train on, their order if it is chosen here, and batches to evaluate on."""

    def loader(rows: Any, batch_size: int = 1, order: Any = None, batches: Any = None):
        # With a generator of its own, or an epoch would draw a number from the default one.
        own = torch.Generator()
        return DataLoader(rows, batch_size, None, order, batches, collate_fn=collate, generator=own)

    if data.train is None:
        raise ValueError("there is nothing to train on: give dataset_name or train_file")
    parts, collate = accelerator.num_processes, ReformerDataCollator(tokenizer)
    if schedule is not None:
        pieces = RowPieces(data.train, data.block_size)
        together = parts * arguments.gradient_accumulation_steps
        order = PieceBatches(pieces, schedule, arguments.seed, together)
        train_loader = loader(pieces, batches=order)
    else:
        rows = fill(data.train, parts * arguments.per_device_train_batch_size)
        order = ShuffledRows(rows, arguments.seed) if isinstance(rows, FilledRows) else None
        train_loader = loader(rows, arguments.per_device_train_batch_size, order)
    if data.validation is None:
        return train_loader, order, None
    rows = fill(data.validation, parts * arguments.per_device_eval_batch_size)
    return train_loader, order, loader(rows, arguments.per_device_eval_batch_size)


def choose_optimizer(model: nn.Module, arguments: LoopArguments) -> torch.optim.Optimizer:
    """Make the optimizer; biases and layer norms, which have one axis, do not decay."""
    if arguments.optim == "adafactor":
        trained = (each for each in model.parameters() if each.requires_grad)
        groups = decay_groups(trained, arguments.weight_decay)
        beta1 = None if arguments.adam_beta1 == 0.9 else arguments.adam_beta1
        fixed = {"relative_step": False, "scale_parameter": False}
        return Adafactor(groups, lr=arguments.learning_rate, beta1=beta1, **fixed)
    return make_optimizer(
        model,
        arguments.learning_rate,
        arguments.muon_learning_rate,
        muon_momentum=arguments.muon_momentum,
        weight_decay=arguments.weight_decay,
        betas=(arguments.adam_beta1, arguments.adam_beta2),
    )


def choose_max_steps(arguments: LoopArguments, loader: Any, is_stream: bool) -> int:
    """Steps of the whole run."""
    if arguments.max_train_steps is not None:
        return arguments.max_train_steps
    if is_stream:
        raise ValueError("streaming=True: a stream has no known end; give max_train_steps")
    steps = math.ceil(len(loader) / arguments.gradient_accumulation_steps)
    return arguments.num_train_epochs * steps


# --- the loop ---


def train(run: Run) -> Progress:
    """Train from the start or from a checkpoint, to the last step.

    Raises:
        Interrupted: after SIGTERM or Ctrl-C, when the checkpoint of that step is saved.
    """
    arguments, accelerator = run.arguments, run.accelerator
    progress = Progress()
    if run.checkpoint is not None:
        with given_hyperparameters(run.optimizer, run.scheduler):
            progress = load_checkpoint(accelerator, run.checkpoint)
        check_progress(run, progress)
    directory, every = Path(arguments.output_dir), arguments.steps_between_checkpoints
    start, pace = time.perf_counter() - progress.seconds, Pace()
    if not accelerator.is_local_main_process:
        pace.tell = None

    def save() -> None:
        save_checkpoint(accelerator, directory, progress, arguments.save_total_limit)

    bar = tqdm(
        initial=progress.step,
        total=run.max_steps,
        desc="training",
        disable=not accelerator.is_local_main_process,
    )
    run.model.train()
    pace.begin()
    with StopSignals() as signals, bar:
        while progress.step < run.max_steps:
            for group in groups_of_batches(run, progress):
                step_start, tokens = time.perf_counter(), tokens_of(run, group)
                progress.loss += take_step(run, group)
                advance(run, progress, group)
                progress.tokens += tokens
                progress.step_seconds += time.perf_counter() - step_start
                progress.seconds = time.perf_counter() - start
                bar.update()
                pace.end_step(tokens, progress.step, run.max_steps)
                log(run, progress)
                stopped = signals.agreed(accelerator)
                if stopped or (every and progress.step % every == 0):
                    save()
                if stopped:
                    raise Interrupted(directory, signals.caught)
                if progress.step >= run.max_steps:
                    break
            if progress.rows == 0:
                raise ValueError("dataset_name, train_file: there are no rows to train on")
            if progress.step < run.max_steps:
                progress.epoch, progress.rows = progress.epoch + 1, 0
                score = evaluate(run)
                progress.seconds = time.perf_counter() - start
                report(run, progress, score)
            if arguments.checkpointing_steps == "epoch":
                save()
    if signals.caught is not None:
        print("Training had just come to its end: going on to save the model.")
    return progress


def check_progress(run: Run, progress: Progress) -> None:
    """Check that rows are cut as before, and epochs have as many steps, where they decide.

    Raises:
        ValueError: if they are not or have not.
    """
    assert run.checkpoint is not None
    record = None if run.schedule is None else run.schedule.record()
    compare_steps(run.checkpoint, progress.row_schedule, record)
    if run.arguments.max_train_steps is None:
        rows = run.arguments.gradient_accumulation_steps * rows_at_a_time(run)
        steps_of_an_epoch = run.max_steps // run.arguments.num_train_epochs
        now = progress.epoch * steps_of_an_epoch + math.ceil(progress.rows / rows)
        if progress.step != now:
            raise ValueError(
                f"resume_from_checkpoint: the rows of its {progress.step} steps make {now} steps "
                "now. Give the batch size, accumulation and processes that the run had, or "
                "max_train_steps"
            )


def advance(run: Run, progress: Progress, batches: Sequence[dict[str, Tensor]]) -> None:
    """Count a step and its rows; where rows grow, also the passes over the data."""
    if isinstance(run.order, PieceBatches):
        schedule = run.order.schedule
        progress.row_schedule = schedule.record()
        progress.epoch = int(run.order.passes(progress.step + 1))
        progress.rows += schedule.rows_per_step[schedule.phase(progress.step)]
    else:
        progress.rows += len(batches) * rows_at_a_time(run)
    progress.step += 1


def groups_of_batches(run: Run, progress: Progress) -> Iterator[list[dict[str, Tensor]]]:
    """The batches of an epoch that are not seen yet, those of a step together.

    Where rows grow, those of the whole run.
    """
    loader: Any = run.train_loader
    seen, rest = divmod(progress.rows, rows_at_a_time(run))
    if run.schedule is not None:
        seen, rest = progress.step * run.arguments.gradient_accumulation_steps, 0
    if rest:
        raise ValueError(
            f"resume_from_checkpoint: the run had seen {progress.rows} rows of an epoch, which is "
            f"no multiple of {rows_at_a_time(run)}; give the number of processes and the "
            "per_device_train_batch_size that it had"
        )
    if seen:
        loader = skip_first_batches(loader, seen)
    loader.set_epoch(progress.epoch)
    if isinstance(run.order, ShuffledRows):  # which a loader that skips batches may not reach
        run.order.set_epoch(progress.epoch)
    batches = iter(loader)
    while group := list(islice(batches, run.arguments.gradient_accumulation_steps)):
        yield group


def rows_at_a_time(run: Run) -> int:
    """Rows of all processes in a forward pass."""
    return run.arguments.per_device_train_batch_size * run.accelerator.num_processes


def tokens_of(run: Run, batches: Sequence[dict[str, Tensor]]) -> int:
    """Tokens of the batches of all processes, without padding."""
    count = torch.tensor(sum(map(count_tokens, batches)), device=run.accelerator.device)
    return int(run.accelerator.reduce(count, "sum"))  # type: ignore[arg-type]


def take_step(run: Run, batches: Sequence[dict[str, Tensor]]) -> float:
    """One step of the optimizer on the batches of all processes, each token of the same weight.

    Returns:
        The loss per token.
    """
    accelerator, model = run.accelerator, run.model
    targets = [(batch["labels"][:, 1:] != IGNORE_INDEX).sum() for batch in batches]
    count: Any = accelerator.reduce(torch.stack(targets).sum(), "sum")
    count = count.clamp(min=1)
    loss = torch.zeros((), device=accelerator.device)
    passes = [part for batch in batches for part in run.row_parts.cut(batch)]
    for index, inputs in enumerate(passes):
        last = index == len(passes) - 1
        with nullcontext() if last else accelerator.no_sync(model):
            with accelerator.autocast():
                share = model(**inputs, num_items_in_batch=count).loss
            # DDP and FSDP take the mean over the processes, which the count has divided by already.
            accelerator.backward(share * accelerator.num_processes)
        loss += share.detach()
    if run.arguments.max_grad_norm and run.in_backward is None:
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


# --- before a run: what it will cost ---


def dry_run(run: Run) -> dict[str, Any]:
    """Take a few steps, score a batch, save a checkpoint, and say what all of it would take."""
    accelerator, progress = run.accelerator, Progress()
    timer, memory, schedule = StepTimer(), MemoryWatch(), None
    measured_steps, order = MEASURED_STEPS, run.order
    if isinstance(order, PieceBatches):  # steps of all lengths, with their shares
        schedule, order.schedule = order.schedule, order.schedule.sample()
        measured_steps = order.schedule.max_steps
    run.model.train()
    timer.begin()
    for group in islice(groups_of_batches(run, progress), measured_steps):
        tokens = tokens_of(run, group)
        take_step(run, group)
        timer.end_step(tokens)
    if isinstance(order, PieceBatches) and schedule is not None:
        order.schedule = schedule
    if not timer.seconds:
        raise ValueError("dataset_name, train_file: there are no rows to train on")
    gradients = None if run.in_backward is None else run.in_backward.gradient_bytes
    memory.after_steps(run.model, run.optimizer, gradients)
    start, evaluation, checkpoint = time.perf_counter(), None, None
    batches: Any = run.eval_loader
    if has_length(run.eval_loader):
        model = accelerator.unwrap_model(run.model)
        parts = (part for batch in islice(batches, 1) for part in run.row_parts.cut(batch))
        score_batches(model, parts, run.tokenizer, accelerator)
        evaluation = (time.perf_counter() - start) * len(batches)
    if run.arguments.checkpointing_steps is not None and accelerator.num_processes == 1:
        start = time.perf_counter()
        save_checkpoint(accelerator, Path(run.arguments.output_dir), progress, None)
        checkpoint = time.perf_counter() - start
    return conclude(
        timer,
        memory.result(),
        planned_steps(run, timer.mean_tokens()),
        run.max_steps,
        evaluation,
        checkpoint,
        tell=print if accelerator.is_main_process else lambda text: None,
    )


def planned_steps(run: Run, timed_tokens: float) -> Iterator[PlannedStep]:
    """The steps of a run with their tokens, and where it evaluates and saves."""
    every, together = run.arguments.checkpointing_steps, run.arguments.gradient_accumulation_steps
    sized = has_length(run.train_loader)
    epoch = math.ceil(len(run.train_loader) / together) if sized else math.inf
    step_rows = together * rows_at_a_time(run)
    tokens = mean_step_tokens(run.train_loader.dataset, step_rows, epoch) or timed_tokens
    for step in range(1, run.max_steps + 1):
        ends = step % epoch == 0 or step == run.max_steps
        saves = ends if every == "epoch" else every is not None and step % int(every) == 0
        if isinstance(run.order, PieceBatches):
            tokens = run.order.schedule.step_tokens(step - 1)
        yield PlannedStep(tokens, ends and run.eval_loader is not None, saves)


# --- what a run leaves: scores, log, model, record ---


def evaluate(run: Run) -> Score | None:
    """Score the rows that are held out; None if there are none."""
    if run.eval_loader is None:
        return None
    hidden = not run.accelerator.is_local_main_process
    bar = tqdm(run.eval_loader, "evaluation", disable=hidden, leave=False)
    batches = (part for batch in bar for part in run.row_parts.cut(batch))
    model = run.accelerator.unwrap_model(run.model)
    return score_batches(model, batches, run.tokenizer, run.accelerator)


def log(run: Run, progress: Progress) -> None:
    """Log the mean loss of the steps since the last entry, every `logging_steps`."""
    every = run.arguments.logging_steps
    if progress.step % every and progress.step != run.max_steps:
        return
    entry = {
        "step": progress.step,
        "epoch": progress.epoch,
        "loss": progress.loss / (progress.step % every or every),
        "learning_rate": run.scheduler.get_last_lr()[0],
        **muon_rate(run.optimizer),
    }
    if run.schedule is not None:
        entry["row_length"] = run.schedule.row_length(progress.step - 1)
    progress.loss = 0.0
    keep(run, progress, entry)


def report(run: Run, progress: Progress, score: Score | None) -> None:
    """Log and print a score."""
    if score is not None:
        entry = {"step": progress.step, "epoch": progress.epoch, **score.metrics()}
        keep(run, progress, entry)
        if run.accelerator.is_local_main_process:
            tqdm.write(f"epoch {progress.epoch}: {score}")


def keep(run: Run, progress: Progress, entry: dict[str, Any]) -> None:
    """Put an entry into the log, and send it to the trackers."""
    entry["seconds"] = round(progress.seconds, 3)
    progress.peak_memory_bytes = costs_of(progress)["peak_memory_bytes"] or 0
    progress.log_history.append(entry)
    run.accelerator.log({k: v for k, v in entry.items() if k != "step"}, step=progress.step)


def compare_score(run: Run, score: Score) -> Comparison:
    """Set the score beside those of counts of the training text and of compressors."""
    vocabulary = run.accelerator.unwrap_model(run.model).config.vocab_size
    data = run.data
    return compare(score.metrics(), data.train, data.validation, run.tokenizer, vocabulary)


def costs_of(progress: Progress) -> dict[str, Any]:
    """What a run has cost so far."""
    seconds, of_steps = (round(each, 3) for each in (progress.seconds, progress.step_seconds))
    return run_costs(progress.tokens, seconds, of_steps, progress.peak_memory_bytes)


def save_model(run: Run, directory: Path) -> None:
    """Save the model, gathered from all processes, and the tokenizer."""
    accelerator = run.accelerator
    state = accelerator.get_state_dict(run.model)
    if accelerator.is_main_process:
        accelerator.unwrap_model(run.model).save_pretrained(directory, state_dict=state)
        run.tokenizer.save_pretrained(directory)


def make_run_record(
    run: Run, progress: Progress, score: Score | None, data_arguments: DataTrainingArguments
) -> dict[str, Any]:
    """What a model card says of the run."""
    losses = [entry["loss"] for entry in progress.log_history if "loss" in entry]
    training = {
        "steps": progress.step,
        "epochs": progress.epoch,
        **costs_of(progress),
        "timed_from_step": 0,
        "last_loss": losses[-1] if losses else None,
    }
    hyperparameters = {name: getattr(run.arguments, name) for name in HYPERPARAMETERS}
    hyperparameters |= muon_settings(run.arguments) | in_backward_settings(run.arguments)
    hyperparameters["num_processes"] = run.accelerator.num_processes
    return make_record(
        run.accelerator.unwrap_model(run.model),
        describe_data(data_arguments),
        training,
        with_schedule(hyperparameters, run.schedule),
        {} if score is None else asdict(score),
    )


def upload(arguments: LoopArguments, token: str | None) -> None:
    """Upload the output folder, without its checkpoints."""
    name = arguments.hub_model_id or arguments.output_dir.rstrip("/").rpartition("/")[2]
    commit = push_folder(arguments.output_dir, name, token=token, exist_ok=True)
    print(f"Uploaded: {commit.commit_url}")


if __name__ == "__main__":
    reuse_freed_memory()
    sys.exit(main())
