"""Tiny configurations and models for the tests of `reformer_hf.models`."""

from typing import Any

import torch
from torch import Tensor, nn

from reformer_hf import (
    ReformerHFConfig,
    ReformerHFForCausalLM,
    ReformerHFForMaskedLM,
    ReformerHFModel,
)

SCOPES = ("band", "chunk")
ROTARY_CONVOLUTION = {
    "position_embedding_type": "rotary",
    "conv_kernel": 3,
    "use_qk_norm": True,
}
"""Rotary positions, a short convolution, normalised queries and keys, for either scope."""
ALL_OPTIONS = {
    **ROTARY_CONVOLUTION,
    "lsh_local_round": True,
    "lsh_next_values": True,
    "ff_sparsity": 4,
}
"""The same, a local round with values of next tokens, for the band scope, and sparse feed-forward
sub-layers."""
SPARSE_PROJECTIONS = {"attention_sparsity": 4, "attention_output_projection": False}
"""Sparse queries, keys and values, and heads side by side as output, for any layer."""
WITH_NGRAMS = {**ALL_OPTIONS, "ngram_sizes": [2, 4], "ngram_table_size": 8}
"""The same and n-grams, for models that read token ids."""
WITH_SRU = {"ff_sru_size": 3, "ff_sru_layers": 2}
"""Recurrent units, for causal models."""


def tiny_config(**fields: Any) -> ReformerHFConfig:
    """One local and one LSH layer, 96 positions, weights large enough to matter, no dropout.

    Reversible models replay every layer.
    """
    defaults = {
        "attn_layers": ["local", "lsh"],
        "hidden_size": 16,
        "num_attention_heads": 2,
        "attention_head_size": 8,
        "feed_forward_size": 24,
        "axial_pos_shape": [12, 8],
        "axial_pos_embds_dim": [6, 10],
        "local_attn_chunk_length": 4,
        "lsh_attn_chunk_length": 4,
        "num_hashes": 2,
        "num_buckets": 4,
        "vocab_size": 40,
        "eos_token_id": 1,
        "hidden_dropout_prob": 0.0,
        "local_attention_probs_dropout_prob": 0.0,
        "initializer_range": 0.3,
        "axial_norm_std": 1.0,
        "activation_budget": 0,  # or nothing so small would ever be replayed
    }
    if fields.get("is_encoder_decoder"):
        del defaults["attn_layers"]
    return ReformerHFConfig(**{**defaults, **fields})


def dropout_fields(probability: float = 0.2) -> dict[str, float]:
    """All dropout of a model switched on."""
    return {
        "hidden_dropout_prob": probability,
        "local_attention_probs_dropout_prob": probability,
        "lsh_attention_probs_dropout_prob": probability,
    }


def tiny_lm(seed: int = 0, **fields: Any) -> ReformerHFForCausalLM:
    """A causal model in eval mode with a head bias that is not zero."""
    torch.manual_seed(seed)
    model = ReformerHFForCausalLM(tiny_config(**fields)).eval()
    nn.init.normal_(model.lm_head.bias)
    return model


def tiny_masked_lm(seed: int = 0, **fields: Any) -> ReformerHFForMaskedLM:
    """A bidirectional model in eval mode."""
    torch.manual_seed(seed)
    return ReformerHFForMaskedLM(tiny_config(**fields)).eval()


def tiny_encoder(seed: int = 0, **fields: Any) -> ReformerHFModel:
    """A bare model in eval mode, bidirectional unless `is_decoder` is given."""
    torch.manual_seed(seed)
    return ReformerHFModel(tiny_config(**fields)).eval()


def random_ids(*shape: int, seed: int = 0, low: int = 2, high: int = 40) -> Tensor:
    """Token ids without padding and end of sequence."""
    return torch.randint(low, high, shape, generator=torch.Generator().manual_seed(seed))


def gradients(model: nn.Module) -> dict[str, Tensor]:
    """A copy of each parameter's gradient, where it has one."""
    return {
        name: parameter.grad.clone()
        for name, parameter in model.named_parameters()
        if parameter.grad is not None
    }


def loss_and_gradients(model: nn.Module, **inputs: Any) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss of one pass and the gradients of all trainable parameters."""
    model.zero_grad()
    loss = model(**inputs).loss
    loss.backward()
    return loss.detach(), gradients(model)
