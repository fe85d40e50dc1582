"""Torch modules with flat keyword arguments; torch only, no configuration objects."""

from reformer_hf.nn.layers import AttentionCache, LocalAttention, LSHAttention
from reformer_hf.nn.reversible_sequence import ReversibleSequence

__all__ = ["AttentionCache", "LSHAttention", "LocalAttention", "ReversibleSequence"]
