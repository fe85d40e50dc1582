"""Models of many kinds, rows with padding, and passes over them with a cache, some taken back."""

import dataclasses
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import pad

from reformer_hf import ReformerHFCache, ReformerHFForCausalLM
from reformer_hf.nn.reversible import Decision
from tests.models.tiny import random_ids

PADDINGS = ("none", "left", "right", "prompt", "holes")
"""Of rows: none, in front, behind, behind the first pass, anywhere."""


RECURRENT_UNITS = st.fixed_dictionaries(
    {"ff_sru_size": st.just(3), "ff_sru_layers": st.integers(1, 2)}
)
SPARSE_QKV = st.fixed_dictionaries(
    {
        "attention_sparsity": st.sampled_from([2, 4]),
        "attention_sparsity_kernel": st.integers(1, 4),
    }
)


LOCAL_ROUNDS = (
    {"lsh_local_round": False},
    {"lsh_local_round": True},
    {"lsh_local_round": True, "lsh_next_values": True},
)


@st.composite
def model_fields(draw: st.DrawFn, *kinds: str) -> dict[str, Any]:
    """Fields of a model whose layers are of these kinds."""
    return {
        "seed": draw(st.integers(0, 3)),
        "attn_layers": draw(st.lists(st.sampled_from(kinds), min_size=1, max_size=3)),
        "local_attn_chunk_length": draw(st.integers(1, 6)),
        "local_num_chunks_before": draw(st.integers(0, 2)),
        "lsh_attn_chunk_length": draw(st.integers(1, 6)),
        "lsh_num_chunks_before": draw(st.integers(1, 2)),
        "num_hashes": draw(st.integers(1, 3)),
        "num_buckets": draw(st.sampled_from([2, 4, [2, 4]])),
        "deduplicate_rounds": draw(st.booleans()),
        "position_embedding_type": draw(st.sampled_from(["axial", "learned", "rotary", "none"])),
        "conv_kernel": draw(st.sampled_from([0, 2, 3, 4])),
        "use_qk_norm": draw(st.booleans()),  # of local and full layers
        **draw(st.sampled_from(LOCAL_ROUNDS)),  # of the band scope
        "ff_sparsity": draw(st.sampled_from([0, 4])),
        **draw(st.one_of(st.just({}), RECURRENT_UNITS)),
        **draw(st.one_of(st.just({}), SPARSE_QKV)),
        "attention_output_projection": draw(st.booleans()),
        "eos_token_id": None,
    }


@dataclasses.dataclass(frozen=True)
class Pass:
    """One pass with a cache, and what is then taken back.

    Attributes:
        size: tokens that stay.
        extra: tokens behind them in the same pass, which are taken back.
        detours: tokens of further passes, which are taken back.
        whole_mask: give the mask of all tokens and not only of the new ones.
        again: take nothing back once more.
    """

    size: int
    extra: int = 0
    detours: tuple[int, ...] = ()
    whole_mask: bool = True
    again: bool = False


def plain_passes() -> st.SearchStrategy[list[Pass]]:
    """Passes of which nothing is taken back."""
    one = st.builds(Pass, size=st.integers(1, 9), whole_mask=st.booleans())
    return st.lists(one, min_size=2, max_size=6)


def passes_with_detours() -> st.SearchStrategy[list[Pass]]:
    """Passes of which parts are taken back, or passes behind them, or both at once."""
    one = st.builds(
        Pass,
        size=st.integers(1, 9),
        extra=st.integers(0, 3),
        detours=st.lists(st.integers(1, 5), max_size=2).map(tuple),
        whole_mask=st.booleans(),
        again=st.booleans(),
    )
    return st.lists(one, min_size=2, max_size=5)


def draw_mask(kind: str, rows: int, passes: list[Pass], seed: int) -> Tensor:
    """1 at real tokens, (batch, seq); the first pass has a real token of each row."""
    generator = torch.Generator().manual_seed(seed)
    first, seq = passes[0].size, sum(one.size for one in passes)
    mask = torch.ones(rows, seq, dtype=torch.int64)
    for row in mask:
        count = int(torch.randint(first, (), generator=generator))
        if kind == "left":
            row[:count] = 0
        elif kind == "right":
            row[seq - count :] = 0
        elif kind == "prompt":
            row[first - count : first] = 0
        elif kind == "holes":
            row *= torch.rand(seq, generator=generator) < 0.7
            row[count] = 1
    return mask


def run(
    model: ReformerHFForCausalLM,
    ids: Tensor,
    passes: list[Pass],
    mask: Tensor | None = None,
    decisions: list[Tensor | None] | None = None,
    record: bool = True,
) -> Tensor:
    """Logits of the tokens that stay.

    Args:
        model: the model.
        ids: tokens that stay, (batch, seq).
        passes: how they are cut; padding is never taken back.
        mask: 1 at real tokens; None for no mask at all.
        decisions: bucket ids of all tokens for each layer, or None for its own.
        record: keep what it takes to take something back.

    Returns:
        Logits, (batch, seq, vocab).
    """
    cache, logits, start = ReformerHFCache(model.config), [], 0
    if record:
        cache.activate_past_recording()
    for number, one in enumerate(passes):
        stop = start + one.size
        padded = mask is not None and not bool(mask[:, start:stop].all())
        # The chunk scope's first pass is cut as a whole.
        whole = number == 0 and model.config.attention_scope == "chunk"
        extra = 0 if padded or whole or not record else one.extra
        detours = one.detours if record else ()
        behind = extra + sum(detours)
        junk = random_ids(len(ids), behind, seed=start)
        tokens = torch.cat([ids[:, :stop], junk], dim=1)
        masked = None
        if mask is not None:
            masked = torch.cat([mask[:, :stop], torch.ones_like(junk)], dim=1)
        end = stop + extra
        found = _forward(model, cache, tokens, masked, (start, end), one.whole_mask, decisions)
        logits.append(found[:, : one.size])
        for detour in detours:
            span = (end, end + detour)
            _forward(model, cache, tokens, masked, span, one.whole_mask)
            end += detour
        if behind:
            cache.crop(-behind)
        if one.again:
            cache.crop(0)
        assert cache.get_seq_length() == stop
        start = stop
    return torch.cat(logits, dim=1)


def _forward(
    model: ReformerHFForCausalLM,
    cache: ReformerHFCache,
    tokens: Tensor,
    mask: Tensor | None,
    span: tuple[int, int],
    whole_mask: bool,
    decisions: list[Tensor | None] | None = None,
) -> Tensor:
    start, stop = span
    options: dict[str, Any] = {}
    if mask is not None:
        options["attention_mask"] = mask[:, 0 if whole_mask else start : stop]
    if decisions is not None:
        given = [None if ids is None else ids[..., start:stop] for ids in decisions]
        missing = [0 if ids is None else stop - start - ids.shape[-1] for ids in given]
        options["hash_decisions"] = [
            decided(None if ids is None else pad(ids, (0, count)))  # of what is taken back: any
            for ids, count in zip(given, missing, strict=True)
        ]
    with torch.no_grad():
        return model(tokens[:, start:stop], past_key_values=cache, **options).logits


def decided(ids: Tensor | None) -> Decision:
    """A decision for these bucket ids, or an open one."""
    decision = Decision()
    if ids is not None:
        decision.recall(lambda: ids)
    return decision


def uncached(model: ReformerHFForCausalLM, ids: Tensor, **inputs: Any) -> Tensor:
    """Logits of one pass without a cache."""
    with torch.no_grad():
        return model(ids, use_cache=False, **inputs).logits
