"""What LSH attention shows of exact attention, on the queries of a trained model."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from reformer_hf import ReformerHFForCausalLM
from reformer_hf.nn.attention import LSHSelfAttention
from reformer_hf.ops.attend import normalise_keys
from reformer_hf.ops.attention import lsh_attention
from reformer_hf.ops.attention_map import AttentionMap
from reformer_hf.ops.chunk_scope import chunk_attention
from reformer_hf.ops.full_attention import full_attention
from reformer_hf.ops.hashing import (
    default_num_buckets,
    hash_vectors,
    sample_rotations,
    total_buckets,
)
from reformer_hf.ops.rotary import rotate_queries
from reformer_hf.ops.window import Window

TOP = (1, 8, 32)
"""Numbers of true top keys that are looked for."""


@dataclass
class Layer:
    """An LSH layer on some text, of one row.

    Attributes:
        hashed: what it hashes, (1, heads, seq, dim).
        query: the same, turned by its position where the model has rotary ones.
        value: (1, heads, seq, dim).
        exact: attention of full shared-QK attention, (heads, seq, seq).
        output: what that yields, (heads, seq, dim).
    """

    hashed: Tensor
    query: Tensor
    value: Tensor
    exact: Tensor
    output: Tensor


class Case(NamedTuple):
    """How keys are chosen.

    Attributes:
        variant: `chunk`, `band`, or `band and nearest`, which has one more round of the tokens just
            before.
        rounds: of hashing.
        bucket: tokens of a mean bucket.
    """

    variant: str
    rounds: int
    bucket: int

    def __str__(self) -> str:
        return f"{self.variant}, {self.rounds} rounds, buckets of {self.bucket}"


VARIANTS = ("chunk", "band", "band and nearest")


@torch.no_grad()
def read_layers(model: ReformerHFForCausalLM, ids: Tensor) -> list[Layer]:
    """What the LSH layers of a model make of a row of tokens, (1, seq)."""
    calls: list[tuple[LSHSelfAttention, Tensor, Any]] = []

    def keep(module: Any, inputs: Any, options: Any) -> None:
        calls.append((module, inputs[0], options.get("rotary")))

    found = [module for module in model.modules() if isinstance(module, LSHSelfAttention)]
    handles = [module.register_forward_pre_hook(keep, with_kwargs=True) for module in found]
    try:
        model.eval()(ids, logits_to_keep=1)
    finally:
        for handle in handles:
            handle.remove()
    layers = []
    for module, hidden, rotary in calls:
        hashed, value = module.project_input((module.query_key, module.value), hidden)
        query = hashed if rotary is None else rotate_queries(hashed, rotary)
        key = normalise_keys(query)
        output, exact = full_attention(query, key, value, self_mask=True, output_map=True)
        assert exact is not None
        layers.append(Layer(hashed, query, value, exact.to_dense()[0], output[0]))
    return layers


def window_of(case: Case, window: int) -> Window:
    """The window in which a query sees so many places: of the `chunk` scope its own chunk and the
    one before it."""
    if case.variant == "chunk":
        return Window(window // 2, 1, scope="chunk")
    return Window(window, 1)


def attend(layer: Layer, case: Case, window: int, seed: int) -> tuple[Tensor, AttentionMap, Tensor]:
    """Attend by LSH.

    Args:
        layer: queries and values.
        case: how keys are chosen.
        window: places that a query sees in a round.
        seed: of the rotations.

    Returns:
        The output, the attention map, and bucket ids, (1, heads, rounds, seq), with those of the
        nearest tokens' round last.
    """
    _, heads, seq, dim = layer.hashed.shape
    num_buckets = default_num_buckets(seq, case.bucket)
    rotations = sample_rotations(seed, heads, dim, case.rounds, num_buckets)
    buckets = hash_vectors(layer.hashed, rotations, num_buckets)
    if case.variant == "band and nearest":
        buckets = pad(buckets, (0, 0, 0, 1))
    attention = chunk_attention if case.variant == "chunk" else lsh_attention
    output, attention_map = attention(
        layer.query,
        layer.value,
        buckets,
        num_buckets=total_buckets(num_buckets),
        window=window_of(case, window),
        output_map=True,
        implementation="eager",
    )
    assert attention_map is not None
    return output[0], attention_map, buckets


@torch.no_grad()
def measure(layer: Layer, case: Case, window: int, seeds: int) -> dict[str, float]:
    """How near LSH attention is to exact attention; the means over draws of rotations.

    Returns:
        `hashed_N` and `shown_N`, shares of the true top N keys that have the query's bucket in a
        round, and that it is shown; `weight`, the share of exact attention's probabilities that
        falls on shown keys; `output_error`, and `output_error_once`, where a key counts once
        however many rounds show it: the norm of the difference over that of the exact output;
        `lost`, the share of pairs of one bucket whose query is not shown its key in that round;
        `crowded`, the share of tokens in buckets of more than twice the mean size.
    """
    results = [_measure_once(layer, case, window, seed) for seed in range(seeds)]
    return {name: sum(one[name] for one in results) / seeds for name in results[0]}


def _measure_once(layer: Layer, case: Case, window: int, seed: int) -> dict[str, float]:
    output, attention_map, buckets = attend(layer, case, window, seed)
    shown = attention_map.to_dense()[0] > 0
    kept = layer.exact * shown
    weight = kept.sum(dim=-1, keepdim=True)
    once = (kept / weight.clamp(min=1e-30)) @ layer.value[0]
    result = {
        "weight": float(weight.mean()),
        "output_error": _relative_error(output, layer.output),
        "output_error_once": _relative_error(once, layer.output),
    }
    together = _share_a_bucket(buckets[0, :, : case.rounds])
    for count in TOP:
        keys = layer.exact[:, count:].topk(count).indices  # of queries that have as many
        for name, mask in (("hashed", together), ("shown", shown)):
            found = mask[:, count:].gather(-1, keys)
            result[f"{name}_{count}"] = float(found.double().mean())
    num_buckets = total_buckets(default_num_buckets(layer.hashed.shape[2], case.bucket))
    return result | _overflow(attention_map, buckets[:, :, : case.rounds], num_buckets)


def _relative_error(output: Tensor, exact: Tensor) -> float:
    return float((output - exact).norm(dim=-1).mean() / exact.norm(dim=-1).mean())


def _share_a_bucket(buckets: Tensor) -> Tensor:
    """Whether two places share a bucket in a round, (heads, seq, seq), of ids by round."""
    heads, _, seq = buckets.shape
    shared = torch.zeros(heads, seq, seq, dtype=torch.bool)
    for one in buckets.unbind(1):
        shared |= one.unsqueeze(-1) == one.unsqueeze(-2)
    return shared


def _overflow(attention_map: AttentionMap, buckets: Tensor, num_buckets: int) -> dict[str, float]:
    """What rounds of hashing do not show of their buckets; see `measure`."""
    places = attention_map.key_places[:, :, : buckets.shape[2]]
    flat = places.clamp(min=0).flatten(3).long()
    theirs = buckets.gather(3, flat).view(places.shape)
    own = torch.arange(places.shape[3]).view(-1, 1)
    seen = (theirs == buckets.unsqueeze(-1)) & (places >= 0) & (places < own)
    sizes = torch.zeros(*buckets.shape[:3], num_buckets, dtype=torch.int64)
    sizes.scatter_add_(3, buckets, torch.ones_like(buckets))
    pairs = float((sizes * (sizes - 1) / 2).sum())
    lost = 1 - float(seen.sum()) / pairs if pairs else 0.0
    crowded = sizes.gather(3, buckets) > 2 * buckets.shape[3] / num_buckets
    return {"lost": lost, "crowded": float(crowded.double().mean())}
