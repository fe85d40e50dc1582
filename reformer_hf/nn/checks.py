"""Checks of what attention modules are given: each error names the argument, its value and the fix.

Wrong types raise `TypeError`, wrong values `ValueError`. Values inside tensors are looked at on the
CPU only: elsewhere the host would have to wait for the device.
"""

from typing import Any

import torch
from torch import Tensor, nn

from reformer_hf.ops.attend import Implementation
from reformer_hf.ops.checks import require_bools, require_choice, require_ints
from reformer_hf.ops.hashing import bucket_factors
from reformer_hf.ops.window import Window


def check_sizes(dropout: Any, **sizes: Any) -> None:
    """Check what all attention modules are given; `sizes` are at least 1."""
    require_ints(1, **sizes)
    if not isinstance(dropout, int | float) or isinstance(dropout, bool):
        raise TypeError(f"dropout={dropout!r}: give a float of at least 0 and below 1")
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout={dropout}: give a probability of at least 0 and below 1")


def check_kernel(conv_kernel: Any) -> None:
    """Check how many tokens a short convolution sees."""
    require_ints(0, conv_kernel=conv_kernel)
    if conv_kernel == 1:
        raise ValueError(
            "conv_kernel=1: a convolution that sees its own token alone mixes nothing; give 0 for "
            "none, or at least 2"
        )


def check_rotary(rope_theta: Any, head_dim: int) -> None:
    """Check the base of rotary positions, None for none."""
    if rope_theta is None:
        return
    if not isinstance(rope_theta, int | float) or isinstance(rope_theta, bool):
        raise TypeError(f"rope_theta={rope_theta!r}: give a number above 0, or None")
    if not rope_theta > 0:
        raise ValueError(f"rope_theta={rope_theta}: give a number above 0, or None")
    if head_dim % 2:
        raise ValueError(
            f"head_dim={head_dim} with rope_theta={rope_theta}, which turns pairs of numbers: make "
            "it even"
        )


def check_rounds(
    window: Window, deduplicate_rounds: Any, local_round: Any, next_values: Any
) -> None:
    """Check what becomes of the rounds of LSH attention."""
    require_bools(
        deduplicate_rounds=deduplicate_rounds, local_round=local_round, next_values=next_values
    )
    if next_values and not local_round:
        raise ValueError(
            "next_values=True without a local round, in which every token but the first sees "
            "another: set local_round to True"
        )
    if local_round and window.scope == "chunk":
        raise ValueError("local_round=True with scope='chunk': use the band scope, or leave it out")


def check_hashing(window: Window, num_buckets: Any, num_hashes: Any, layer_index: Any) -> None:
    """Check how LSH attention hashes."""
    if window.scope == "band" and window.num_chunks_before == window.num_chunks_after == 0:
        raise ValueError(
            "num_chunks_before=0 in the band scope: a token would see only itself; give at least 1"
        )
    for factor in num_buckets if isinstance(num_buckets, list | tuple) else [num_buckets]:
        require_ints(2, num_buckets=factor)
    bucket_factors(num_buckets)
    require_ints(1, num_hashes=num_hashes)
    require_ints(0, layer_index=layer_index)


def check_implementation(implementation: Any, dropout: float, ring: bool) -> None:
    """Demand an implementation that can do what is asked for.

    Args:
        implementation: as given.
        dropout: of the attention probabilities.
        ring: whether windows wrap around, as those of LSH layers in the `chunk` scope.
    """
    require_choice(Implementation, implementation=implementation)
    if implementation == "flex_attention" and (dropout or ring):
        reason = f"dropout={dropout}" if dropout else "scope='chunk'"
        raise ValueError(f"implementation='flex_attention' cannot do {reason}: choose another")


def check_hidden_states(
    hidden_states: Any,
    width: int,
    weight: Any = None,
    name: str = "",
    dtype: torch.dtype | None = None,
) -> None:
    """Demand vectors (batch, seq, width), of the dtype and on the device of the weights.

    Args:
        hidden_states: as given.
        width: of each vector.
        weight: that they are multiplied with. One that is no plain parameter (sharded, quantised)
            has rules of its own and is not compared.
        name: of the argument, if not `hidden_states`.
        dtype: that they have where they meet the weights, if it is another.
    """
    name = name or "hidden_states"
    if not isinstance(hidden_states, Tensor):
        raise TypeError(f"{name} is a {type(hidden_states).__name__}: give a tensor")
    shape, device = hidden_states.shape, hidden_states.device
    dtype = dtype or hidden_states.dtype
    if not hidden_states.dtype.is_floating_point:
        raise TypeError(
            f"{name} has dtype {hidden_states.dtype}: give floating-point vectors, as of an "
            "embedding"
        )
    if len(shape) != 3 or shape[-1] != width or 0 in shape:
        raise ValueError(
            f"{name} has shape {tuple(shape)}: give (batch, seq, {width}) with at least one token"
        )
    if type(weight) is not nn.Parameter or weight.is_meta:
        return
    if device != weight.device:
        raise ValueError(f"{name} is on {device}, the layer on {weight.device}: move one with to()")
    if dtype == weight.dtype:
        return
    known = torch.amp.is_autocast_available(device.type)
    autocast = known and torch.is_autocast_enabled(device.type)
    if not autocast or torch.float64 in (dtype, weight.dtype):  # which autocast leaves alone
        raise ValueError(
            f"{name} has dtype {dtype}, the layer {weight.dtype}: convert one with to(), or run "
            "float32 weights under torch.autocast"
        )


def check_pass(
    hidden_states: Any,
    documents: Any,
    projection: Any,
    normalised_to: torch.dtype | None = None,
) -> None:
    """Check what an attention module's projections and documents are given.

    A stream that is still to be normalised gets another dtype by that.
    """
    weight = getattr(projection, "weight", None)
    check_hidden_states(hidden_states, projection.in_features, weight, dtype=normalised_to)
    if documents is not None:
        check_documents(documents, hidden_states)


def check_attention_mask(mask: Any, hidden_states: Tensor) -> None:
    """Demand a bool or int for each token: 1 at real ones, 0 at padding."""
    _check_marks("attention_mask", mask, hidden_states, "bools or ints, 1 at real tokens")
    if _can_look(mask) and not torch.equal(mask.bool().long(), mask.long()):
        raise ValueError("attention_mask has other values than 0 (padding) and 1 (real token)")


def check_documents(documents: Any, hidden_states: Tensor, name: str = "documents") -> None:
    """Demand the number of each token's document."""
    _check_marks(name, documents, hidden_states, "ints, the number of each token's document")
    if _can_look(documents):
        low, high = (int(x) for x in documents.long().aminmax())
        if high - low >= 2**31:
            raise ValueError(f"{name} has numbers from {low} to {high}: number documents from 0")


def _check_marks(name: str, marks: Any, hidden_states: Tensor, wanted: str) -> None:
    """Demand an int for each token, or a bool where these are wanted."""
    if not isinstance(marks, Tensor):
        raise TypeError(f"{name} is a {type(marks).__name__}: give a tensor of {wanted}")
    dtype, rows = marks.dtype, tuple(hidden_states.shape[:2])
    if (
        dtype.is_floating_point
        or dtype.is_complex
        or (dtype == torch.bool and "bool" not in wanted)
    ):
        raise TypeError(f"{name} has dtype {dtype}: give {wanted}")
    if marks.shape != rows:
        raise ValueError(
            f"{name} has shape {tuple(marks.shape)}: give {rows}, one for each token of this pass"
        )
    if marks.device != hidden_states.device:
        raise ValueError(
            f"{name} is on {marks.device}, the tokens on {hidden_states.device}: move it with to()"
        )


def _can_look(tensor: Tensor) -> bool:
    plain = type(tensor) is Tensor and not torch.compiler.is_compiling()
    return plain and tensor.device.type == "cpu"
