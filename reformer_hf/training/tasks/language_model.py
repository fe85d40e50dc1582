"""A language model, causal or masked, trained with `Trainer`, from arguments to results."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

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
from reformer_hf.training.callbacks import Clock
from reformer_hf.training.checkpoints import settings_of
from reformer_hf.training.data.collator import ReformerDataCollator
from reformer_hf.training.data.text import data_settings, load_language_model_data
from reformer_hf.training.plots import write_curves
from reformer_hf.training.processes import hide_bars_unless
from reformer_hf.training.record import RunRecord, describe_data
from reformer_hf.training.storage import readable_disk_errors
from reformer_hf.training.trainer import (
    CausalLMTrainer,
    MaskedLMTrainer,
    checkpoint_to_resume,
    keep_metrics,
    train_or_load,
    upload_or_describe,
)

MASK_TOKEN = "<mask>"

_KEPT = "The checkpoints are whole, and training need not be repeated."


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
    output = Path(str(training_arguments.output_dir))
    settings = run_settings(model_arguments, data_arguments, training_arguments.seed, output)
    checkpoint = checkpoint_to_resume(training_arguments, settings)
    trainer = _make_trainer(task, model_arguments, data_arguments, training_arguments, callbacks)
    prepare(trainer)
    results: dict[str, Any] = {}
    if training_arguments.do_train:
        metrics = train_or_load(trainer, checkpoint)
        with readable_disk_errors(output, _KEPT):
            trainer.save_model()
        results |= keep_metrics(trainer, "train", metrics)
    if training_arguments.do_eval:
        results |= keep_metrics(trainer, "eval", trainer.evaluate())
    if training_arguments.do_train:
        with readable_disk_errors(output, _KEPT):
            trainer.save_state()
            if trainer.is_world_process_zero():
                write_curves(trainer.state.log_history, output)
        upload_or_describe(trainer)
    return results


def _make_trainer(
    task: Task,
    model_arguments: PretrainedModelArguments,
    data_arguments: DataTrainingArguments,
    training_arguments: TrainingArguments,
    callbacks: Sequence[TrainerCallback],
) -> Trainer:
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
    _check_data(training_arguments, data)
    if training_arguments.should_save:
        print(f"Model: {model.num_parameters():,} parameters")
    return task.trainer_class(
        model=model,
        args=training_arguments,
        train_dataset=data.train if training_arguments.do_train else None,
        eval_dataset=data.validation if training_arguments.do_eval else None,
        processing_class=tokenizer,
        data_collator=task.make_collator(tokenizer),
        callbacks=[
            *callbacks,
            Clock(getattr(training_arguments, "max_minutes", None)),
            RunRecord(**describe_data(data_arguments)),
        ],
    )


def run_settings(
    model_arguments: PretrainedModelArguments,
    data_arguments: DataTrainingArguments,
    seed: int,
    output: Path,
) -> dict[str, Any]:
    """What a run may not change when it goes on: its data, its model and its seed.

    Args:
        model_arguments: which model.
        data_arguments: which data.
        seed: of weights, order, dropout and hashing.
        output: folder of the run, whose files are no data.
    """
    data = data_settings(data_arguments, output)
    return {"model": settings_of(model_arguments), "data": data, "seed": seed}


def _check_data(arguments: TrainingArguments, data: Any) -> None:
    if not (arguments.do_train or arguments.do_eval):
        raise ValueError("there is nothing to do: give --do_train, --do_eval, or both")
    for wanted, rows, name in (
        (arguments.do_train, data.train, "train"),
        (arguments.do_eval, data.validation, "validation"),
    ):
        if wanted and rows is None:
            raise ValueError(f"do_{name[:5]}=True, but there is no {name} data; name a {name}_file")


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
