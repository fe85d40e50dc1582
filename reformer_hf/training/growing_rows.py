"""A Trainer whose rows grow with the steps."""

from typing import Any

from torch.utils.data import DataLoader
from transformers import Trainer, TrainerCallback

from reformer_hf.training.argument_checks import refuse_unused
from reformer_hf.training.data.pieces import PieceBatches, RowPieces
from reformer_hf.training.row_schedule import RowSchedule, refuse_epochs

_UNUSED = ("train_sampling_strategy", "ignore_data_skip", "auto_find_batch_size")


class GrowingRowsTrainer(Trainer):
    """A `Trainer` that cuts its rows into pieces, as long and as many as a schedule says.

    The log has `row_length` beside the loss, and `epoch` counts passes over the data. Mix it in
    before another Trainer: `class Mine(GrowingRowsTrainer, Trainer)`.

    Args:
        args: with the `max_steps` of the schedule. Batch size and epochs have no effect.
        row_schedule: None for rows as they are.
        train_dataset: rows of the schedule's last length; the last one may be shorter.

    Raises:
        ValueError: if arguments or rows do not fit the schedule.
    """

    def __init__(
        self,
        *,
        args: Any,
        row_schedule: RowSchedule | None = None,
        train_dataset: Any = None,
        **kwargs: Any,
    ):
        self.row_schedule = row_schedule
        if row_schedule is not None:
            _check_arguments(args, row_schedule)
            if train_dataset is not None:
                train_dataset = RowPieces(train_dataset, row_schedule.row_lengths[-1])
        super().__init__(args=args, train_dataset=train_dataset, **kwargs)
        if row_schedule is not None:
            self.add_callback(_CountPasses(self))

    def piece_batches(self) -> PieceBatches | None:
        """The batches of the run; None if its rows do not grow."""
        rows = self.train_dataset
        if self.row_schedule is None or not isinstance(rows, RowPieces):
            return None
        args = self.args
        seed = args.seed if args.data_seed is None else args.data_seed
        parts = args.world_size * args.gradient_accumulation_steps
        return PieceBatches(rows, self.row_schedule, seed, parts, max(1, args.n_gpu))

    def get_train_dataloader(self) -> DataLoader:
        """The batches of the run, which are one epoch to the Trainer."""
        batches = self.piece_batches()
        if batches is None:
            return super().get_train_dataloader()
        args, rows = self.args, batches.rows
        loader = DataLoader(
            rows,
            batch_sampler=batches,
            collate_fn=self._get_collator_with_removed_columns(self.data_collator, "training"),
            num_workers=args.dataloader_num_workers,
            pin_memory=args.dataloader_pin_memory,
            persistent_workers=args.dataloader_persistent_workers,
            prefetch_factor=args.dataloader_prefetch_factor,
        )
        return self.accelerator.prepare(loader)

    def create_scheduler(self, *args: Any, **kwargs: Any) -> Any:
        """Make the schedule of the learning rate, which follows the tokens."""
        new = self.lr_scheduler is None
        scheduler = super().create_scheduler(*args, **kwargs)
        if new and self.row_schedule is not None:
            self.row_schedule.slow_down(scheduler)
        return scheduler

    def set_initial_training_values(self, args: Any, dataloader: DataLoader) -> Any:
        """Count the rows of the run as the schedule does."""
        values = super().set_initial_training_values(args, dataloader)
        if self.row_schedule is None:
            return values
        return (*values[:3], self.row_schedule.rows, *values[4:])

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Log, beside a loss the row length of its step."""
        if self.row_schedule is not None and "loss" in logs:
            logs["row_length"] = self.row_schedule.row_length(self.state.global_step - 1)
        super().log(logs, *args, **kwargs)


class _CountPasses(TrainerCallback):
    """Lets `epoch` say how often the data were seen: the Trainer knows one epoch, the run."""

    def __init__(self, trainer: GrowingRowsTrainer):
        batches = trainer.piece_batches()
        self.passes = batches.passes if batches is not None else None

    def on_step_end(self, args, state, control, **kwargs):
        if self.passes is not None:
            state.epoch = self.passes(state.global_step)


def _check_arguments(args: Any, schedule: RowSchedule) -> None:
    if args.max_steps != schedule.max_steps:
        raise ValueError(
            f"max_steps={args.max_steps}: the row_schedule has {schedule.max_steps}; give the same"
        )
    refuse_unused(args, "with row_lengths", *_UNUSED)
    refuse_epochs(args)
