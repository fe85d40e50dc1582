"""Reading the inputs of a pass with a cache: is there one, and where do its tokens stand?"""

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache

from reformer_hf.models.cache_reformer_hf import ReformerHFCache, ReformerHFCacheLayer
from reformer_hf.models.configuration_reformer_hf import ReformerHFConfig
from reformer_hf.models.inputs import can_look, check_positions, expand_rows
from reformer_hf.nn.past.base import NewTokens


def choose_cache(
    config: ReformerHFConfig, past_key_values: Any, use_cache: bool | None, seq_idx: Tensor | None
) -> Cache | None:
    """Find the cache of a pass, or make one.

    Args:
        config: the configuration.
        past_key_values: as given to the model.
        use_cache: as given to the model; None for no cache, unless one is given.
        seq_idx: as given to the model.

    Returns:
        The cache, or None for a pass without.

    Raises:
        ValueError: if a cache is asked for where there can be none, or is of another model.
    """
    if past_key_values is None and not use_cache:
        return None
    if not config.is_decoder:
        raise ValueError(
            "use_cache=True or past_key_values with is_decoder=False: only causal models have a "
            "cache; leave it out"
        )
    if seq_idx is not None:
        raise ValueError(
            "seq_idx with use_cache=True or past_key_values: a cache holds one document a row; "
            "give each document a row of its own"
        )
    if past_key_values is None:
        return ReformerHFCache(config)
    layers = getattr(past_key_values, "layers", [])
    if len(layers) != config.num_hidden_layers or not all(
        isinstance(layer, ReformerHFCacheLayer) for layer in layers
    ):
        raise ValueError(
            f"past_key_values is a {type(past_key_values).__name__} that does not fit this model: "
            "give reformer_hf.ReformerHFCache(model.config), or leave it out"
        )
    return past_key_values


def place_tokens(
    config: ReformerHFConfig,
    cache: Cache,
    inputs_embeds: Tensor,
    attention_mask: Tensor | None,
    position_ids: Tensor | None,
) -> tuple[NewTokens, Tensor]:
    """Find where the tokens of a pass with a cache stand, and their positions.

    Args:
        config: the configuration.
        cache: of the tokens before.
        inputs_embeds: the new tokens, (batch, seq, hidden).
        attention_mask: of the new tokens, (batch, seq), or of all, (batch, cached + seq).
        position_ids: of the new tokens, (batch, seq).

    Returns:
        Places in the rows, and positions of shape (batch, seq).

    Raises:
        ValueError: naming the argument, its value and the fix.
    """
    batch, seq = inputs_embeds.shape[:2]
    layer = cache.layers[0]
    assert isinstance(layer, ReformerHFCacheLayer)
    length = layer.get_seq_length()
    begin = torch.full((batch, 1), length, device=inputs_embeds.device)
    if layer.padding is not None:
        begin = begin - layer.padding.to(begin.device).unsqueeze(1)
    real = None if attention_mask is None else _new_mask(attention_mask, batch, length, seq, begin)
    if real is None:
        new = NewTokens(begin + torch.arange(seq, device=begin.device), padded=False)
    else:
        places = begin + real.cumsum(dim=1) - 1
        new = NewTokens(places.masked_fill(~real, -1), padded=True)
    if position_ids is None:
        position_ids = new.places.clamp(min=0) if new.padded else new.places
        if layer.padding is None and not new.padded:
            check_positions(config.position_limit, length, length + seq - 1)  # on any device
    else:
        position_ids = _new_positions(position_ids, batch, seq, begin, attention_mask is not None)
        if new.padded:
            position_ids = position_ids.masked_fill(~new.real, 0)
    if can_look(position_ids):
        low, high = position_ids.aminmax()
        check_positions(config.position_limit, int(low), int(high))
    return new, position_ids


def check_cache(cache: Cache, rows: int, num_hashes: int | None, maps: bool) -> None:
    """Check that a cache can be gone on with.

    Args:
        cache: of the tokens before.
        rows: of the input.
        num_hashes: rounds asked for, or None for the cache's.
        maps: whether attention maps are asked for.

    Raises:
        ValueError: if it was filled only in part, or with other rows or another number of rounds,
            or does not know where all keys stand in their rows.
    """
    layers: list[Any] = cache.layers
    if layers[0].in_pass:
        raise ValueError(
            "past_key_values comes from a pass that was interrupted, so that its layers hold "
            "different tokens: start again from an empty cache"
        )
    if layers[0].past is not None and layers[0].past.rows != rows:
        raise ValueError(
            f"the input has {rows} rows, past_key_values {layers[0].past.rows}: give as many, or "
            "repeat the cache's with batch_repeat_interleave()"
        )
    if maps and layers[0].past is not None and layers[0].past.partial:
        raise ValueError(
            "output_attentions with past_key_values of a row that several processes have read: "
            "it does not say where their tokens stand; leave output_attentions out"
        )
    for layer in layers:
        rotations = getattr(layer.past, "rotations", None)
        if num_hashes is not None and rotations is not None and rotations.shape[2] != num_hashes:
            raise ValueError(
                f"num_hashes={num_hashes} with a cache that was filled with "
                f"{rotations.shape[2]}: give the same number in each step"
            )


def check_room(
    config: ReformerHFConfig,
    attention_mask: Tensor | None,
    position_ids: Tensor | None,
    prompt_length: int,
    max_length: int,
) -> None:
    """Check before generation begins that every token will have a position.

    Args:
        config: the configuration.
        attention_mask: of the prompt, or None.
        position_ids: of the prompt, or None.
        prompt_length: tokens of the prompt, padding included.
        max_length: tokens of the prompt and of all that are written but the last, padding included.

    Raises:
        ValueError: naming the limit and the fix.
    """
    limit = config.position_limit
    if limit is None:
        return
    longest = prompt_length
    if position_ids is not None and position_ids.numel():
        longest = int(position_ids.max()) + 1
    elif attention_mask is not None:
        longest = int(attention_mask.sum(dim=-1).max())
    needed = longest + max_length - prompt_length
    if needed > limit:
        raise ValueError(
            f"the prompt has {longest} tokens and up to {max_length - prompt_length + 1} are to be "
            f"written, which needs {needed} positions; this model has {limit}: shorten the prompt, "
            "lower max_new_tokens or max_length, or use position_embedding_type='none'"
        )


def _new_mask(mask: Tensor, batch: int, length: int, seq: int, begin: Tensor) -> Tensor | None:
    """The mask of the new tokens as bools; None if all are real."""
    if mask.shape not in ((batch, seq), (batch, length + seq)):
        raise ValueError(
            f"attention_mask has shape {tuple(mask.shape)}: with {length} cached and {seq} new "
            f"tokens give one 0 or 1 for each of all, {(batch, length + seq)}, or of the new ones"
        )
    if length and mask.shape[1] == length + seq and can_look(mask):
        cached = mask[:, :length].sum(dim=1)
        if not torch.equal(cached, begin[:, 0].to(cached)):
            raise ValueError(
                f"attention_mask has {cached.tolist()} real tokens among the cached ones, the "
                f"cache {begin[:, 0].tolist()}: what was cached cannot be masked later"
            )
    real = mask[:, -seq:].bool()
    return None if real.all() else real


def _new_positions(
    position_ids: Tensor, batch: int, seq: int, begin: Tensor, masked: bool
) -> Tensor:
    """The positions of the new tokens, which must not begin another document."""
    position_ids = expand_rows("position_ids", position_ids, batch, seq)
    if can_look(position_ids) and not masked:
        restarts = ((position_ids[:, :1] == 0) & (begin > 0)).any()
        if restarts or (seq > 1 and (position_ids.diff(dim=1) != 1).any()):
            raise ValueError(
                "position_ids begin another document, but a cache holds one document a row: let "
                "them go on by one, or leave them out"
            )
    return position_ids
