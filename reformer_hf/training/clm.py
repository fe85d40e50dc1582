"""A causal language model trained with `Trainer`, from arguments to results."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerState, TrainingArguments, set_seed
from transformers.trainer import TRAINER_STATE_NAME
from transformers.utils import logging

from reformer_hf.models.modeling_reformer_hf import ReformerHFForCausalLM
from reformer_hf.training.causal_model import build_model, load_tokenizer
from reformer_hf.training.checkpoints import SEAL, discard, is_whole, last_whole_checkpoint
from reformer_hf.training.collator import ReformerDataCollator
from reformer_hf.training.data_arguments import DataTrainingArguments
from reformer_hf.training.language_model_data import load_language_model_data
from reformer_hf.training.model_arguments import PretrainedModelArguments
from reformer_hf.training.plots import write_curves
from reformer_hf.training.processes import hide_bars_unless
from reformer_hf.training.trainer import CausalLMTrainer

logger = logging.get_logger(__name__)


def train_clm(
    model_arguments: PretrainedModelArguments,
    data_arguments: DataTrainingArguments,
    training_arguments: TrainingArguments,
    callbacks: Sequence[TrainerCallback] = (),
) -> dict[str, Any]:
    """Train, evaluate and save, as far as the arguments say.

    The output folder gets the model, `train_results.json`, `eval_results.json`, `all_results.json`,
    `trainer_state.json`, `loss_curve.csv` and `loss_curve.png`.

    Args:
        model_arguments: which model.
        data_arguments: which data.
        training_arguments: how.
        callbacks: for the Trainer.

    Returns:
        The content of `all_results.json`.

    Raises:
        FloatingPointError: if training diverges.
        OSError: if something cannot be found or the disk is full.
        ValueError: if arguments do not fit together.
    """
    hide_bars_unless(training_arguments.local_process_index == 0)
    checkpoint = _checkpoint_to_resume(training_arguments)
    set_seed(training_arguments.seed)
    tokenizer = load_tokenizer(model_arguments)
    model = build_model(
        ReformerHFForCausalLM, model_arguments, tokenizer, data_arguments.block_size
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
        )
    _check_data(training_arguments, data)
    trainer = CausalLMTrainer(
        model=model,
        args=training_arguments,
        train_dataset=data.train if training_arguments.do_train else None,
        eval_dataset=data.validation if training_arguments.do_eval else None,
        processing_class=tokenizer,
        data_collator=ReformerDataCollator(tokenizer),
        callbacks=list(callbacks),
    )
    results: dict[str, Any] = {}
    if training_arguments.do_train:
        metrics = _train(trainer, checkpoint)
        trainer.save_model()
        results |= _keep(trainer, "train", metrics)
    if training_arguments.do_eval:
        results |= _keep(trainer, "eval", trainer.evaluate())
    if training_arguments.do_train:
        trainer.save_state()
        if trainer.is_world_process_zero():
            write_curves(trainer.state.log_history, Path(str(training_arguments.output_dir)))
        if training_arguments.push_to_hub:
            trainer.push_to_hub()
    return results


def _train(trainer: CausalLMTrainer, checkpoint: str | None) -> dict[str, Any]:
    """Train, or load the weights of a run that has come to its end: the Trainer would go on."""
    arguments = trainer.args
    if checkpoint is not None:
        state = TrainerState.load_from_json(str(Path(checkpoint, TRAINER_STATE_NAME)))
        done = state.epoch is not None and state.epoch >= arguments.num_train_epochs
        if state.global_step >= arguments.max_steps > 0 or (done and arguments.max_steps <= 0):
            trainer._load_from_checkpoint(checkpoint)
            trainer.state = state
            return {"epoch": state.epoch}
    return trainer.train(resume_from_checkpoint=checkpoint).metrics


def _keep(trainer: CausalLMTrainer, split: str, metrics: dict[str, Any]) -> dict[str, Any]:
    trainer.log_metrics(split, metrics)
    trainer.save_metrics(split, metrics)
    return metrics


def _check_data(arguments: TrainingArguments, data: Any) -> None:
    if not (arguments.do_train or arguments.do_eval):
        raise ValueError("there is nothing to do: give --do_train, --do_eval, or both")
    for wanted, rows, name in (
        (arguments.do_train, data.train, "train"),
        (arguments.do_eval, data.validation, "validation"),
    ):
        if wanted and rows is None:
            raise ValueError(f"do_{name[:5]}=True, but there is no {name} data; name a {name}_file")


def _checkpoint_to_resume(arguments: TrainingArguments) -> str | None:
    """Find the checkpoint to go on from, and delete broken ones.

    Raises:
        ValueError: if the output folder holds a run that nobody asked to go on, or the named
            checkpoint is broken.
    """
    asked, directory = arguments.resume_from_checkpoint, Path(str(arguments.output_dir))
    with arguments.main_process_first(desc="looking for checkpoints"):
        whole, broken = last_whole_checkpoint(directory)
        if asked and arguments.should_save:
            for path in broken:
                logger.warning(f"deleting {path}: it was cut while it was saved")
            discard(broken)
    if not asked or asked == "False":
        if arguments.do_train and whole is not None:
            raise ValueError(
                f"output_dir={directory} holds {whole.name} of another run: go on with "
                "--resume_from_checkpoint last, delete the folder or choose another one"
            )
        return None
    if asked in (True, "True", "true", "last"):
        return None if whole is None else str(whole)
    # One that another Trainer wrote has no seal.
    if not Path(asked, TRAINER_STATE_NAME).is_file() or (
        Path(asked, SEAL).exists() and not is_whole(Path(asked))
    ):
        raise ValueError(
            f"resume_from_checkpoint={asked}: there is no whole checkpoint; the last whole one of "
            f"output_dir is {whole}, which 'last' stands for"
        )
    return asked
