"""transformers' `Trainer` with exact evaluation, sealed checkpoints and rows that are seen once.

And the steps that all runs of it share: where to go on from, training, keeping metrics.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader
from tqdm.auto import tqdm
from transformers import (
    PreTrainedTokenizerBase,
    Trainer,
    TrainerCallback,
    TrainerState,
    TrainingArguments,
)
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, EvalLoopOutput, has_length

from reformer_hf.training.argument_checks import refuse_unused
from reformer_hf.training.build import describe_size, limit_length
from reformer_hf.training.callbacks import (
    Clock,
    StopOnDivergence,
    StopOnSignal,
    TellPace,
    recorded_peak,
    recorded_seconds,
)
from reformer_hf.training.checkpoints import check_settings, find_checkpoint, rotate, seal
from reformer_hf.training.costs import count_tokens, describe_costs, run_costs
from reformer_hf.training.dry_run import dry_run, reads_targets
from reformer_hf.training.evaluation import score_batches
from reformer_hf.training.filled_rows import FilledRowsTrainer
from reformer_hf.training.fitting_steps import steps_of_checkpoint
from reformer_hf.training.growing_rows import GrowingRowsTrainer
from reformer_hf.training.optimizer_in_backward import OptimizerInBackwardTrainer
from reformer_hf.training.optimizers import MuonTrainer
from reformer_hf.training.processes import Interrupted, StopSignals
from reformer_hf.training.record import RUN_RECORD, RunRecord
from reformer_hf.training.resuming import (
    check_complete,
    check_step,
    given_hyperparameters,
    write_step,
)
from reformer_hf.training.row_parts import RowPartsTrainer
from reformer_hf.training.row_schedule import RowSchedule
from reformer_hf.training.smoothing import NextTokenTrainer
from reformer_hf.training.storage import readable_disk_errors

_KEPT = "The checkpoints are whole, and training need not be repeated."


class SealedCheckpoints(RowPartsTrainer, OptimizerInBackwardTrainer, MuonTrainer):
    """A `Trainer` that seals each checkpoint when it is whole, and only then deletes older ones.

    A full disk and a loss that is no number end the run with a readable error. Mix it in before
    another Trainer: `class Mine(SealedCheckpoints, Seq2SeqTrainer)`.
    """

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.add_callback(StopOnDivergence())
        limit_length(self.processing_class, self.model)

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Write the Trainer's card, without a base model where there is none."""
        config: Any = getattr(self.model, "config", None)
        name = getattr(config, "_name_or_path", None)
        if name == "":
            config._name_or_path = str(self.args.output_dir)  # folders are not named
        try:
            super().create_model_card(*args, **kwargs)
        finally:
            if name == "":
                config._name_or_path = name

    def create_scheduler(self, *args: Any, **kwargs: Any) -> Any:
        """Make the schedule; names that it does not know are the user's."""
        try:
            return super().create_scheduler(*args, **kwargs)
        except TypeError as error:
            raise ValueError(
                f"lr_scheduler_kwargs={self.args.lr_scheduler_kwargs}: does not fit "
                f"lr_scheduler_type={self.args.lr_scheduler_type} ({error})"
            ) from error

    def _determine_best_metric(self, metrics: Any, trial: Any) -> bool:
        try:
            return super()._determine_best_metric(metrics, trial)
        except KeyError as error:
            raise ValueError(
                f"metric_for_best_model={self.args.metric_for_best_model!r}: evaluations have "
                f"{list(metrics)}; choose one of them"
            ) from error

    def _init_training_state(
        self, max_steps: Any, steps: Any, epochs: Any, resume_from_checkpoint: Any, trial: Any
    ) -> tuple[int, int]:
        if resume_from_checkpoint is not None:
            check_step(Path(resume_from_checkpoint), step_record(self))
        return super()._init_training_state(max_steps, steps, epochs, resume_from_checkpoint, trial)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        with given_hyperparameters(self.optimizer, self.lr_scheduler):
            super()._load_optimizer_and_scheduler(checkpoint)

    def _get_dataloader(self, *args: Any, is_training: bool = False, **kwargs: Any) -> DataLoader:
        """Make batches; `dataloader_drop_last` is for training, and no row goes unevaluated."""
        drop_last = self.args.dataloader_drop_last
        self.args.dataloader_drop_last = drop_last and is_training
        try:
            return super()._get_dataloader(*args, is_training=is_training, **kwargs)
        finally:
            self.args.dataloader_drop_last = drop_last

    def _track_num_input_tokens(self, inputs: Any) -> None:
        """Count the tokens that are read, in any case: without padding unless it is asked for."""
        if self.args.include_num_input_tokens_seen == "all":
            return super()._track_num_input_tokens(inputs)
        tokens: Any = torch.tensor(count_tokens(inputs, reads_targets(self.model)))
        tokens = self.accelerator.reduce(tokens.to(self.args.device), "sum")
        self.state.num_input_tokens_seen += int(tokens)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        limit, directory = self.args.save_total_limit, Path(str(self.args.output_dir))
        written = directory / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        self.args.save_total_limit = None  # nothing is deleted before the new one is sealed
        try:
            with readable_disk_errors(directory, "The checkpoints before this one are whole."):
                super()._save_checkpoint(model, trial)
                self.accelerator.wait_for_everyone()
                if self.args.should_save:
                    write_step(written, step_record(self))
                    seal(written)
        finally:
            self.args.save_total_limit = limit
        if self.args.should_save:
            kept = (written, Path(self.state.best_model_checkpoint or written))
            rotate(directory, limit, set(kept))


class CausalLMTrainer(NextTokenTrainer, GrowingRowsTrainer, FilledRowsTrainer, SealedCheckpoints):
    """A `Trainer` for causal language models.

    What differs, beside the sealed checkpoints: any number of processes trains on the same rows
    (:class:`FilledRowsTrainer`); an evaluation weights each token the same and knows bits per byte.

    The arguments are those of `Trainer` and of `GrowingRowsTrainer`; `processing_class` is the
    tokenizer. An evaluation keeps no predictions, so there are no metrics computed of them.
    """

    def __init__(self, *, args: Any, **kwargs: Any):
        if args.accelerator_config.dispatch_batches is None:
            # Or one process would read a stream for all, and batches would need equal lengths.
            args.accelerator_config.dispatch_batches = False
        for name in ("compute_metrics", "preprocess_logits_for_metrics"):
            if kwargs.get(name) is not None:
                raise ValueError(
                    f"{name}: a {type(self).__name__} keeps no predictions; use transformers' "
                    "Trainer, or leave it out"
                )
        unused = ("bf16_full_eval", "fp16_full_eval", "batch_eval_metrics", "include_for_metrics")
        refuse_unused(args, f"with {type(self).__name__}", *unused)
        super().__init__(args=args, **kwargs)

    def evaluation_loop(
        self,
        dataloader: DataLoader,
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        """Score the rows; no predictions are kept."""
        model: Any = self.model
        if not self.accelerator._models and self.model_wrapped is model:
            self.model_wrapped = self.accelerator.prepare_model(model, evaluation_mode=True)
        assert isinstance(self.processing_class, PreTrainedTokenizerBase)
        length = len(dataloader) if has_length(dataloader) else None
        hidden = self.args.disable_tqdm or not self.is_local_process_zero()
        rows: Any = dataloader
        bar = tqdm(rows, description, total=length, disable=hidden, leave=False)
        batches = (
            part for batch in bar for part in self.row_parts.cut(self._prepare_inputs(batch))
        )
        # Rather than the wrapper of DDP, which has nothing to do here.
        score = score_batches(model, batches, self.processing_class, self.accelerator, self.masked)
        metrics = score.metrics(metric_key_prefix)
        rows = getattr(getattr(dataloader, "dataset", None), "rows", None)
        samples = len(rows) if rows is not None and has_length(rows) else 0
        return EvalLoopOutput(None, None, metrics, samples)  # type: ignore[arg-type]


class MaskedLMTrainer(CausalLMTrainer):
    """The same for masked language models; every evaluation hides the same tokens."""

    masked = True

    def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader:
        """Batches whose masks the seed decides, whatever was drawn before."""
        collator: Any = self.data_collator
        self.data_collator = replace(collator, seed=self.args.seed)
        try:
            return super().get_eval_dataloader(eval_dataset)
        finally:
            self.data_collator = collator


def checkpoint_to_resume(
    arguments: TrainingArguments, settings: Mapping[str, Any] | None = None
) -> str | None:
    """Find the checkpoint to go on from, and set broken ones aside but the one that is named.

    Args:
        arguments: with `output_dir` and `resume_from_checkpoint`, which is a folder or `last`.
        settings: JSON values that decide what is trained; recorded in `output_dir`.

    Returns:
        The checkpoint's folder; None to start at step 0, or without `do_train`.

    Raises:
        ValueError: if the output folder holds a run that nobody asked to go on, the named
            checkpoint is broken, or the run began with other settings.
    """
    if not arguments.do_train:
        return None
    directory, speaks = Path(str(arguments.output_dir)), arguments.should_save
    with arguments.main_process_first(desc="looking for checkpoints"):
        asked, tell = arguments.resume_from_checkpoint, print if speaks else None
        checkpoint = find_checkpoint(asked, directory, tell=tell)
        planned = steps_of_checkpoint(checkpoint)
        if arguments.max_steps < 1 and getattr(arguments, "max_minutes", None) is not None:
            arguments.max_steps = planned or arguments.max_steps  # another timing would differ
        if checkpoint is not None:
            state = _state_of(checkpoint)
            if state.global_step != planned and not _is_over(state, arguments):
                check_complete(checkpoint)
        if settings is not None:
            check_settings(directory, settings, checkpoint, speaks)
    return None if checkpoint is None else str(checkpoint)


def train_or_load(trainer: Trainer, checkpoint: str | None) -> dict[str, Any]:
    """Train, or load the weights of a run that has come to its end: the Trainer would go on.

    SIGTERM and Ctrl-C end training after the step, with a checkpoint.

    Raises:
        Interrupted: then, saying what is there to go on from.
    """
    arguments, directory = trainer.args, Path(str(trainer.args.output_dir))
    if checkpoint is not None:
        state = _state_of(Path(checkpoint))
        if _is_over(state, arguments):
            best = state.best_model_checkpoint if arguments.load_best_model_at_end else None
            trainer._load_from_checkpoint(best if best and Path(best).is_dir() else checkpoint)
            # The file says what the main process is.
            state.is_local_process_zero = trainer.is_local_process_zero()
            state.is_world_process_zero = trainer.is_world_process_zero()
            trainer.state = state
            _write_missing_record(trainer)
            return {"epoch": state.epoch}
    with StopSignals() as signals:
        stop = StopOnSignal(signals, trainer.accelerator)
        trainer.add_callback(stop)
        try:
            metrics = trainer.train(resume_from_checkpoint=checkpoint).metrics
        except KeyboardInterrupt as error:
            raise Interrupted(directory) from error
        finally:
            trainer.remove_callback(stop)
    if stop.stopped:
        raise Interrupted(directory, signals.caught)
    if signals.caught is not None:
        print("Training had just come to its end: going on to save the model.")
    return metrics


def _state_of(checkpoint: Path) -> TrainerState:
    file = checkpoint / TRAINER_STATE_NAME
    try:
        return TrainerState.load_from_json(str(file))
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{file} cannot be read ({error}): resume from another checkpoint"
        ) from error


def _is_over(state: TrainerState, arguments: TrainingArguments) -> bool:
    if Clock(getattr(arguments, "max_minutes", None)).is_up(state):
        return True
    if arguments.max_steps > 0:
        return state.global_step >= arguments.max_steps
    return state.epoch is not None and state.epoch >= arguments.num_train_epochs


def _write_missing_record(trainer: Trainer) -> None:
    """Write the record of a run that was killed between its last checkpoint and its end."""
    for callback in trainer.callback_handler.callbacks:
        if (
            isinstance(callback, RunRecord)
            and not Path(str(trainer.args.output_dir), RUN_RECORD).exists()
        ):
            callback.on_train_end(trainer.args, trainer.state, trainer.control, trainer.model)


def run_trainer(
    trainer: Trainer,
    checkpoint: str | None,
    count: Callable[[str], dict[str, Any]] = lambda split: {},
    evaluate: Callable[[], dict[str, Any]] | None = None,
    finish: Callable[[], dict[str, Any]] = dict,
    compare: Callable[[dict[str, Any]], dict[str, Any]] = lambda metrics: {},
) -> dict[str, Any]:
    """Train, evaluate and save, as far as the arguments say; then upload, or write the card.

    Args:
        trainer: with all that it needs.
        checkpoint: what :func:`checkpoint_to_resume` found.
        count: further metrics of `train` and of `eval`, after them.
        evaluate: in place of the Trainer's.
        finish: is called before the state is saved, for what else a task leaves; returns metrics.
        compare: is given the metrics of `eval` once they are kept; keeps what it returns.

    Returns:
        The content of `all_results.json`; with `dry_run` what :func:`dry_run` returns.

    Raises:
        FloatingPointError: if training diverges.
        OSError: if the disk is full.
    """
    doing, results = trainer.args, {}
    if doing.do_train and doing.should_save:
        steps = getattr(trainer, "row_schedule", None) or step_rows(trainer)
        print(describe_size(trainer.model, trainer.train_dataset, steps))
    if getattr(doing, "dry_run", False):
        return dry_run(trainer, has_own_evaluation=evaluate is not None)
    metrics = train_or_load(trainer, checkpoint) if doing.do_train else {}
    with readable_disk_errors(Path(str(doing.output_dir)), _KEPT):
        if doing.do_train:
            trainer.save_model()
            totals = training_totals(trainer)
            if doing.should_save:
                print(f"Trained on {describe_costs(totals)}")
            known = {name: value for name, value in totals.items() if value is not None}
            metrics |= {f"train_{name}": value for name, value in known.items()}
            results |= keep_metrics(trainer, "train", metrics | count("train"))
        if doing.do_eval:
            metrics = (evaluate or trainer.evaluate)() | count("eval")
            results |= keep_metrics(trainer, "eval", metrics)
            results |= compare(metrics)
        results |= finish()
        if doing.do_train:
            trainer.save_state()
            upload_or_describe(trainer)
    return results


def run_callbacks(arguments: TrainingArguments, **record: Any) -> list[TrainerCallback]:
    """The clock and the record, which all runs have.

    Args:
        arguments: of the run, with `max_minutes` if they are ours.
        **record: arguments of `RunRecord`.
    """
    clock = Clock(getattr(arguments, "max_minutes", None))
    return [clock, TellPace(clock), RunRecord(**record)]


def step_rows(trainer: Trainer) -> int:
    """Rows of a step of the optimizer, in all processes."""
    return trainer.get_total_train_batch_size(trainer.args)


def step_record(trainer: Trainer) -> dict[str, Any]:
    """What decides the rows of the steps: their number in all processes, or a schedule."""
    schedule: RowSchedule | None = getattr(trainer, "row_schedule", None)
    return {"rows_per_step": step_rows(trainer)} if schedule is None else schedule.record()


def training_totals(trainer: Trainer) -> dict[str, Any]:
    """What training has cost, resumed runs included: `run_costs`, and whether the clock ended it.

    Tokens are those of steps that a Trainer of this package took.
    """
    state = trainer.state
    costs = run_costs(
        state.num_input_tokens_seen, **recorded_seconds(state), peak_bytes=recorded_peak(state)
    )
    return {"stopped_by_the_clock": state.global_step < state.max_steps, **costs}


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
