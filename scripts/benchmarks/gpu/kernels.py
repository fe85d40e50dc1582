"""Attention alone on a device: how exact it is, and how near to what the device can do."""

from collections.abc import Sequence
from statistics import median
from typing import Any

import torch
from torch import Tensor

from reformer_hf.ops.attend import normalise_keys
from reformer_hf.ops.attention import (
    attend_long_order,
    choose_implementation,
    local_attention,
    lsh_attention,
)
from reformer_hf.ops.chunk_scope import chunk_attention
from reformer_hf.ops.long_order import LongOrder, segment_order
from reformer_hf.ops.sorting import sort_by_bucket
from reformer_hf.ops.window import Window
from scripts.benchmarks.common.peers import ModelShape
from scripts.benchmarks.gpu.arguments import GpuBenchmarkArguments, GpuCase
from scripts.benchmarks.gpu.models import begin_peak, peak_bytes, time_steps

PEAKS = {"H200": (989e12, 4.8e12), "H100": (989e12, 3.35e12), "A100": (312e12, 2.04e12)}
"""FLOP of dense bfloat16 and bytes of memory in a second, by the makers' data sheets (SXM)."""


def examine(case: GpuCase, arguments: GpuBenchmarkArguments) -> dict:
    """Largest errors against float64 on the same device, of the default and of `eager`.

    Of outputs and gradients, over local layers and both scopes of LSH layers, with packed or padded
    rows. All is given the same buckets.
    """
    device, dtype = torch.device(arguments.device), getattr(torch, case.variant)
    generator = torch.Generator(device).manual_seed(0)
    shape = (2, 2, case.length, 64)
    vectors = [torch.randn(shape, device=device, generator=generator).to(dtype) for _ in range(3)]
    cotangent = torch.randn(shape, device=device, generator=generator).to(dtype)
    buckets = torch.randint(4, (2, 2, 3, case.length), device=device, generator=generator)
    documents = (torch.arange(case.length, device=device) >= case.length // 3).long().expand(2, -1)
    band, chunk = Window(16, 1), Window(16, 1, scope="chunk")
    names = ("auto", "eager")

    def attend(kind: str, name: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if kind == "local":
            return local_attention(q, k, v, documents, window=band, implementation=name)[0]
        scope, window = (lsh_attention, band) if kind == "band" else (chunk_attention, chunk)
        options = {"num_buckets": 4, "window": window, "implementation": name}
        output = scope(q, v, buckets, documents, **options)[0]
        # The chunk scope leaves open what padding gets.
        return output if kind == "band" else output * (documents == 0)[:, None, :, None]

    errors = {f"{part}_{name}": 0.0 for part in ("output", "gradient") for name in names}
    for kind in ("local", "band", "chunk"):
        truth = _pass([x.double() for x in vectors], cotangent.double(), kind, "eager", attend)
        for name in names:
            found = _pass(vectors, cotangent, kind, name, attend)
            for place, (mine, theirs) in enumerate(zip(found, truth, strict=True)):
                key = f"{'gradient' if place else 'output'}_{name}"
                errors[key] = max(errors[key], float((mine.double() - theirs).abs().max()))
    return {"implementation": choose_implementation("auto", vectors[0], False), **errors}


def _pass(vectors: Sequence[Tensor], cotangent: Tensor, kind: str, name: str, attend) -> list:
    """Output and gradients; the keys of LSH attention are its queries."""
    leaves = [x.detach().requires_grad_() for x in vectors]
    output = attend(kind, name, *leaves)
    used = leaves if kind == "local" else [leaves[0], leaves[2]]
    return [output.detach(), *torch.autograd.grad(output, used, cotangent)]


def count_work(order: LongOrder, dim: int, itemsize: int, training: bool) -> tuple[int, int]:
    """The least FLOP and bytes of attention over an order.

    A visible pair costs two products of vectors forward and five backward, where the scores are
    made again. A rank reads three vectors, and the sums over rounds write and read float32.
    """
    pairs = int(order.mask.earlier.sum())  # type: ignore[union-attr]
    ranks = order.rows.numel()
    flop, moved = 2 * 2 * dim * pairs, ranks * dim * (3 * itemsize + 8)
    if training:
        flop += 5 * 2 * dim * pairs
        moved += ranks * dim * (4 * itemsize + 3 * 8)
    return flop, moved


def time_kernels(case: GpuCase, arguments: GpuBenchmarkArguments, shape: ModelShape) -> dict:
    """Seconds of one LSH layer's attention, and its share of the device's peaks."""
    device, training = torch.device(arguments.device), case.variant == "training"
    heads, dim = shape.num_attention_heads, shape.hidden_size // shape.num_attention_heads
    generator = torch.Generator(device).manual_seed(0)
    size, options = (1, heads, case.length, dim), {"device": device, "generator": generator}
    query, value, cotangent = (torch.randn(size, **options).bfloat16() for _ in range(3))
    count = max(2, case.length // shape.attn_chunk_length)  # buckets that fill their windows
    ids = torch.randint(count, (1, heads, shape.num_hashes, case.length), **options)
    window = Window(shape.attn_chunk_length, 1)
    order = segment_order(sort_by_bucket(ids, None, count), window, self_mask=True)
    chosen = choose_implementation("auto", query, False)
    key = normalise_keys(query)
    leaves = [x.requires_grad_(training) for x in (query, key, value)]

    def step() -> None:
        output = attend_long_order(chosen, query, key, value, order, 0.0)
        if training:
            torch.autograd.grad(output, leaves, cotangent)

    begin_peak(device)
    limits = (arguments.warmup, 4 * arguments.steps, arguments.max_seconds)
    seconds = median(time_steps(step, device, *limits))
    flop, moved = count_work(order, dim, 2, training)
    result = {
        "implementation": chosen,
        "seconds": seconds,
        "flop": flop,
        "bytes": moved,
        "peak_bytes": peak_bytes(device),
    }
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    for known, (flop_peak, byte_peak) in PEAKS.items():
        if known in name:
            result["share_of_flop"] = flop / seconds / flop_peak
            result["share_of_bytes"] = moved / seconds / byte_peak
    return result
