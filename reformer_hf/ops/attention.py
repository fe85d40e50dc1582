"""Local and LSH attention on one primitive, a band of ranks within segments.

Tokens stand in some order; a query sees the places within its window that share its segment.
Local attention: the order of the row, segments are documents. LSH attention: one order per round,
sorted by (document, bucket, place), segments are the buckets of a document. The ``chunk`` scope of
LSH attention, where buckets mix, is in :mod:`reformer_hf.ops.chunk_scope`.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from reformer_hf.ops.attend import (
    Attended,
    Implementation,
    attend,
    normalise_keys,
    normalise_keys_in_parts,
)
from reformer_hf.ops.attention_map import AttentionMap, map_rounds, window_places
from reformer_hf.ops.blockwise import attend_blockwise
from reformer_hf.ops.checks import require_choice
from reformer_hf.ops.flex import attend_flex
from reformer_hf.ops.long_order import LongOrder, segment_order
from reformer_hf.ops.sorting import SortOrder, keep_order, permute, sort_by_bucket, unpermute
from reformer_hf.ops.triton_attention import attend_triton, has_kernels, refusal
from reformer_hf.ops.window import (
    Window,
    count_appearances,
    look_adjacent,
    merge_chunks,
    pair_ids,
    rank_distance,
    split_chunks,
)

LONG_ORDER = ("blockwise", "triton")
"""The implementations that attend all rounds at once, over the long order."""


def choose_implementation(
    wanted: str, query: Float[Tensor, "*lead dim"], needs_all: bool
) -> Implementation:
    """Choose how to compute attention.

    Args:
        wanted: what was asked for.
        query: the queries.
        needs_all: whether scores of all rounds are needed at once, as for an attention map.

    Returns:
        No longer ``auto``. ``eager`` where nothing else will do, and in place of ``blockwise``
        under a compiler, which fuses it by itself.

    Raises:
        ValueError: if there is no such implementation.

    >>> choose_implementation("blockwise", torch.zeros(1, 4), needs_all=True)
    'eager'
    """
    require_choice(Implementation, implementation=wanted)
    if wanted == "auto":
        takes_kernels = refusal(query) is None and has_kernels(query.device)
        wanted = "triton" if takes_kernels else "blockwise"
    compiled = wanted == "blockwise" and torch.compiler.is_compiling()
    return "eager" if needs_all or compiled else wanted  # type: ignore[return-value]


def attend_long_order(
    implementation: Implementation,
    query: Float[Tensor, "batch heads seq dim"],
    key: Float[Tensor, "batch heads seq dim"],
    value: Float[Tensor, "batch heads seq dim"],
    order: LongOrder,
    dropout: float,
) -> Float[Tensor, "batch heads seq dim"]:
    """Attend in all rounds and combine them.

    Args:
        implementation: one of ``LONG_ORDER``.
        query: in the order of the row.
        key: in the order of the row.
        value: in the order of the row.
        order: where the keys of each query stand.
        dropout: of the probabilities.

    Returns:
        The output, which can be differentiated once.

    >>> x, sort = torch.eye(2).view(1, 1, 2, 2), keep_order(1, 1, 2)
    >>> order = segment_order(sort, Window(1, 1), self_mask=True)
    >>> attend_long_order("blockwise", x, x, x, order, 0.0)[0, 0].tolist()
    [[1.0, 0.0], [1.0, 0.0]]
    """
    if implementation == "triton":
        return attend_triton(query, key, value, order, dropout)
    return attend_blockwise(query, key, value, order, dropout)


def band_attention(
    query: Float[Tensor, "*lead seq dim"],
    key: Float[Tensor, "*lead seq dim"],
    value: Float[Tensor, "*lead seq dim"],
    segments: Int[Tensor, "*#lead seq"] | None,
    window: Window,
    *,
    self_mask: bool = False,
    counts: Int[Tensor, "*#lead chunks chunk_len window"] | None = None,
    dropout: float = 0.0,
    implementation: Implementation = "eager",
) -> Attended:
    """The primitive: each query sees the places near its own that share its segment.

    Args:
        query: in the order that defines the ranks.
        key: in the same order.
        value: in the same order.
        segments: from 0; None for a single segment.
        window: how far the queries see.
        self_mask: the own place counts only when the window shows no other key.
        counts: divide each key's weight by this.
        dropout: of the probabilities.
        implementation: ``eager`` or ``flex_attention``.

    Returns:
        Output, log-sum-exp and probabilities by rank.

    >>> x = torch.eye(3).view(1, 3, 3)
    >>> band_attention(x, 0 * x, x, None, Window(1, 1)).output[0, 2].tolist()
    [0.0, 0.5, 0.5]
    """
    seq, length = query.shape[-2], window.chunk_length
    if segments is None:
        segments = torch.zeros(seq, dtype=torch.int64, device=query.device)
    if implementation == "flex_attention":
        return attend_flex(query, key, value, segments, window, self_mask, dropout)
    distance = rank_distance(window, query.device)
    query_segments, key_segments = pair_ids(segments, window)
    attended = attend(
        split_chunks(query, length),
        look_adjacent(split_chunks(key, length), window),
        look_adjacent(split_chunks(value, length), window),
        window.shows(distance) & (query_segments == key_segments),
        own=distance == 0 if self_mask else None,
        counts=counts,
        dropout=dropout,
    )
    return Attended(
        merge_chunks(attended.output, seq),
        merge_chunks(attended.logsumexp.unsqueeze(-1), seq).squeeze(-1),
        merge_chunks(attended.probabilities, seq),  # type: ignore[arg-type]
    )


def local_attention(
    query: Float[Tensor, "batch heads seq dim"],
    key: Float[Tensor, "batch heads seq dim"],
    value: Float[Tensor, "batch heads seq dim"],
    documents: Int[Tensor, "batch seq"] | None = None,
    *,
    window: Window,
    dropout: float = 0.0,
    output_map: bool = False,
    implementation: Implementation = "auto",
) -> tuple[Float[Tensor, "batch heads seq dim"], AttentionMap | None]:
    """Attention to the places nearby in the same document.

    Args:
        query: in the order of the row.
        key: in the order of the row.
        value: in the order of the row.
        documents: document of each place, padding last; None for a single document.
        window: how far a query sees, of either scope.
        dropout: of the probabilities.
        output_map: also return the attention map, which only ``eager`` makes.
        implementation: how to compute it.

    Returns:
        The output, and the map or None.

    Raises:
        ValueError: if ``implementation`` is unknown, or cannot do what is asked.

    Source: paper section 5 ("local attention"); the band is this project's.

    >>> x = torch.eye(3).view(1, 1, 3, 3)
    >>> local_attention(x, 0 * x, x, window=Window(1, 1))[0][0, 0, 2].tolist()
    [0.0, 0.5, 0.5]
    """
    batch, heads, seq, _ = query.shape
    if documents is None:
        sort = keep_order(batch, heads, seq, query.device)
    else:
        one_bucket = torch.zeros_like(documents)[:, None, None]
        sort = sort_by_bucket(one_bucket, documents, 1).expand_heads(heads)
    implementation = choose_implementation(implementation, query, output_map)
    if implementation in LONG_ORDER:
        order = segment_order(sort, window, self_mask=False)
        return attend_long_order(implementation, query, key, value, order, dropout), None
    if documents is None:
        query, key, value = (vectors.unsqueeze(2) for vectors in (query, key, value))
    else:
        query, key, value = (permute(vectors, sort) for vectors in (query, key, value))
    segments = None if documents is None else sort.segments
    attended = band_attention(
        query, key, value, segments, window, dropout=dropout, implementation=implementation
    )
    output = attended.output if documents is None else unpermute(attended.output, sort)
    return output.squeeze(2), _to_map(attended, sort, window) if output_map else None


def lsh_attention(
    query: Float[Tensor, "batch heads seq dim"],
    value: Float[Tensor, "batch heads seq dim"],
    buckets: Int[Tensor, "batch heads rounds seq"],
    documents: Int[Tensor, "batch seq"] | None = None,
    *,
    num_buckets: int,
    window: Window,
    deduplicate_rounds: bool = False,
    dropout: float = 0.0,
    output_map: bool = False,
    implementation: Implementation = "auto",
) -> tuple[Float[Tensor, "batch heads seq dim"], AttentionMap | None]:
    """Attention to the nearest places of the same bucket, over several rounds (``band`` scope).

    Args:
        query: in the order of the row; the keys are the queries at unit length.
        value: in the order of the row.
        buckets: bucket ids below ``num_buckets``.
        documents: document of each place, padding last; None for a single document.
        num_buckets: total number of buckets.
        window: how far a query sees in its bucket, in the ``band`` scope.
        deduplicate_rounds: count a key that several rounds show once.
        dropout: of the probabilities.
        output_map: also return the attention map, which only ``eager`` makes.
        implementation: how to compute it.

    Returns:
        The output, and the map or None.

    Raises:
        ValueError: if the window is of the ``chunk`` scope, or ``implementation`` is unknown or
            cannot do what is asked.

    Source: paper section 2 and appendix A; the band is this project's.

    >>> x, buckets = torch.eye(3).view(1, 1, 3, 3), torch.tensor([[[[0, 1, 0]]]])
    >>> lsh_attention(x, x, buckets, num_buckets=2, window=Window(1, 1))[0][0, 0].tolist()
    [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [1.0, 0.0, 0.0]]
    """
    return attend_sorted(
        query,
        value,
        sort_by_bucket(buckets, documents, num_buckets),
        window,
        deduplicate_rounds=deduplicate_rounds,
        dropout=dropout,
        output_map=output_map,
        implementation=implementation,
    )


def attend_sorted(
    query: Float[Tensor, "batch heads seq dim"],
    value: Float[Tensor, "batch heads seq dim"],
    sort: SortOrder,
    window: Window,
    *,
    deduplicate_rounds: bool = False,
    dropout: float = 0.0,
    output_map: bool = False,
    implementation: Implementation = "auto",
) -> tuple[Float[Tensor, "batch heads seq dim"], AttentionMap | None]:
    """The same, given the sort order of all rounds; see :func:`lsh_attention`.

    >>> x, buckets = torch.eye(2).view(1, 1, 2, 2), torch.zeros(1, 1, 1, 2, dtype=torch.int64)
    >>> sort = sort_by_bucket(buckets, None, 1)
    >>> attend_sorted(x, x, sort, Window(1, 1))[0][0, 0].tolist()
    [[1.0, 0.0], [1.0, 0.0]]
    """
    window.require("band")
    needs_all = output_map or deduplicate_rounds
    implementation = choose_implementation(implementation, query, needs_all)
    if implementation in LONG_ORDER:
        order = segment_order(sort, window, self_mask=True)
        keys = normalise_keys_in_parts(query)
        return attend_long_order(implementation, query, keys, value, order, dropout), None
    sorted_query = permute(query, sort)
    attended = band_attention(
        sorted_query,
        normalise_keys(sorted_query),
        permute(value, sort),
        sort.segments,
        window,
        self_mask=True,
        counts=count_appearances(sort, window) if deduplicate_rounds else None,
        dropout=dropout,
        implementation=implementation,
    )
    output = combine_rounds(attended, sort)
    return output, _to_map(attended, sort, window) if output_map else None


def _to_map(attended: Attended, sort: SortOrder, window: Window) -> AttentionMap:
    """The attention map in the order of the row."""
    assert attended.probabilities is not None  # since maps are made by `eager`
    places = window_places(sort.order, window)
    return map_rounds(attended.probabilities, attended.logsumexp, places, sort)


def combine_rounds(attended: Attended, sort: SortOrder) -> Float[Tensor, "batch heads seq dim"]:
    """Bring all rounds back to the order of the row, weighed by the softmax of their log-sum-exps.

    Args:
        attended: of each round, by rank.
        sort: the sort order of all rounds.

    Returns:
        The output: one softmax over the union of the rounds' windows.

    Source: paper appendix A, equations 8 and 9.

    >>> sort = sort_by_bucket(torch.tensor([[[[1, 0], [0, 1]]]]), None, 2)
    >>> output = torch.tensor([[6.0, 5.0], [7.0, 6.0]]).view(1, 1, 2, 2, 1)
    >>> combine_rounds(Attended(output, torch.zeros(1, 1, 2, 2), None), sort).flatten().tolist()
    [6.0, 6.0]
    """
    logsumexps = unpermute(attended.logsumexp.unsqueeze(-1), sort).squeeze(-1)
    outputs = unpermute(attended.output, sort)
    weights = torch.softmax(logsumexps, dim=2).to(outputs.dtype)
    return (outputs * weights.unsqueeze(-1)).sum(dim=2)
