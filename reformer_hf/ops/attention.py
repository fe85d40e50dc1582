"""Local and LSH attention on one primitive, a band of ranks within segments.

Tokens stand in some order; a query sees the places within its window that share its segment.
Local attention: the order of the row, segments are documents. LSH attention: one order per round,
sorted by (document, bucket, place), segments are the buckets of a document. The ``chunk`` scope of
LSH attention, where buckets mix, is in :mod:`reformer_hf.ops.chunk_scope`.
"""

import math
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from reformer_hf.ops.attention_map import AttentionMap, map_rounds, window_places
from reformer_hf.ops.chunking import look_adjacent, merge_chunks, pair_ids, split_chunks
from reformer_hf.ops.masking import Scope, count_appearances, rank_distance, window_pattern
from reformer_hf.ops.sorting import SortOrder, permute, sort_by_bucket, unpermute

ALONE_LOGSUMEXP = -1e5
"""Log-sum-exp of a round that shows a query only itself: trax's and transformers' self mask."""


class Attended(NamedTuple):
    """What attention yields for each query.

    Attributes:
        output: weighted sum of the values.
        logsumexp: of the visible scores, float32 or wider.
        probabilities: over the query's window, before dropout, float32 or wider.
    """

    output: Float[Tensor, "*lead seq dim"]
    logsumexp: Float[Tensor, "*lead seq"]
    probabilities: Float[Tensor, "*lead seq window"]


def normalise_keys(query: Float[Tensor, "*lead dim"]) -> Float[Tensor, "*lead dim"]:
    """Keys of shared-QK attention: the queries at root-mean-square length one.

    Args:
        query: queries.

    Returns:
        ``query / sqrt(mean(query²) + 1e-6)``, computed in float32 or wider.

    Source: paper section 2, "Shared-QK Transformer".
    """
    wide = query.to(torch.promote_types(query.dtype, torch.float32))
    return (wide * torch.rsqrt(wide.square().mean(dim=-1, keepdim=True) + 1e-6)).to(query.dtype)


def attend_windows(
    query: Float[Tensor, "*lead chunk_len dim"],
    key: Float[Tensor, "*lead window dim"],
    value: Float[Tensor, "*lead window dim"],
    visible: Bool[Tensor, "*#lead chunk_len window"],
    own: Bool[Tensor, "*#lead chunk_len window"] | None = None,
    counts: Int[Tensor, "*#lead chunk_len window"] | None = None,
    dropout: float = 0.0,
) -> Attended:
    """Exact attention of each chunk of queries over its window of keys.

    Args:
        query: a chunk.
        key: its window.
        value: the window's values.
        visible: which keys a query may see; every query must see its own place.
        own: given for a self mask: where a query meets itself, which counts only when the window
            shows no other key.
        counts: divide each key's weight by this.
        dropout: of the probabilities.

    Returns:
        Output, log-sum-exp and probabilities.
    """
    scores = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
    if counts is not None:
        scores = scores - counts.clamp(min=1).to(scores.dtype).log()
    alone = None
    if own is not None:
        others = visible & ~own
        alone = ~others.any(dim=-1, keepdim=True)
        visible = others | (own & alone)
    scores = scores.masked_fill(~visible, -torch.inf)
    logsumexp = scores.logsumexp(dim=-1, keepdim=True)
    probabilities = (scores - logsumexp).exp()
    if alone is not None:
        logsumexp = logsumexp.masked_fill(alone, ALONE_LOGSUMEXP)
    weights = torch.nn.functional.dropout(probabilities, dropout) if dropout else probabilities
    return Attended(weights.to(value.dtype) @ value, logsumexp.squeeze(-1), probabilities)


def band_attention(
    query: Float[Tensor, "*lead seq dim"],
    key: Float[Tensor, "*lead seq dim"],
    value: Float[Tensor, "*lead seq dim"],
    segments: Int[Tensor, "*#lead seq"] | None,
    *,
    chunk_length: int,
    num_chunks_before: int,
    num_chunks_after: int = 0,
    scope: Scope = "band",
    causal: bool = True,
    self_mask: bool = False,
    counts: Int[Tensor, "*#lead chunks chunk_len window"] | None = None,
    dropout: float = 0.0,
) -> Attended:
    """The primitive: each query sees the places near its own that share its segment.

    Args:
        query: in the order that defines the ranks.
        key: in the same order.
        value: in the same order.
        segments: from 0; None for a single segment.
        chunk_length: tokens computed at a time.
        num_chunks_before: the window before a query is this many chunk lengths.
        num_chunks_after: the window after it; causal requires 0.
        scope: ``band`` for windows that move with the query, ``chunk`` for fixed chunk borders.
        causal: whether keys behind the query are hidden.
        self_mask: the own place counts only when the window shows no other key.
        counts: divide each key's weight by this.
        dropout: of the probabilities.

    Returns:
        Output, log-sum-exp and probabilities by rank.

    Raises:
        ValueError: if ``causal`` meets ``num_chunks_after`` above 0.

    >>> x = torch.eye(3).view(1, 3, 3)
    >>> band_attention(x, 0 * x, x, None, chunk_length=1, num_chunks_before=1).output[0, 2].tolist()
    [0.0, 0.5, 0.5]
    """
    if causal and num_chunks_after:
        raise ValueError(
            f"num_chunks_after={num_chunks_after} with causal=True: set it to 0, or causal=False"
        )
    seq, before, after = query.shape[-2], num_chunks_before, num_chunks_after
    if segments is None:
        segments = torch.zeros(seq, dtype=torch.int64, device=query.device)
    distance = rank_distance(chunk_length, before, after, query.device)
    pattern = window_pattern(distance, chunk_length, before, after, scope, causal)
    query_segments, key_segments = pair_ids(segments, chunk_length, before, after)
    attended = attend_windows(
        split_chunks(query, chunk_length),
        look_adjacent(split_chunks(key, chunk_length), before, after),
        look_adjacent(split_chunks(value, chunk_length), before, after),
        pattern & (query_segments == key_segments),
        own=distance == 0 if self_mask else None,
        counts=counts,
        dropout=dropout,
    )
    return Attended(
        merge_chunks(attended.output, seq),
        merge_chunks(attended.logsumexp.unsqueeze(-1), seq).squeeze(-1),
        merge_chunks(attended.probabilities, seq),
    )


def combine_rounds(
    outputs: Float[Tensor, "batch heads rounds seq dim"],
    logsumexps: Float[Tensor, "batch heads rounds seq"],
) -> Float[Tensor, "batch heads seq dim"]:
    """Weigh the rounds by the softmax of their log-sum-exps.

    Args:
        outputs: of each round, in the order of the row.
        logsumexps: of each round, in the order of the row.

    Returns:
        The output: one softmax over the union of the rounds' windows.

    Source: paper appendix A, equations 8 and 9.
    """
    weights = torch.softmax(logsumexps, dim=2).to(outputs.dtype)
    return (outputs * weights.unsqueeze(-1)).sum(dim=2)


def local_attention(
    query: Float[Tensor, "batch heads seq dim"],
    key: Float[Tensor, "batch heads seq dim"],
    value: Float[Tensor, "batch heads seq dim"],
    documents: Int[Tensor, "batch seq"] | None = None,
    *,
    chunk_length: int,
    num_chunks_before: int,
    num_chunks_after: int = 0,
    scope: Scope = "band",
    causal: bool = True,
    dropout: float = 0.0,
    output_map: bool = False,
) -> tuple[Float[Tensor, "batch heads seq dim"], AttentionMap | None]:
    """Attention to the places nearby in the same document.

    Args:
        query: in the order of the row.
        key: in the order of the row.
        value: in the order of the row.
        documents: document of each place, padding last; None for a single document.
        chunk_length: tokens.
        num_chunks_before: look-back, in chunks.
        num_chunks_after: look-ahead, in chunks.
        scope: ``band`` or ``chunk``.
        causal: whether later places are hidden.
        dropout: of the probabilities.
        output_map: also return the attention map.

    Returns:
        The output, and the map or None.

    Source: paper section 5 ("local attention"); the band is this project's.
    """
    batch, heads, seq, _ = query.shape
    if documents is None:
        places = torch.arange(seq, device=query.device).expand(batch, heads, 1, seq)
        sort = SortOrder(places, places, torch.zeros_like(places))
        query, key, value = (vectors.unsqueeze(2) for vectors in (query, key, value))
    else:
        one_bucket = torch.zeros_like(documents)[:, None, None]
        sort = sort_by_bucket(one_bucket, documents, 1).expand_heads(heads)
        query, key, value = (permute(vectors, sort) for vectors in (query, key, value))
    attended = band_attention(
        query,
        key,
        value,
        None if documents is None else sort.segments,
        chunk_length=chunk_length,
        num_chunks_before=num_chunks_before,
        num_chunks_after=num_chunks_after,
        scope=scope,
        causal=causal,
        dropout=dropout,
    )
    output = attended.output if documents is None else unpermute(attended.output, sort)
    if not output_map:
        return output.squeeze(2), None
    places = window_places(sort.order, chunk_length, num_chunks_before, num_chunks_after)
    return output.squeeze(2), map_rounds(attended.probabilities, attended.logsumexp, places, sort)


def lsh_attention(
    query: Float[Tensor, "batch heads seq dim"],
    value: Float[Tensor, "batch heads seq dim"],
    buckets: Int[Tensor, "batch heads rounds seq"],
    documents: Int[Tensor, "batch seq"] | None = None,
    *,
    num_buckets: int,
    chunk_length: int,
    num_chunks_before: int,
    num_chunks_after: int = 0,
    causal: bool = True,
    deduplicate_rounds: bool = False,
    dropout: float = 0.0,
    output_map: bool = False,
) -> tuple[Float[Tensor, "batch heads seq dim"], AttentionMap | None]:
    """Attention to the nearest places of the same bucket, over several rounds (``band`` scope).

    Args:
        query: in the order of the row; the keys are the queries at unit length.
        value: in the order of the row.
        buckets: bucket ids below ``num_buckets``.
        documents: document of each place, padding last; None for a single document.
        num_buckets: total number of buckets.
        chunk_length: tokens.
        num_chunks_before: the window before a query in its bucket, in chunk lengths.
        num_chunks_after: the window after it; causal requires 0.
        causal: whether later places are hidden.
        deduplicate_rounds: count a key that several rounds show once.
        dropout: of the probabilities.
        output_map: also return the attention map.

    Returns:
        The output, and the map or None.

    Source: paper section 2 and appendix A; the band is this project's.
    """
    window = (chunk_length, num_chunks_before, num_chunks_after)
    sort = sort_by_bucket(buckets, documents, num_buckets)
    sorted_query = permute(query, sort)
    attended = band_attention(
        sorted_query,
        normalise_keys(sorted_query),
        permute(value, sort),
        sort.segments,
        chunk_length=chunk_length,
        num_chunks_before=num_chunks_before,
        num_chunks_after=num_chunks_after,
        causal=causal,
        self_mask=True,
        counts=count_appearances(sort, *window) if deduplicate_rounds else None,
        dropout=dropout,
    )
    logsumexps = unpermute(attended.logsumexp.unsqueeze(-1), sort).squeeze(-1)
    output = combine_rounds(unpermute(attended.output, sort), logsumexps)
    if not output_map:
        return output, None
    places = window_places(sort.order, *window)
    return output, map_rounds(attended.probabilities, attended.logsumexp, places, sort)
