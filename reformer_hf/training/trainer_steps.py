"""Steps that runs of the Trainer share: where to go on from, training, keeping metrics."""

from pathlib import Path
from typing import Any

from transformers import Trainer, TrainerState, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME
from transformers.utils import logging

from reformer_hf.training.checkpoints import SEAL, is_whole, last_whole_checkpoint, set_aside

logger = logging.get_logger(__name__)


def train_or_load(trainer: Trainer, checkpoint: str | None) -> dict[str, Any]:
    """Train, or load the weights of a run that has come to its end: the Trainer would go on."""
    arguments = trainer.args
    if checkpoint is not None:
        state = TrainerState.load_from_json(str(Path(checkpoint, TRAINER_STATE_NAME)))
        done = state.epoch is not None and state.epoch >= arguments.num_train_epochs
        if state.global_step >= arguments.max_steps > 0 or (done and arguments.max_steps <= 0):
            best = state.best_model_checkpoint if arguments.load_best_model_at_end else None
            trainer._load_from_checkpoint(best if best and Path(best).is_dir() else checkpoint)
            trainer.state = state
            return {"epoch": state.epoch}
    return trainer.train(resume_from_checkpoint=checkpoint).metrics


def keep_metrics(trainer: Trainer, split: str, metrics: dict[str, Any]) -> dict[str, Any]:
    """Print metrics, and write them to `{split}_results.json` and `all_results.json`."""
    trainer.log_metrics(split, metrics)
    trainer.save_metrics(split, metrics)
    return metrics


def upload_or_describe(trainer: Trainer) -> None:
    """Upload the output folder with a model card if that is asked for, or else write the card."""
    if trainer.args.push_to_hub:
        trainer.push_to_hub()
    else:
        trainer.create_model_card()


def checkpoint_to_resume(arguments: TrainingArguments) -> str | None:
    """Find the checkpoint to go on from, and set broken ones aside but the one that is named.

    Raises:
        ValueError: if the output folder holds a run that nobody asked to go on, or the named
            checkpoint is broken.
    """
    asked, directory = arguments.resume_from_checkpoint, Path(str(arguments.output_dir))
    with arguments.main_process_first(desc="looking for checkpoints"):
        whole, broken = last_whole_checkpoint(directory)
        if asked and arguments.should_save:
            named = Path(str(asked)).resolve()
            for note in set_aside([path for path in broken if path.resolve() != named]):
                logger.warning(note)
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
