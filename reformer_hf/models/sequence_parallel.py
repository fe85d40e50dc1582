"""Sequence parallelism: several processes hold a row together, each consecutive tokens of it.

What layers need of other processes is in :mod:`reformer_hf.nn.sequence_parallel`; where tokens
stand in their rows is in :mod:`reformer_hf.models.shard_layout`.
"""

from copy import copy
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh

from reformer_hf.models.cache_reformer_hf import Remembered
from reformer_hf.models.configuration_reformer_hf import ReformerHFConfig
from reformer_hf.models.labels import IGNORE_INDEX, first_token_labels
from reformer_hf.nn.past.base import NewTokens, Past
from reformer_hf.nn.self_attention import Hashing, SelfAttention
from reformer_hf.nn.sequence_parallel.pasts import ShardStates
from reformer_hf.nn.sequence_parallel.row_group import RowGroup, TailsForm
from reformer_hf.nn.sequence_parallel.shard import Shard
from reformer_hf.ops.attention_map import MapForm
from reformer_hf.ops.checks import require_choice


class SequenceParallel:
    """The processes that hold rows together, each the tokens behind those of the process before.

    Each process gives its part of the rows to the model and gets its part of the outputs. Parts may
    be of different lengths. Of a loss each process gets its share: the mean over the processes is
    the loss of the whole rows, and the mean of their gradients, as DDP and FSDP take it, is its
    gradient.

    Args:
        mesh: a one-dimensional `DeviceMesh`, such as `mesh["sp"]`, or a process group; None for all
            processes.
        tails: how the tails of LSH layers travel. "chain": from neighbour to neighbour, with the
            fewest bytes. "gather": from all to all at once, for few processes whose messages take
            long to arrive.

    Raises:
        ValueError: if the mesh has more dimensions, `tails` is unknown, or `torch.distributed` is
            not initialised.
    """

    def __init__(self, mesh: Any = None, tails: TailsForm = "chain"):
        if not (dist.is_available() and dist.is_initialized()):
            raise ValueError(
                "SequenceParallel without processes: call torch.distributed.init_process_group() "
                "first, under torchrun"
            )
        require_choice(TailsForm, tails=tails)
        if isinstance(mesh, DeviceMesh):
            if mesh.ndim != 1:
                raise ValueError(
                    f"mesh has the dimensions {mesh.mesh_dim_names}: give the one that rows are "
                    'spread over, such as mesh["sp"]'
                )
            mesh = mesh.get_group()
        self.group = RowGroup(mesh, tails)

    def __deepcopy__(self, memo: dict) -> "SequenceParallel":
        return copy(self)  # processes cannot be copied

    @property
    def rank(self) -> int:
        """Which part of the rows this process holds."""
        return self.group.index

    @property
    def size(self) -> int:
        """Parts of a row."""
        return self.group.size

    @property
    def received_bytes(self) -> int:
        """Bytes that have come from other processes so far, gradients included."""
        return self.group.received_bytes

    def shard(self, tensor: Tensor, dim: int = 1) -> Tensor:
        """This process's part of whole rows; the first parts are longer by one where need be.

        Args:
            tensor: of whole rows, the same on all processes.
            dim: of the tokens.

        Returns:
            A view.

        Raises:
            ValueError: if there are fewer tokens than processes.
        """
        if tensor.shape[dim] < self.size:
            raise ValueError(
                f"{tensor.shape[dim]} tokens for {self.size} processes: give each at least one"
            )
        return tensor.tensor_split(self.size, dim=dim)[self.rank]

    def share(self, number: int, device: torch.device) -> int:
        """The number that the first process has."""
        return int(self.group.gather(torch.tensor(number, device=device))[0])

    def mean_targets(self, targets: Tensor) -> Tensor:
        """Targets of all parts, divided by the number of parts.

        Args:
            targets: of this part, -100 where there is none.
        """
        return self.group.gather((targets != IGNORE_INDEX).sum()).sum() / self.size

    def shift_labels(
        self,
        labels: Tensor,
        attention_mask: Tensor | None,
        position_ids: Tensor | None,
        seq_idx: Tensor | None,
        counted: bool,
    ) -> Tensor:
        """The target of each place, of which the last one's is the first label of the next part.

        Args:
            labels: of this part, (batch, seq).
            attention_mask: as given to the model.
            position_ids: as given to the model.
            seq_idx: as given to the model.
            counted: whether the caller has counted the labels.

        Returns:
            Targets of the same shape; -100 where there is none.
        """
        mask, positions, documents = (
            None if numbers is None else self._behind_left(numbers, labels.shape)
            for numbers in (attention_mask, position_ids, seq_idx)
        )
        left = 0 if self.group.first else 1
        labels = torch.nn.functional.pad(labels.long(), (left, 0), value=IGNORE_INDEX)
        labels = first_token_labels(labels, mask, positions, documents, counted)[:, left:]
        following = self.group.move(labels[:, :1], -1)
        if self.group.last:
            following = torch.full_like(following, IGNORE_INDEX)
        return torch.cat([labels[:, 1:], following], dim=1)

    def _behind_left(self, numbers: Tensor, shape: torch.Size) -> Tensor:
        """Numbers of the tokens, behind that of the last token of the part before."""
        numbers = numbers.expand(shape)
        left = self.group.move(numbers[:, -1:], 1)
        return numbers if self.group.first else torch.cat([left, numbers], dim=1)


class Sharded(NamedTuple):
    """What a layer is given of a shard, in place of a cache.

    Attributes:
        shard: of this process.
        new: where its tokens stand.
        cached: what the layer is given of a cache, which is to remember the shard; or None.
    """

    shard: Shard
    new: NewTokens
    cached: Remembered | None = None

    def past(self, attention: SelfAttention, hashing: Hashing, device: torch.device) -> Past:
        """The past of a layer."""
        kept = None
        if self.cached is not None:
            kept = self.cached.past(attention, hashing, device)
            kept.recording = False  # what other processes have read cannot be taken back here
        return attention.new_shard_past(self.shard, hashing, device, kept)

    def recurrent_past(self) -> Past:
        """The past of a layer's recurrent units."""
        past = Past()
        kept = None if self.cached is None else self.cached.recurrent_past()
        past.states = ShardStates(self.shard, None if kept is None else kept.states)
        return past

    def leave(self) -> None:
        """The layer is done."""
        if self.cached is not None:
            self.cached.leave()


def check_shard_pass(maps: MapForm | None) -> None:
    """Refuse what a pass of a shard has none of.

    Args:
        maps: which attention maps are asked for.

    Raises:
        ValueError: naming the argument and the fix.
    """
    if maps is not None:
        raise ValueError(
            "output_attentions in a row over several processes: call set_sequence_parallel(None) "
            "first, and give whole rows"
        )


def check_sequence_parallel(config: ReformerHFConfig) -> None:
    """Check that the rows of a model can be spread over processes.

    Raises:
        ValueError: naming the field, its value and the fix.
    """
    kinds = sorted({*config.attn_layers} - {"local", "lsh"})
    wrong = {
        f"attn_layers with {kinds}": (bool(kinds), "use local and LSH layers"),
        "is_encoder_decoder=True": (config.is_encoder_decoder, "use an encoder or a decoder"),
        f"attention_scope={config.attention_scope!r}": (
            config.attention_scope != "band",
            "use 'band': chunks are cut from whole sorted rows",
        ),
        "deduplicate_rounds=True": (config.deduplicate_rounds, "set it to False"),
    }
    for field, (found, fix) in wrong.items():
        if found:
            raise ValueError(f"{field} in a row over several processes: {fix}")
