"""A language model, causal or masked, trained with `Trainer`, from arguments to results."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)

from reformer_hf.models.modeling_heads import ReformerHFForMaskedLM
from reformer_hf.models.modeling_reformer_hf import ReformerHFForCausalLM
from reformer_hf.training.arguments import (
    DataTrainingArguments,
    MaskedDataArguments,
    PretrainedModelArguments,
)
from reformer_hf.training.build import build_model, load_tokenizer
from reformer_hf.training.checkpoints import run_settings
from reformer_hf.training.comparison import Comparison, compare, compare_masked
from reformer_hf.training.data.collator import IGNORE_INDEX, ReformerDataCollator
from reformer_hf.training.data.sources import check_splits, wanted_splits
from reformer_hf.training.data.text import (
    choose_block_size,
    data_settings,
    load_language_model_data,
)
from reformer_hf.training.data.token_bytes import tokens_are_bytes
from reformer_hf.training.fitting_steps import fitting_steps
from reformer_hf.training.plots import write_curves
from reformer_hf.training.processes import hide_bars_unless
from reformer_hf.training.record import add_to_record, describe_data
from reformer_hf.training.row_schedule import RowSchedule, choose_row_schedule
from reformer_hf.training.trainer import (
    CausalLMTrainer,
    MaskedLMTrainer,
    checkpoint_to_resume,
    run_callbacks,
    run_trainer,
)

MASK_TOKEN = "<mask>"


@dataclass(frozen=True)
class Task:
    """What tells one kind of language model from another.

    Attributes:
        model_class: of this package.
        trainer_class: how it is trained and evaluated.
        make_collator: makes batches, given the tokenizer.
        fields: of the configuration, whatever a checkpoint has.
        complete: gives the tokenizer what it lacks for this.
    """

    model_class: type[PreTrainedModel] = ReformerHFForCausalLM
    trainer_class: type[CausalLMTrainer] = CausalLMTrainer
    make_collator: Callable[[PreTrainedTokenizerBase], Any] = ReformerDataCollator
    fields: dict[str, Any] = field(default_factory=dict)
    complete: Callable[[PreTrainedTokenizerBase], None] = lambda tokenizer: None


def train_clm(
    model_arguments: PretrainedModelArguments,
    data_arguments: DataTrainingArguments,
    training_arguments: TrainingArguments,
    callbacks: Sequence[TrainerCallback] = (),
    task: Task | None = None,
    prepare: Callable[[Trainer], None] = lambda trainer: None,
) -> dict[str, Any]:
    """Train, evaluate and save, as far as the arguments say.

    The output folder gets the model, `train_results.json`, `eval_results.json`, `all_results.json`,
    `trainer_state.json`, `run_record.json`, `loss_curve.csv`, `loss_curve.png` and a model card.
    The score of the evaluation is compared with those of simple methods, on the main process.

    Args:
        model_arguments: which model.
        data_arguments: which data.
        training_arguments: how.
        callbacks: for the Trainer.
        task: which kind of language model; None for a causal one.
        prepare: is called with the Trainer before it runs; `use_run_card` of `reformer_hf.hub`
            makes the card ours.

    Returns:
        The content of `all_results.json`.

    Raises:
        FloatingPointError: if training diverges.
        OSError: if something cannot be found or the disk is full.
        ValueError: if arguments do not fit together.
    """
    task = task or Task()
    hide_bars_unless(training_arguments.local_process_index == 0)
    wanted = wanted_splits(training_arguments, ("train", "validation"))
    output = Path(str(training_arguments.output_dir))
    resume, name = training_arguments.resume_from_checkpoint, model_arguments.model_name_or_path
    if resume and not training_arguments.do_train and name is None:
        raise ValueError(
            f"resume_from_checkpoint={resume} is for do_train: name the model to evaluate with "
            "model_name_or_path"
        )
    data = data_settings(data_arguments, output)
    settings = run_settings(model_arguments, data, training_arguments.seed)
    checkpoint = checkpoint_to_resume(training_arguments, settings)
    trainer = _make_trainer(
        task, model_arguments, data_arguments, training_arguments, callbacks, wanted
    )
    prepare(trainer)

    lines: dict[str, float] = {}

    def compare_with_baselines(evaluation: dict[str, Any]) -> dict[str, Any]:
        comparison = _compare(trainer, evaluation) if data_arguments.baselines else None
        if comparison is None:
            return {}
        print(f"\n{comparison}")
        lines.update(comparison.lines)
        if training_arguments.do_train:
            add_to_record(output, comparison.record())
        trainer.save_metrics("eval", evaluation | comparison.metrics())
        return comparison.metrics()

    def draw() -> dict[str, Any]:
        if training_arguments.do_train and trainer.is_world_process_zero():
            tokenizer: Any = trainer.processing_class
            in_bytes = not trainer.masked and tokens_are_bytes(tokenizer)
            log = trainer.state.log_history
            write_curves(log, output, references=lines or None, tokens_are_bytes=in_bytes)
        return {}

    return run_trainer(trainer, checkpoint, finish=draw, compare=compare_with_baselines)


def _choose_schedule(
    model: Any,
    data: DataTrainingArguments,
    training: Any,
    rows: int | None = None,
    evaluated: int = 0,
) -> RowSchedule | None:
    """The schedule of rows that grow, and `max_steps` if that is left to other arguments.

    Args:
        model: of the run.
        data: arguments.
        training: arguments, whose `max_steps` is set once the data are known: to the steps that fit
            `max_minutes`, else to those of the epochs.
        rows: of the data; None before they are known.
        evaluated: rows of an evaluation.
    """
    block_size = choose_block_size(data.block_size, model.config)
    processes = training.world_size * max(1, training.n_gpu)
    choose = partial(choose_row_schedule, data, training, block_size, processes=processes)
    schedule = choose(max_steps=training.max_steps, rows=rows)
    if schedule is None or rows is None or training.max_steps > 0:
        return schedule
    minutes = getattr(training, "max_minutes", None)
    timed = None if minutes is None else fitting_steps(model, training, schedule, evaluated)
    training.max_steps = timed or schedule.max_steps
    return choose(max_steps=training.max_steps)


def _compare(trainer: CausalLMTrainer, evaluation: dict[str, Any]) -> Comparison | None:
    """Compare the evaluation with baselines; only the main process gets the comparison."""
    train, held_out = (
        getattr(rows, "rows", rows) for rows in (trainer.train_dataset, trainer.eval_dataset)
    )
    tokenizer: Any = trainer.processing_class
    model: Any = trainer.model
    vocabulary, comparison = model.config.vocab_size, None
    targets = _count_targets(trainer, vocabulary) if trainer.masked else None
    if trainer.is_world_process_zero() and targets is not None:
        special = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
        comparison = compare_masked(evaluation, train, targets, sorted(special))
    elif trainer.is_world_process_zero():
        comparison = compare(evaluation, train, held_out, tokenizer, vocabulary)
    trainer.accelerator.wait_for_everyone()
    return comparison


def _count_targets(trainer: CausalLMTrainer, vocabulary: int) -> np.ndarray:
    """How often the evaluation asks for each token, (vocabulary,), of all processes together."""
    counts = torch.zeros(vocabulary, dtype=torch.int64)
    for batch in trainer.get_eval_dataloader():
        labels = batch["labels"].cpu()
        counts += labels[labels != IGNORE_INDEX].bincount(minlength=vocabulary)
    total: Any = trainer.accelerator.reduce(counts.to(trainer.accelerator.device), "sum")
    return total.cpu().numpy()


def _make_trainer(
    task: Task,
    model_arguments: PretrainedModelArguments,
    data_arguments: DataTrainingArguments,
    training_arguments: TrainingArguments,
    callbacks: Sequence[TrainerCallback],
    wanted: Sequence[str],
) -> CausalLMTrainer:
    """Load tokenizer, model and data, and set the Trainer up."""
    set_seed(training_arguments.seed)
    tokenizer = load_tokenizer(model_arguments)
    task.complete(tokenizer)
    model = build_model(
        task.model_class,
        model_arguments,
        tokenizer,
        data_arguments.block_size,
        task_fields=task.fields,
    )
    if "train" in wanted:
        _choose_schedule(model, data_arguments, training_arguments)  # errors before the data
    # The other processes wait for the first, and then find what it made in the cache.
    with training_arguments.main_process_first(desc="preparing the data"):
        data = load_language_model_data(
            data_arguments,
            tokenizer,
            model.config,
            model_arguments.cache_dir,
            model_arguments.token,
            training_arguments.seed,
            Path(str(training_arguments.output_dir)),
        )
    rows = {"train": data.train, "validation": data.validation}
    check_splits(wanted, rows)
    schedule = None
    if "train" in wanted and data_arguments.row_lengths is not None:
        schedule = _choose_schedule(
            model,
            data_arguments,
            training_arguments,
            rows=len(data.train),  # type: ignore[arg-type]
            evaluated=len(data.validation or ()) if "validation" in wanted else 0,
        )
    return task.trainer_class(
        model=model,
        args=training_arguments,
        train_dataset=rows["train"] if "train" in wanted else None,
        eval_dataset=rows["validation"] if "validation" in wanted else None,
        processing_class=tokenizer,
        data_collator=task.make_collator(tokenizer),
        callbacks=[
            *callbacks,
            *run_callbacks(
                training_arguments, **describe_data(data_arguments), row_schedule=schedule
            ),
        ],
        row_schedule=schedule,
    )


def train_mlm(
    model_arguments: PretrainedModelArguments,
    data_arguments: MaskedDataArguments,
    training_arguments: TrainingArguments,
    callbacks: Sequence[TrainerCallback] = (),
    prepare: Callable[[Trainer], None] = lambda trainer: None,
) -> dict[str, Any]:
    """Train, evaluate and save, as :func:`train_clm` does."""
    probability = data_arguments.mlm_probability
    task = Task(
        model_class=ReformerHFForMaskedLM,
        trainer_class=MaskedLMTrainer,
        make_collator=partial(ReformerDataCollator, mlm=True, mlm_probability=probability),
        fields={"is_decoder": False},
        complete=add_mask_token,
    )
    return train_clm(model_arguments, data_arguments, training_arguments, callbacks, task, prepare)


def add_mask_token(tokenizer: PreTrainedTokenizerBase) -> None:
    """Give a tokenizer a mask token if it has none; it is read in texts, as fill-mask needs it."""
    if tokenizer.mask_token is None:
        tokenizer.add_special_tokens({"mask_token": MASK_TOKEN})
        tokenizer.split_special_tokens = False
