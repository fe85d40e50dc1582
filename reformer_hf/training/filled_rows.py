"""Trainers whose results do not depend on the number of processes: blank rows fill the batches."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Sampler, SequentialSampler
from transformers import Trainer
from transformers.trainer_utils import EvalLoopOutput

from reformer_hf.training.data.collator import IGNORE_INDEX
from reformer_hf.training.data.rows import (
    FilledRows,
    ShuffledRows,
    blank_labelled_row,
    blank_row,
    fill,
)


class FilledRowsTrainer(Trainer):
    """A `Trainer` whose rows any number of processes shares out, each row once.

    Blank rows, which have no label, fill the last batches. Seed and epoch alone decide the order.
    Mix it in before another Trainer: `class Mine(FilledRowsTrainer, Trainer)`.

    Raises:
        ValueError: if each of several processes is to take the mean of its own labels, of which a
            process with blank rows may have none.
    """

    blank_row = staticmethod(blank_row)

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        if self.args.world_size > 1 and not self.args.average_tokens_across_devices:
            raise ValueError(
                f"average_tokens_across_devices=False with {self.args.world_size} processes: labels"
                " would not count the same, and a process without any has no mean; leave it out"
            )

    def _get_dataloader(
        self, dataset: Any, *, batch_size: int, is_training: bool = False, **kwargs: Any
    ) -> DataLoader:
        together = batch_size * self.args.world_size
        if is_training and self.args.train_sampling_strategy == "batch_rebalance":
            together *= self.args.gradient_accumulation_steps  # of which rows would be repeated
        if is_training and self.args.dataloader_drop_last:
            together = 1
        return super()._get_dataloader(
            fill(dataset, together, self.blank_row),
            batch_size=batch_size,
            is_training=is_training,
            **kwargs,
        )

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler | None:
        rows = self.train_dataset if train_dataset is None else train_dataset
        strategy, seed = self.args.train_sampling_strategy, self.args.data_seed
        seed = self.args.seed if seed is None else seed
        if isinstance(rows, FilledRows) and strategy == "random":
            return ShuffledRows(rows, seed)
        if isinstance(rows, FilledRows) and strategy == "group_by_length":
            together = self.args.train_batch_size * self.args.gradient_accumulation_steps
            lengths = rows.lengths(self.args.length_column_name)
            return ShuffledRows(rows, seed, lengths, together * self.args.world_size)
        return super()._get_train_sampler(rows)  # type: ignore[arg-type]

    def _finalize_training(self, *args: Any, **kwargs: Any) -> Any:
        """End training; Trainer's own `train_loss` has the last steps of one process only."""
        self._tr_loss = self.accelerator.reduce(self._tr_loss, "mean")
        return super()._finalize_training(*args, **kwargs)


class LabelledRowsTrainer(FilledRowsTrainer):
    """The same for rows with labels of their own, or none, whose predictions are kept.

    Predictions and labels are in the order of the rows, without the blank ones. The loss of an
    evaluation is the mean over all labels. The column `labels` has classes, those of tokens, or
    numbers, of which NaN is none: then give the Trainer a `compute_loss_func` that leaves these
    out. Evaluation takes rows of a known number, no streams.
    """

    blank_row = staticmethod(blank_labelled_row)

    def _get_eval_sampler(self, eval_dataset: Any) -> Sampler:
        """The rows as they come: grouped by length, predictions would be in another order."""
        return SequentialSampler(eval_dataset)

    def _get_num_items_in_batch(self, batch_samples: list, device: torch.device) -> Any:
        """Labels of all processes, at least 1."""
        counted = [
            {"labels": torch.where(has_label(batch["labels"]), 0, IGNORE_INDEX)}
            for batch in batch_samples
            if "labels" in batch
        ]
        count: Any = super()._get_num_items_in_batch(counted, device)
        return None if count is None else count.clamp(min=1)

    def prediction_step(
        self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any
    ) -> tuple[Tensor | None, Any, Any]:
        """Predict, and add up the losses and their number for :meth:`evaluation_loop`."""
        loss, predictions, labels = super().prediction_step(model, inputs, *args, **kwargs)
        if loss is not None:
            # It is divided by the labels of all processes, and multiplied with their number.
            divisor = self._get_num_items_in_batch([inputs], loss.device)
            self._total_loss += float(loss * divisor.max()) / self.accelerator.num_processes
            self._labels_seen += int(has_label(inputs["labels"]).sum())
        return loss, predictions, labels

    def evaluation_loop(
        self, dataloader: Any, *args: Any, metric_key_prefix: str = "eval", **kwargs: Any
    ) -> EvalLoopOutput:
        """Predict and measure."""
        self._total_loss, self._labels_seen = 0.0, 0
        # Seq2SeqTrainer's own keeps blank rows.
        self.gather_function = self.accelerator.gather_for_metrics
        kwargs["metric_key_prefix"] = metric_key_prefix
        output = super().evaluation_loop(dataloader, *args, **kwargs)
        name = f"{metric_key_prefix}_loss"
        if output.metrics is not None and name in output.metrics:
            sums = torch.tensor([self._total_loss, self._labels_seen], dtype=torch.float64)
            totals: Any = self.accelerator.reduce(sums.to(self.args.device), "sum")
            loss, count = totals.tolist()
            output.metrics[name] = loss / max(1, count)
        return output._replace(num_samples=len(dataloader.dataset.rows))


def has_label(labels: Tensor) -> Tensor:
    """Where labels are some: not -100 or, of numbers, not NaN; of the same shape."""
    return ~labels.isnan() if labels.is_floating_point() else labels != IGNORE_INDEX
