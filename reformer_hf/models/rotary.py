"""Angles of rotary positions, from the fields of a configuration."""

import torch
from torch import Tensor
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from reformer_hf.models.configuration_reformer_hf import ReformerHFConfig
from reformer_hf.ops.rotary import Rotary, rotary_angles, rotary_frequencies


def rotary_of(config: ReformerHFConfig, position_ids: Tensor, dtype: torch.dtype) -> Rotary | None:
    """The angles of tokens, made anew in each pass: they are no part of a checkpoint.

    Args:
        config: with `rope_parameters`.
        position_ids: place of each token in its document, (batch, seq).
        dtype: of the streams.

    Returns:
        The angles; None without rotary positions.
    """
    if config.position_embedding_type != "rotary":
        return None
    assert config.rope_parameters is not None  # the configuration resolves them
    device, kind = position_ids.device, config.rope_parameters["rope_type"]
    if kind == "default":
        theta = config.rope_parameters["rope_theta"]
        frequencies = rotary_frequencies(config.attention_head_size, theta, device)
        return rotary_angles(position_ids, frequencies, dtype)
    frequencies, factor = ROPE_INIT_FUNCTIONS[kind](config, device)
    # transformers multiplies the cosines and sines of both queries and keys.
    return rotary_angles(position_ids, frequencies, dtype, factor**2)
