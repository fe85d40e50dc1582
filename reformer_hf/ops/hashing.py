"""Locality-sensitive hashing of vectors into buckets by random rotations."""

import hashlib
import math
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from reformer_hf.ops.operators import own_name
from reformer_hf.ops.precision import autocast_off

NumBuckets = int | Sequence[int]


def bucket_factors(num_buckets: NumBuckets) -> tuple[int, ...]:
    """Read a bucket count as its factors, and check that each is even and positive.

    Args:
        num_buckets: an even int, or a sequence of even factors.

    Returns:
        The factors.

    Raises:
        ValueError: if a factor is odd or below 2, or if there is none.

    >>> bucket_factors(64), bucket_factors([16, 32])
    ((64,), (16, 32))
    """
    factors = (num_buckets,) if isinstance(num_buckets, int) else tuple(num_buckets)
    if not factors or any(factor < 2 or factor % 2 for factor in factors):
        raise ValueError(
            f"num_buckets={num_buckets!r}: each factor must be an even number of at least 2, "
            "because a rotation yields a bucket for each direction and its opposite"
        )
    return factors


def total_buckets(num_buckets: NumBuckets) -> int:
    """Number of distinct buckets: the product of the factors.

    >>> total_buckets([16, 32])
    512
    """
    return math.prod(bucket_factors(num_buckets))


def default_num_buckets(hash_length: int, window: int) -> int | list[int]:
    """Choose a bucket count for which an average bucket fills its window at ``hash_length``.

    Args:
        hash_length: tokens.
        window: tokens a query may look back in its bucket.

    Returns:
        An even int; above 128, two even factors of about equal size.

    >>> default_num_buckets(8192, 64), default_num_buckets(65536, 64)
    (128, [32, 32])
    """
    count = max(2, 2 * round(hash_length / window / 2))
    if count <= 128:
        return count
    first = 2 * round(math.sqrt(count) / 2)
    return [first, max(2, 2 * round(count / first / 2))]


def derive_seed(seed: int, *path: int) -> int:
    """Derive an independent seed from a seed and a path such as (layer, round).

    Args:
        seed: any int.
        path: ints that name the use.

    Returns:
        An int in ``[0, 2**63)``, the same on every machine.

    >>> derive_seed(0, 1) != derive_seed(0, 2)
    True
    """
    digest = hashlib.blake2b(repr((int(seed), *path)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def sample_rotations(
    seed: int,
    num_heads: int,
    head_dim: int,
    num_hashes: int,
    num_buckets: NumBuckets,
    device: torch.device | str = "cpu",
    layer_index: int | None = 0,
) -> Float[Tensor, "heads dim rounds columns"]:
    """Draw one rotation per head and round from private generators.

    Each layer and round has a seed of its own, so the first rounds do not change with
    ``num_hashes``. The draw happens on the CPU, so that every device hashes alike; torch's default
    generators are neither read nor moved.

    Args:
        seed: seed of the model's rotations.
        num_heads: heads.
        head_dim: dimension of a head.
        num_hashes: rounds.
        num_buckets: even int or even factors.
        device: where the result goes.
        layer_index: which layer; None for one draw that all layers share, as of transformers'
            Reformer with an integer ``hash_seed``, which reseeds before each layer's.

    Returns:
        Standard normal float32; ``columns`` is half the sum of the factors.

    >>> sample_rotations(0, 2, 8, 3, [4, 6]).shape
    torch.Size([2, 8, 3, 5])
    """
    columns = sum(bucket_factors(num_buckets)) // 2
    drawn = _draw(seed, layer_index, num_heads, head_dim, num_hashes, columns)
    on_gpu = torch.device(device).type == "cuda" and torch.cuda.is_available()
    if on_gpu and not torch.compiler.is_compiling():
        drawn = drawn.pin_memory()  # or the copy would wait for all that the GPU has yet to do
    return drawn.to(device, non_blocking=on_gpu)


# An operator, so that a compiled model draws anew at each call instead of keeping one draw.
@torch.library.custom_op(own_name("draw_rotations", __name__), mutates_args=())
def _draw(
    seed: int,
    layer_index: int | None,
    num_heads: int,
    head_dim: int,
    num_hashes: int,
    columns: int,
) -> Tensor:
    generator = torch.Generator(device="cpu")
    options = {"generator": generator, "device": "cpu", "dtype": torch.float32}
    if layer_index is None:
        generator.manual_seed(seed)
        return torch.randn(num_heads, head_dim, num_hashes, columns, **options)
    layer_seed, rounds = derive_seed(seed, layer_index), []
    for round_ in range(num_hashes):
        generator.manual_seed(derive_seed(layer_seed, round_))
        rounds.append(torch.randn(num_heads, head_dim, columns, **options))
    return torch.stack(rounds, dim=2)


@_draw.register_fake
def _(
    seed: int,
    layer_index: int | None,
    num_heads: int,
    head_dim: int,
    num_hashes: int,
    columns: int,
) -> Tensor:
    shape = (num_heads, head_dim, num_hashes, columns)
    return torch.empty(shape, device="cpu", dtype=torch.float32)


def hash_vectors(
    vectors: Float[Tensor, "batch heads seq dim"],
    rotations: Float[Tensor, "heads dim rounds columns"],
    num_buckets: NumBuckets,
) -> Int[Tensor, "batch heads rounds seq"]:
    """Hash vectors to buckets: ``argmax([xR; -xR])``, factor by factor, mixed radix.

    Computed in float32 or wider and outside autocast, since a coarse product flips near ties. No
    gradient flows.

    Args:
        vectors: queries, which are the keys up to length.
        rotations: from :func:`sample_rotations`.
        num_buckets: even int or even factors; the first factor is the least significant digit.

    Returns:
        Bucket ids, int64, from 0 to the product of the factors less one.

    Raises:
        ValueError: if the rotations do not fit ``num_buckets``.

    Source: paper section 2, "Locality sensitive hashing".

    >>> x = torch.tensor([[[[1.0, 0.0], [0.0, -2.0]]]])
    >>> hash_vectors(x, torch.eye(2).view(1, 2, 1, 2), 4).tolist()
    [[[[0, 3]]]]
    """
    factors = bucket_factors(num_buckets)
    if rotations.shape[-1] != sum(factors) // 2:
        raise ValueError(
            f"rotations have {rotations.shape[-1]} columns, but num_buckets={num_buckets!r} needs "
            f"{sum(factors) // 2}: sample them with the same num_buckets"
        )
    with torch.no_grad(), autocast_off(vectors.device.type):
        pieces = vectors.split(_piece_length(vectors), dim=2)
        return torch.cat([_hash_piece(piece, rotations, factors) for piece in pieces], dim=-1)


def _piece_length(vectors: Float[Tensor, "batch heads seq dim"]) -> int:
    """How many tokens are best hashed at a time: on a CPU, what its caches hold."""
    batch, heads, seq, _ = vectors.shape
    return max(1, 4096 // (batch * heads)) if vectors.device.type == "cpu" else seq


def _hash_piece(
    vectors: Float[Tensor, "batch heads seq dim"],
    rotations: Float[Tensor, "heads dim rounds columns"],
    factors: tuple[int, ...],
) -> Int[Tensor, "batch heads rounds seq"]:
    vectors = vectors.to(torch.promote_types(vectors.dtype, torch.float32))
    rotated = _rotate(vectors, rotations)
    parts = torch.split_with_sizes(rotated, [factor // 2 for factor in factors], dim=-1)
    digits = [_largest_direction(part) for part in parts]
    buckets, radix = digits[0], factors[0]
    for factor, digit in zip(factors[1:], digits[1:], strict=True):
        buckets = buckets + radix * digit
        radix *= factor
    return buckets


def narrow_buckets(buckets: Int[Tensor, "*lead"], num_buckets: NumBuckets) -> Int[Tensor, "*lead"]:
    """Store bucket ids, which a replay remembers for every layer, in as few bytes as they need.

    Args:
        buckets: bucket ids.
        num_buckets: even int or even factors.

    Returns:
        The same as int16 or int32.

    >>> narrow_buckets(torch.tensor([3]), 4).dtype
    torch.int16
    """
    small = total_buckets(num_buckets) <= torch.iinfo(torch.int16).max
    return buckets.to(torch.int16 if small else torch.int32)


def _rotate(
    vectors: Float[Tensor, "batch heads seq dim"],
    rotations: Float[Tensor, "heads dim rounds columns"],
) -> Float[Tensor, "batch heads rounds seq columns"]:
    batch, heads, seq, _ = vectors.shape
    by_head = vectors.transpose(0, 1).flatten(1, 2) @ rotations.to(vectors.dtype).flatten(2)
    rotated = by_head.view(heads, batch, seq, *rotations.shape[2:])
    return rotated.permute(1, 0, 3, 2, 4)


def _largest_direction(
    coordinates: Float[Tensor, "*lead columns"],
) -> Int[Tensor, "*lead"]:
    """``argmax([x; -x])`` without the concatenation."""
    highest, lowest = coordinates.max(dim=-1), coordinates.min(dim=-1)
    opposite = lowest.indices + coordinates.shape[-1]
    return torch.where(highest.values >= -lowest.values, highest.indices, opposite)
