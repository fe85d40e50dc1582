"""Tiny encoder-decoders and what their tests share."""

from typing import Any

import torch
from torch import Tensor, nn

from reformer_hf import ReformerHFConfig, ReformerHFForConditionalGeneration
from tests.models.tiny import random_ids, tiny_config

FORMS = ("cross_attention", "packed")
KINDS = ["full", "local", "lsh", "full_shared_qk"]


def seq2seq_config(**fields: Any) -> ReformerHFConfig:
    """Three layers on each side, token 2 starts the target."""
    defaults = {
        "is_encoder_decoder": True,
        "encoder_attn_layers": ["full", "local", "lsh"],
        "decoder_attn_layers": ["full", "lsh", "local"],
        "decoder_start_token_id": 2,
    }
    return tiny_config(**{**defaults, **fields})


def tiny_seq2seq(seed: int = 0, **fields: Any) -> ReformerHFForConditionalGeneration:
    """An encoder-decoder in eval mode with a head bias that is not zero."""
    torch.manual_seed(seed)
    model = ReformerHFForConditionalGeneration(seq2seq_config(**fields)).eval()
    nn.init.normal_(model.lm_head.bias)
    return model


def padded_source() -> dict[str, Tensor]:
    """Three rows: whole, padded on the right, padded on the left."""
    mask = torch.ones(3, 11, dtype=torch.long)
    mask[1, 7:] = 0
    mask[2, :4] = 0
    return {"input_ids": random_ids(3, 11, low=3), "attention_mask": mask}


def random_labels(seed: int = 1) -> Tensor:
    """Labels of three rows of six tokens."""
    return random_ids(3, 6, seed=seed, low=3)
