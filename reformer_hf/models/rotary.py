"""Angles of rotary positions, from the fields of a configuration."""

import torch
from torch import Tensor
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from reformer_hf.models.configuration_reformer_hf import ReformerHFConfig
from reformer_hf.ops.rotary import Rotary, rotary_angles


def rotary_of(config: ReformerHFConfig, position_ids: Tensor) -> Rotary | None:
    """The angles of tokens, made anew in each pass: they are no part of a checkpoint.

    Args:
        config: with `rope_parameters`.
        position_ids: place of each token in its document, (batch, seq).

    Returns:
        The angles; None without rotary positions.
    """
    if config.position_embedding_type != "rotary":
        return None
    assert config.rope_parameters is not None  # the configuration resolves them
    device, kind = position_ids.device, config.rope_parameters["rope_type"]
    if kind == "default":
        places = torch.arange(0, config.attention_head_size, 2, device=device)
        frequencies = config.rope_parameters["rope_theta"] ** (-places / config.attention_head_size)
        return rotary_angles(position_ids, frequencies)
    frequencies, scale = ROPE_INIT_FUNCTIONS[kind](config, device)
    return rotary_angles(position_ids, frequencies, scale)
