"""The feed-forward sub-layer that a configuration asks for."""

from typing import Any

from transformers.activations import ACT2FN

from reformer_hf.models.configuration_reformer_hf import ReformerHFConfig
from reformer_hf.nn.feed_forward import ChunkedFeedForward, ChunkedSubLayer
from reformer_hf.nn.sparse_feed_forward import SparseFeedForward


def build_feed_forward(config: ReformerHFConfig) -> ChunkedSubLayer:
    """Build the feed-forward sub-layer of a layer, dense or sparse."""
    common: dict[str, Any] = {
        "hidden_size": config.hidden_size,
        "feed_forward_size": config.feed_forward_size,
        "activation": ACT2FN[config.hidden_act],
        "dropout": config.hidden_dropout_prob,
        "chunk_size": config.chunk_size_feed_forward,
        "layer_norm_eps": config.layer_norm_eps,
    }
    if not config.ff_sparsity:
        return ChunkedFeedForward(**common)
    return SparseFeedForward(
        block_size=config.ff_sparsity,
        controller_rank=config.ff_sparsity_rank,
        temperature=config.ff_sparsity_temperature,
        hard_share=config.ff_sparsity_hard_share,
        **common,
    )
