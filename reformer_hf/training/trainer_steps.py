"""Steps that runs of the Trainer share: where to go on from, training, keeping metrics."""

from pathlib import Path
from typing import Any

from transformers import Trainer, TrainerState, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME
from transformers.utils import logging

from reformer_hf.training.checkpoints import (
    SEAL,
    discard,
    is_whole,
    last_whole_checkpoint,
    step_of,
)

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


def clear_broken(broken: list[Path], whole: Path | None, asked: Any) -> None:
    """Take broken checkpoints away, with a warning: the Trainer would count them.

    Only what was cut before its seal is deleted. One without a seal may also be a plain Trainer's,
    and one whose seal does not fit was changed later: the one that is asked for stays, and so does
    what has no seal and is older than a whole one; complete ones get another name.

    Args:
        broken: checkpoints whose seal is missing or does not fit, oldest first.
        whole: the last whole checkpoint.
        asked: `resume_from_checkpoint`.
    """
    for path in broken:
        sealed = (path / SEAL).exists()
        if isinstance(asked, str) and Path(asked).resolve() == path.resolve():
            continue
        if not sealed and whole is not None and step_of(path) < step_of(whole):
            continue
        if sealed or (whole is None and (path / TRAINER_STATE_NAME).exists()):
            aside = path.with_name(f"broken-{path.name}")
            logger.warning(
                f"{path} is called {aside.name} now: its {SEAL} "
                + ("does not fit its files, which were changed since" if sealed else "is missing")
                + f". If it is good, --resume_from_checkpoint {aside} goes on from it"
                + (f" without {SEAL}" if sealed else "")
            )
            discard([aside] if aside.exists() else [])
            path.rename(aside)
        else:
            logger.warning(f"deleting {path}: it was cut while it was saved")
            discard([path])


def checkpoint_to_resume(arguments: TrainingArguments) -> str | None:
    """Find the checkpoint to go on from, and clear broken ones away.

    Raises:
        ValueError: if the output folder holds a run that nobody asked to go on, or the named
            checkpoint is broken.
    """
    asked, directory = arguments.resume_from_checkpoint, Path(str(arguments.output_dir))
    with arguments.main_process_first(desc="looking for checkpoints"):
        whole, broken = last_whole_checkpoint(directory)
        if asked and arguments.should_save:
            clear_broken(broken, whole, asked)
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
