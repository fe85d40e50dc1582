"""Sequence parallelism: several processes hold a row together, each consecutive tokens of it.

What layers need of other processes is in :mod:`reformer_hf.nn.sequence_parallel`; here are the
interface, where the tokens of a shard stand in their rows, and what their targets are.
"""

from copy import copy
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from reformer_hf.models.configuration_reformer_hf import ReformerHFConfig
from reformer_hf.models.inputs import check_positions, read_rows
from reformer_hf.models.labels import IGNORE_INDEX, first_token_labels
from reformer_hf.nn.past.base import NewTokens, Past
from reformer_hf.nn.self_attention import Hashing, SelfAttention
from reformer_hf.nn.sequence_parallel.row_group import RowGroup, TailsForm
from reformer_hf.nn.sequence_parallel.shard import Marks, Shard
from reformer_hf.ops.sorting import number_documents, places_in_document


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
        ValueError: if the mesh has more dimensions, `tails` is unknown, or `torch.distributed` is not initialised.
    """

    def __init__(self, mesh: Any = None, tails: TailsForm = "chain"):
        if not (dist.is_available() and dist.is_initialized()):
            raise ValueError(
                "SequenceParallel without processes: call torch.distributed.init_process_group() "
                "first, under torchrun"
            )
        if mesh is not None and hasattr(mesh, "get_group"):
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
    """

    shard: Shard
    new: NewTokens

    def past(self, attention: SelfAttention, hashing: Hashing, device: torch.device) -> Past:
        """The past of a layer."""
        return attention.new_shard_past(self.shard, hashing, device)


def check_sequence_parallel(config: ReformerHFConfig) -> None:
    """Check that the rows of a model can be spread over processes.

    Raises:
        ValueError: naming the field, its value and the fix.
    """
    kinds = sorted({*config.attn_layers} - {"local", "lsh"})
    wrong = {
        f"attn_layers with {kinds}": (bool(kinds), "use local and LSH layers"),
        "is_encoder_decoder=True": (config.is_encoder_decoder, "use a causal language model"),
        f"is_decoder={config.is_decoder}": (not config.is_decoder, "only causal models can be cut"),
        f"attention_scope={config.attention_scope!r}": (
            config.attention_scope != "band",
            "use 'band': chunks are cut from whole sorted rows",
        ),
        "deduplicate_rounds=True": (config.deduplicate_rounds, "set it to False"),
        f"ff_sru_size={config.ff_sru_size}": (
            bool(config.ff_sru_size),
            "set it to 0: recurrent units read whole rows",
        ),
    }
    for field, (found, fix) in wrong.items():
        if found:
            raise ValueError(f"{field} in a row over several processes: {fix}")


def lay_out_shard(
    config: ReformerHFConfig,
    group: RowGroup,
    inputs_embeds: Tensor,
    attention_mask: Tensor | None,
    position_ids: Tensor | None,
    seq_idx: Tensor | None,
) -> tuple[Shard, Tensor]:
    """Find the documents of a shard and the positions of its tokens, (batch, seq).

    All processes raise the same errors, so that none waits for another in vain.

    Raises:
        ValueError: naming the argument, its value and the fix.
    """
    given = (inputs_embeds, attention_mask, position_ids, seq_idx)
    shard, position_ids = _find_places(config, group, *given)
    if config.position_limit is not None:
        ends = group.gather(torch.stack(position_ids.long().aminmax()))
        check_positions(config.position_limit, int(ends.min()), int(ends.max()))
    return shard, position_ids


def _find_places(
    config: ReformerHFConfig,
    group: RowGroup,
    inputs_embeds: Tensor,
    attention_mask: Tensor | None,
    position_ids: Tensor | None,
    seq_idx: Tensor | None,
) -> tuple[Shard, Tensor]:
    """The same, whatever positions the model has."""
    given = (attention_mask, position_ids, seq_idx)
    attention_mask, position_ids, seq_idx = read_rows(inputs_embeds, *given)
    batch, seq = inputs_embeds.shape[:2]
    device, reach = inputs_embeds.device, neighbour_reach(config)
    padded = attention_mask is not None and not attention_mask.all()
    header = [batch, padded, *(x is not None for x in given), seq]
    headers = group.gather(torch.tensor(header, dtype=torch.int64, device=device)).tolist()
    _check_headers(headers, reach)
    offset = sum(other[-1] for other in headers[: group.index])
    numbers = None if seq_idx is None else seq_idx.long()
    if numbers is None and attention_mask is None and position_ids is not None:
        numbers = _number_restarts(group, position_ids)
    if numbers is None and not any(other[1] for other in headers):
        if position_ids is None:
            position_ids = torch.arange(offset, offset + seq, device=device).expand(batch, -1)
        return Shard(group), position_ids
    real = torch.ones(batch, seq, dtype=torch.bool, device=device)
    if attention_mask is not None:
        real = attention_mask.bool()
    numbers = torch.zeros_like(real, dtype=torch.int64) if numbers is None else numbers
    marks, carried = _find_marks(group, numbers, real, reach)
    if position_ids is None:
        documents = number_documents(real, numbers)
        assert documents is not None
        goes_on = numbers == marks.incoming.unsqueeze(1)
        position_ids = places_in_document(documents) + goes_on * carried.unsqueeze(1)
    return Shard(group, marks), position_ids.masked_fill(~real, 0)


def neighbour_reach(config: ReformerHFConfig) -> int:
    """Tokens of the process before that a layer or an embedding sees, LSH attention left aside."""
    reaches = [0, config.conv_kernel - 1, *(size - 1 for size in config.ngram_sizes or ())]
    if config.attention_sparsity:
        reaches.append(config.attention_sparsity_kernel - 1)
    if "local" in config.attn_layers:
        reaches.append(config.attention_window("local", True).before)
    return max(reaches)


def _check_headers(headers: list[list[int]], reach: int) -> None:
    """Check that the parts of all processes make rows: batch, padded, which arguments, tokens."""
    if len({header[0] for header in headers}) > 1:
        raise ValueError(
            f"the processes of a row give {[header[0] for header in headers]} rows: give as many"
        )
    names = ("attention_mask", "position_ids", "seq_idx")
    for index, name in enumerate(names, start=2):
        if len({header[index] for header in headers}) > 1:
            raise ValueError(f"only some processes of a row give {name}: give it on all or on none")
    shortest = min(header[-1] for header in headers)
    if shortest < reach:
        raise ValueError(
            f"a process holds {shortest} tokens of a row, but layers see {reach} tokens before "
            "their own: use longer rows, or fewer processes"
        )


def _number_restarts(group: RowGroup, position_ids: Tensor) -> Tensor | None:
    """Number the documents by positions that restart; None if none does on any process."""
    left = group.move(position_ids[:, -1:], 1)
    if group.first:
        left = position_ids[:, :1] - 1
    begun = (torch.diff(position_ids, dim=-1, prepend=left) != 1).long().cumsum(dim=-1)
    counts = group.gather(begun[:, -1])
    if not counts.any():
        return None
    return begun + counts[: group.index].sum(dim=0).unsqueeze(1)


def _find_marks(group: RowGroup, numbers: Tensor, real: Tensor, reach: int) -> tuple[Marks, Tensor]:
    """Find which documents stand at the borders, and how long the one that comes in is so far.

    Raises:
        ValueError: if documents or the real tokens of a row are not consecutive.
    """
    seq = numbers.shape[1]
    places = torch.arange(seq, device=numbers.device)
    last_place = torch.where(real, places, 0).amax(dim=1, keepdim=True)
    last = numbers.gather(1, last_place).squeeze(1)
    count = (real & (numbers == last.unsqueeze(1))).sum(dim=1)
    lowest = numbers.masked_fill(~real, torch.iinfo(numbers.dtype).max).amin(dim=1)
    left_real = group.move(real[:, -1:].long(), 1).bool()
    begins = real & ~torch.cat([left_real, real[:, :-1]], dim=1)
    falls = (real[:, 1:] & real[:, :-1] & (numbers[:, 1:] < numbers[:, :-1])).any(dim=1)
    facts = (real.any(dim=1), last, count, lowest, begins.sum(dim=1), falls)
    facts = group.gather(torch.stack([fact.long() for fact in facts]))
    found, lasts, counts, lows, begun, fallen = facts.unbind(dim=1)  # each (processes, batch)
    # Of the last real token before each process, and of all; lower than any if there is none.
    current = [torch.zeros_like(last) + (lows.amin() - 1)]
    for has_real, number in zip(found, lasts, strict=True):
        current.append(torch.where(has_real > 0, number, current[-1]))
    falls = ((found > 0) & (lows < torch.stack(current[:-1]))).any() | fallen.any()
    if falls or (begun.sum(dim=0) > 1).any():
        raise ValueError(
            "seq_idx falls along a row over several processes, or padding stands between its "
            "tokens: number documents in the order of the row, with padding at its ends"
        )
    incoming, outgoing = current[group.index : group.index + 2]
    carried = (counts * found * (lasts == incoming))[: group.index].sum(dim=0)
    left = [group.move(x[:, seq - reach :].long(), 1) for x in (numbers, real)]
    return Marks(numbers, real, left[0], left[1].bool(), incoming, outgoing), carried
