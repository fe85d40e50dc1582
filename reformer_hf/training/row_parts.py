"""Training on rows that several processes hold together (`sequence_parallel_size`)."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.nn.functional import pad
from transformers import Trainer

from reformer_hf.models.labels import IGNORE_INDEX
from reformer_hf.models.sequence_parallel import SequenceParallel
from reformer_hf.models.shard_layout import neighbour_reach
from reformer_hf.training.evaluation import next_tokens


class RowParts:
    """Cuts batches into parts for the processes that hold rows together.

    Each process reads batches of its own. The processes of a group take these in turn: of each
    batch every process computes a part. So a step sees the rows that it would see without. A
    process makes `size` passes for a batch of its own, each over 1/size of the tokens of rows.

    Args:
        size: processes of a group; 1 for whole rows.
        device: of the batches.

    Raises:
        ValueError: if groups of this size do not make up all processes.
    """

    def __init__(self, size: int, device: torch.device):
        self.size, self.device = size, device
        self.causal = True
        self.least = size  # tokens that a row must have
        self.parallel: SequenceParallel | None = None
        if size == 1:
            return
        world = dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
        if world % size:
            raise ValueError(
                f"sequence_parallel_size={size} with {world} processes: give a number that divides "
                "that of the processes (torchrun --nproc_per_node)"
            )
        sizes = (world // size, size)
        mesh = init_device_mesh(device.type, sizes, mesh_dim_names=("dp", "sp"))
        self.parallel = SequenceParallel(mesh["sp"])

    def attach(self, model: Any) -> None:
        """Let a model expect parts of rows, if there are any.

        Raises:
            ValueError: if its rows cannot be cut.
        """
        if self.parallel is not None:
            model.set_sequence_parallel(self.parallel)
            self.causal = bool(model.config.is_decoder)
            self.least = self.size * max(1, neighbour_reach(model.config))

    def cut(self, batch: Mapping[str, Tensor]) -> Iterator[dict[str, Tensor]]:
        """Go through the batches of the group; of causal models with `shift_labels` for labels.

        Args:
            batch: of this process, with labels.

        Yields:
            This process's part of each; the batch itself where rows are whole.
        """
        if self.parallel is None:
            yield dict(batch)
            return
        own = dict(batch)
        if self.causal:
            own.pop("labels", None)
            own["shift_labels"] = next_tokens(batch)
        own = {name: tensor.cpu() for name, tensor in own.items()}
        batches: list[Any] = [None] * self.size
        dist.all_gather_object(batches, own, group=self.parallel.group.processes)
        for whole in batches:
            whole = _lengthen(whole, self.least)
            yield {
                name: self.parallel.shard(tensor).to(self.device) for name, tensor in whole.items()
            }


def _lengthen(batch: dict[str, Tensor], least: int) -> dict[str, Tensor]:
    """Pad short rows, such as blank ones, to a length that can be cut."""
    labels = batch.get("shift_labels", batch.get("labels"))
    assert labels is not None
    missing = least - labels.shape[1]
    if missing <= 0:
        return batch
    real = torch.ones_like(labels)
    values = {"shift_labels": IGNORE_INDEX, "labels": IGNORE_INDEX}
    return {
        name: pad(tensor, (0, missing), value=values.get(name, 0))
        for name, tensor in {"attention_mask": real, **batch}.items()
    }


class RowPartsTrainer(Trainer):
    """A `Trainer` whose arguments may have `sequence_parallel_size`; mix it in before another.

    Raises:
        ValueError: if rows cannot be cut as asked.
    """

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        size = getattr(self.args, "sequence_parallel_size", 1)
        if size > 1:
            self._check_arguments(size)
        self.row_parts = RowParts(size, self.args.device)
        self.row_parts.attach(self.model)

    def _check_arguments(self, size: int) -> None:
        """Refuse what would take a batch's parts for whole batches."""
        refused = {
            "label_smoothing_factor": bool(self.args.label_smoothing_factor),
            "optimizer_in_backward": getattr(self.args, "optimizer_in_backward", False),
            "deepspeed": self.args.deepspeed is not None,
            "average_tokens_across_devices": not self.args.average_tokens_across_devices,
        }
        for name, is_refused in refused.items():
            if is_refused:
                raise ValueError(
                    f"{name}={getattr(self.args, name)} with sequence_parallel_size={size}: leave "
                    "one of them out"
                )

    def training_step(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Tensor:
        """Forward and backward, part after part where rows are cut."""
        total: Any = 0
        for part in self.row_parts.cut(self._prepare_inputs(inputs)):
            total = total + super().training_step(model, part, *args, **kwargs)
        return total
