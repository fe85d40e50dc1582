"""Attention of new tokens to their candidates, gathered from a store."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from reformer_hf.nn.past.token_store import TokenStore
from reformer_hf.ops.attention_map import AttentionMap
from reformer_hf.ops.decoding import attend_seen, choose_candidates, count_candidates

PIECE = 16
"""Tokens attended at a time: bounds the memory for the keys and values that are gathered."""


def attend_candidates(
    query: Float[Tensor, "batch heads seq dim"],
    candidates: Int[Tensor, "batch heads seq rounds reach"],
    tokens: TokenStore,
    *,
    deduplicate_rounds: bool = False,
    dropout: float = 0.0,
    output_map: bool = False,
) -> tuple[Float[Tensor, "batch heads seq dim"], AttentionMap | None]:
    """Attend from each token to its candidates.

    Args:
        query: queries.
        candidates: of each query; its own place comes first in each round.
        tokens: keys and values side by side, by place.
        deduplicate_rounds: count a key that several rounds show once.
        dropout: of the probabilities.
        output_map: also return the attention map.

    Returns:
        The output, and the map or None.
    """
    options = (tokens, deduplicate_rounds, dropout, output_map)
    if query.shape[2] <= PIECE:
        return _attend_piece(query, candidates, *options)
    pieces = [
        _attend_piece(piece, shown, *options)
        for piece, shown in zip(query.split(PIECE, 2), candidates.split(PIECE, 2), strict=True)
    ]
    output = torch.cat([output for output, _ in pieces], dim=2)
    maps = [attention_map for _, attention_map in pieces if attention_map is not None]
    if not maps:
        return output, None
    return output, AttentionMap(*(torch.cat(parts, dim=3) for parts in zip(*maps, strict=True)))


def _attend_piece(
    query: Tensor,
    candidates: Tensor,
    tokens: TokenStore,
    deduplicate_rounds: bool,
    dropout: float,
    output_map: bool,
) -> tuple[Tensor, AttentionMap | None]:
    places = candidates.flatten(3)
    counted = choose_candidates(candidates).flatten(3)
    counts = count_candidates(places, counted) if deduplicate_rounds else None
    key, value = tokens.take(places.clamp(min=0)).chunk(2, dim=-1)
    # Each query has keys of its own: rows and heads stand for the batch, tokens for the heads.
    output, probabilities = attend_seen(
        query.flatten(0, 1).unsqueeze(2),
        key.flatten(0, 1),
        value.flatten(0, 1),
        counted.flatten(0, 1).unsqueeze(2),
        None if counts is None else counts.flatten(0, 1).unsqueeze(2),
        dropout=dropout,
        output_map=output_map,
    )
    output = output.squeeze(2).unflatten(0, query.shape[:2])
    if probabilities is None:
        return output, None
    by_round = probabilities.view(candidates.shape).transpose(2, 3)
    return output, AttentionMap(by_round, candidates.transpose(2, 3).masked_fill(by_round == 0, -1))
