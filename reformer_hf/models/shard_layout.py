"""Where the tokens of a shard stand in rows that several processes hold together."""

import torch
from torch import Tensor

from reformer_hf.models.configuration_reformer_hf import ReformerHFConfig
from reformer_hf.models.inputs import check_positions, read_rows
from reformer_hf.nn.sequence_parallel.row_group import RowGroup
from reformer_hf.nn.sequence_parallel.shard import Border, Marks, Shard
from reformer_hf.ops.sorting import number_documents, places_in_document


def lay_out_shard(
    config: ReformerHFConfig,
    group: RowGroup,
    inputs_embeds: Tensor,
    attention_mask: Tensor | None,
    position_ids: Tensor | None,
    seq_idx: Tensor | None,
    cached: int | None,
) -> tuple[Shard, Tensor]:
    """Find the documents of a shard and the positions of its tokens, (batch, seq).

    A cache holds one document a row, without padding. `cached` are the tokens that it holds before
    this pass; None for no cache.

    All processes raise the same errors but those of shapes, so that none waits for another in vain.

    Raises:
        ValueError: naming the argument, its value and the fix.
    """
    given = (inputs_embeds, attention_mask, position_ids, seq_idx)
    shard, position_ids = _find_places(config, group, *given, cached)
    if cached is not None and shard.marks is not None:
        raise ValueError(
            "use_cache=True in a row over several processes with padding in attention_mask, or "
            "with position_ids that do not go on by one: give rows of one length, one document each"
        )
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
    cached: int | None,
) -> tuple[Shard, Tensor]:
    """The same, whatever positions the model has."""
    given = (attention_mask, position_ids, seq_idx)
    attention_mask, position_ids, seq_idx = read_rows(inputs_embeds, *given)
    batch, seq = inputs_embeds.shape[:2]
    device, reach = inputs_embeds.device, neighbour_reach(config)
    padded = attention_mask is not None and not attention_mask.all()
    # Of a cache 1 if it is empty, 2 if it holds tokens.
    state = 0 if cached is None else 1 + (cached > 0)
    header = [batch, padded, *(x is not None for x in given), state, seq]
    headers = group.gather(torch.tensor(header, dtype=torch.int64, device=device)).tolist()
    _check_headers(headers, reach)
    offset = sum(other[-1] for other in headers[: group.index])
    numbers = None if seq_idx is None else seq_idx.long()
    if numbers is None and attention_mask is None and position_ids is not None:
        numbers = _number_restarts(group, position_ids)
    if numbers is None and not any(other[1] for other in headers):
        if position_ids is None:
            position_ids = torch.arange(offset, offset + seq, device=device).expand(batch, -1)
        return Shard(group, offset + seq), position_ids
    real = torch.ones(batch, seq, dtype=torch.bool, device=device)
    if attention_mask is not None:
        real = attention_mask.bool()
    numbers = torch.zeros_like(real, dtype=torch.int64) if numbers is None else numbers
    looks_right = not config.is_decoder or _takes_next(config)
    marks, carried = _find_marks(group, numbers, real, reach, looks_right)
    if position_ids is None:
        documents = number_documents(real, numbers)
        assert documents is not None
        goes_on = numbers == marks.borders[0].incoming.unsqueeze(1)
        position_ids = places_in_document(documents) + goes_on * carried.unsqueeze(1)
    return Shard(group, offset + seq, marks), position_ids.masked_fill(~real, 0)


def neighbour_reach(config: ReformerHFConfig) -> int:
    """Tokens of a neighbour that a layer or an embedding sees, LSH attention left aside."""
    reaches = [0, config.conv_kernel - 1, *(size - 1 for size in config.ngram_sizes or ())]
    if config.attention_sparsity:
        reaches.append(config.attention_sparsity_kernel - 1)
    if _takes_next(config):
        reaches.append(1)
    if "local" in config.attn_layers:
        window = config.attention_window("local", bool(config.is_decoder))
        reaches += [window.before, window.after]
    return max(reaches)


def _takes_next(config: ReformerHFConfig) -> bool:
    """Whether a layer takes a value of the token behind a part."""
    return config.lsh_next_values and "lsh" in config.attn_layers


def _check_headers(headers: list[list[int]], reach: int) -> None:
    """Check that the parts of all processes make rows.

    Args:
        headers: of each process: batch, padded, which arguments are given, state of the cache,
            tokens.
        reach: tokens of a neighbour that layers see.
    """
    if len({header[0] for header in headers}) > 1:
        raise ValueError(
            f"the processes of a row give {[header[0] for header in headers]} rows: give as many"
        )
    names = ("attention_mask", "position_ids", "seq_idx", "use_cache")
    for index, name in enumerate(names, start=2):
        if len({header[index] > 0 for header in headers}) > 1:
            raise ValueError(f"only some processes of a row give {name}: give it on all or on none")
    if max(header[-2] for header in headers) > 1:
        raise ValueError(
            "past_key_values that hold tokens in a row over several processes: call "
            "set_sequence_parallel(None) first, and give what comes behind the cached tokens"
        )
    shortest = min(header[-1] for header in headers)
    if shortest < reach:
        raise ValueError(
            f"a process holds {shortest} tokens of a row, but layers see {reach} tokens of a "
            "neighbour: use longer rows, or fewer processes"
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


def _find_marks(
    group: RowGroup, numbers: Tensor, real: Tensor, reach: int, looks_right: bool
) -> tuple[Marks, Tensor]:
    """Find which documents stand at the borders, and how long the one that comes in is so far.

    Raises:
        ValueError: if documents or the real tokens of a row are not consecutive.
    """
    places = torch.arange(numbers.shape[1], device=numbers.device)
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
    nothing = torch.zeros_like(last) + (lows.amin() - 1)
    passed = _pass_along(found, lasts, nothing)
    falls = ((found > 0) & (lows < torch.stack(passed[:-1]))).any() | fallen.any()
    if falls or (begun.sum(dim=0) > 1).any():
        raise ValueError(
            "seq_idx falls along a row over several processes, or padding stands between its "
            "tokens: number documents in the order of the row, with padding at its ends"
        )
    incoming, outgoing = passed[group.index : group.index + 2]
    carried = (counts * found * (lasts == incoming))[: group.index].sum(dim=0)
    end = numbers.shape[1] - reach
    left = [group.move(x[:, end:].long(), 1) for x in (numbers, real)]
    borders = [Border(left[0], left[1].bool(), incoming, outgoing)]
    if looks_right:
        # Documents are in order: the lowest of a part is its first one.
        back = _pass_along(found.flip(0), lows.flip(0), nothing)[::-1]
        right = [group.move(x[:, :reach].long(), -1) for x in (numbers, real)]
        borders.append(Border(right[0], right[1].bool(), back[group.index + 1], back[group.index]))
    return Marks(numbers, real, tuple(borders)), carried


def _pass_along(found: Tensor, numbers: Tensor, nothing: Tensor) -> list[Tensor]:
    """The document at hand before the first process, and behind each of them.

    Args:
        found: whether a process has real tokens, (processes, batch).
        numbers: of its document that is handed on.
        nothing: what is at hand before the first, (batch,).
    """
    passed = [nothing]
    for has_real, number in zip(found, numbers, strict=True):
        passed.append(torch.where(has_real > 0, number, passed[-1]))
    return passed
