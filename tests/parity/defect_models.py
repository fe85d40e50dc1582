"""Tiny models for the defect tests: transformers' Reformer, and ours with the very same weights.

The weights are wider than usual, so that attention matters: a figure measured on these models
proves a defect, not its size in a trained model.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import ReformerConfig, ReformerModelWithLMHead

from reformer_hf import ReformerHFConfig, ReformerHFForCausalLM

LENGTH = 64
"""The product of `axial_pos_shape`: the one length that transformers' model can train at."""

FIELDS: dict[str, Any] = {
    "attn_layers": ["local", "lsh", "local", "lsh"],
    "vocab_size": 50,
    "hidden_size": 32,
    "num_attention_heads": 2,
    "attention_head_size": 16,
    "feed_forward_size": 48,
    "axial_pos_shape": [8, 8],
    "axial_pos_embds_dim": [8, 24],
    "max_position_embeddings": LENGTH,
    "local_attn_chunk_length": 8,
    "lsh_attn_chunk_length": 8,
    "num_hashes": 2,
    "num_buckets": 4,
    "hash_seed": 0,
    "initializer_range": 0.25,
    "hidden_dropout_prob": 0.0,
    "local_attention_probs_dropout_prob": 0.0,
    "lsh_attention_probs_dropout_prob": 0.0,
    "is_decoder": True,
    "eos_token_id": None,
}

DROPOUT = {
    "hidden_dropout_prob": 0.1,
    "local_attention_probs_dropout_prob": 0.1,
    "lsh_attention_probs_dropout_prob": 0.1,
}

LOCAL_ONLY = {"attn_layers": ["local"] * 4}


def build_stock(**fields: Any) -> ReformerModelWithLMHead:
    """transformers' own model, in eval mode, with the same weights at every call."""
    torch.manual_seed(0)
    return ReformerModelWithLMHead(ReformerConfig(**{**FIELDS, **fields})).eval()


def build_ours(**fields: Any) -> ReformerHFForCausalLM:
    """Our model, in eval mode and float64, with the weights of `build_stock`."""
    model = ReformerHFForCausalLM(ReformerHFConfig(**{**FIELDS, "activation_budget": 0, **fields}))
    own = ReformerHFConfig.__dataclass_fields__.keys() - ReformerConfig.__dataclass_fields__.keys()
    shared = {name: value for name, value in fields.items() if name not in own}
    model.load_state_dict(build_stock(**shared).state_dict())
    return model.double().eval()


def random_ids(batch: int, seq: int) -> Tensor:
    """Token ids without padding (0) and end of sequence (1), (batch, seq)."""
    return torch.randint(2, FIELDS["vocab_size"], (batch, seq))


def largest(difference: Tensor) -> float:
    """The largest absolute value."""
    return difference.detach().abs().max().item()


def gradients(model: nn.Module) -> dict[str, Tensor]:
    """The gradients that there are, by parameter."""
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
