"""What `output_attentions` asks for, and how large it may be."""

from typing import Any, get_args

from torch import Tensor

from reformer_hf.ops.attention_map import MapForm

MAX_DENSE_BYTES = 2**32
"""Bytes that the dense maps of all layers of a pass may take together."""


def read_output_attentions(asked: Any) -> MapForm | None:
    """The form of the attention maps that are asked for.

    Args:
        asked: a bool, or the form; True stands for "dense".

    Returns:
        The form, or None for no maps.

    Raises:
        ValueError: naming the value and the fix.
    """
    if isinstance(asked, bool | None):
        return "dense" if asked else None
    if asked not in get_args(MapForm):
        raise ValueError(
            f"output_attentions={asked!r}: give True for matrices of all queries and keys, "
            "'sparse' for the weights of the keys in each window with their places, or False"
        )
    return asked


def check_dense_maps(
    inputs_embeds: Tensor, heads: int, cached: int, keys_of_layers: list[int]
) -> None:
    """Check before a pass that its dense maps are not too large.

    Args:
        inputs_embeds: of the pass, (batch, seq, hidden), in the dtype of the maps.
        heads: of a layer.
        cached: tokens before.
        keys_of_layers: number of keys of each map.

    Raises:
        ValueError: naming length, size and the fix.
    """
    batch, seq = inputs_embeds.shape[:2]
    size = batch * heads * seq * sum(keys_of_layers) * inputs_embeds.element_size()
    if size > MAX_DENSE_BYTES:
        raise ValueError(
            f"output_attentions=True with {batch} rows of {seq} tokens"
            + (f" after {cached}" if cached else "")
            + f": {len(keys_of_layers)} dense maps would take {size / 2**30:.1f} GiB, more than "
            f"{MAX_DENSE_BYTES / 2**30:g}; give fewer tokens, or output_attentions='sparse'"
        )
