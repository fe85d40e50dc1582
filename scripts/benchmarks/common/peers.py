"""The models of the benchmarks, of the same widths: ours, those of transformers, and their caches.

All have random weights and no dropout. A peer's cache can be filled with random states, because its
prefill of a long context takes longer than the benchmark.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import (
    DynamicCache,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedModel,
    ReformerConfig,
    ReformerModelWithLMHead,
)
from transformers.models.reformer.modeling_reformer import ReformerDynamicCache

from reformer_hf import ReformerHFCache, ReformerHFConfig, ReformerHFForCausalLM
from reformer_hf.models.configuration_rules import axial_shape
from reformer_hf.training.arguments import argument

VARIANTS = {
    "band": "reformer_hf, band scope",
    "chunk": "reformer_hf, chunk scope",
    "stock": "transformers' Reformer",
    "gpt2": "full attention (GPT-2)",
}
"""Names of the variants in arguments and files, to names in tables."""

OURS = ("band", "chunk")


@dataclass(frozen=True)
class ModelShape:
    """Sizes that all models share, as far as they have them."""

    num_hidden_layers: int = argument(6, "Layers: local, LSH in turn.")
    hidden_size: int = argument(256, "Width of a stream.")
    num_attention_heads: int = argument(4, "Heads.")
    feed_forward_size: int = argument(512, "Width inside feed-forward.")
    num_hashes: int = argument(4, "Rounds of hashing.")
    num_buckets: int = argument(
        128, "Buckets; the default rule's number for windows of 64 and 8,192 tokens."
    )
    attn_chunk_length: int = argument(64, "Tokens in a chunk.")
    vocab_size: int = argument(258, "Tokens of the vocabulary.")
    max_positions: int = argument(2**18 + 2**10, "Size of the position tables in tokens.")

    def __str__(self) -> str:
        return (
            f"{self.num_hidden_layers} layers (local, LSH in turn), hidden {self.hidden_size}, "
            f"{self.num_attention_heads} heads, feed-forward {self.feed_forward_size}, "
            f"{self.num_hashes} hashes, {self.num_buckets} buckets (also in transformers' "
            f"Reformer), chunks of {self.attn_chunk_length}"
        )

    def reformer_fields(self) -> dict:
        """The fields that the configurations of both Reformers have."""
        half = self.hidden_size // 2
        return {
            "vocab_size": self.vocab_size,
            "is_decoder": True,
            "attn_layers": [("local", "lsh")[i % 2] for i in range(self.num_hidden_layers)],
            "hidden_size": self.hidden_size,
            "num_attention_heads": self.num_attention_heads,
            "attention_head_size": self.hidden_size // self.num_attention_heads,
            "feed_forward_size": self.feed_forward_size,
            "num_hashes": self.num_hashes,
            "num_buckets": self.num_buckets,
            "local_attn_chunk_length": self.attn_chunk_length,
            "lsh_attn_chunk_length": self.attn_chunk_length,
            "axial_pos_shape": list(axial_shape(self.max_positions)),
            "axial_pos_embds_dim": [half, self.hidden_size - half],
            "axial_norm_std": 0.02,
            "max_position_embeddings": self.max_positions,
            "hidden_dropout_prob": 0.0,
            "local_attention_probs_dropout_prob": 0.0,
            "lsh_attention_probs_dropout_prob": 0.0,
            "hash_seed": 0,
        }


class CachedModel:
    """A causal language model with a cache that it fills and reads.

    Attributes:
        model: in eval mode.
        cache: of what it has read.
    """

    model: PreTrainedModel
    cache: DynamicCache | ReformerHFCache | ReformerDynamicCache | None

    def reset(self) -> None:
        """Begin with an empty cache."""
        raise NotImplementedError

    def forward(self, ids: Tensor) -> Tensor:
        """Append tokens to the cache.

        Args:
            ids: token ids, (batch, seq).

        Returns:
            Logits of the last token, (batch, 1, vocab).
        """
        return self.model(ids, past_key_values=self.cache, use_cache=True, logits_to_keep=1).logits

    def prefill(self, ids: Tensor) -> Tensor:
        """Fill an empty cache with a prompt; arguments and result as of `forward`."""
        return self.forward(ids)

    def fill_randomly(self, batch: int, length: int) -> None:
        """Fill an empty cache with random states of `length` tokens per row."""
        raise NotImplementedError(f"{type(self).__name__} prefills at every length")

    def cached_tokens(self) -> int:
        """Tokens per row that the cache has seen."""
        return int(self.cache.get_seq_length())  # type: ignore[union-attr]

    def cache_bytes(self) -> tuple[int, int]:
        """Bytes of the cache that hold something, and bytes allocated for it."""
        raise NotImplementedError


class Ours(CachedModel):
    """This package's Reformer in one of its scopes.

    Args:
        shape: the sizes.
        scope: `band` or `chunk`.
        prefill_tokens: tokens of all rows that a pass of a prefill reads; the `chunk` scope, which
            has no prefill in blocks, reads all at once.
    """

    model: ReformerHFForCausalLM
    cache: ReformerHFCache

    def __init__(self, shape: ModelShape, scope: str, prefill_tokens: int):
        config = ReformerHFConfig(attention_scope=scope, **shape.reformer_fields())
        self.model = ReformerHFForCausalLM(config).eval()
        self.prefill_tokens = prefill_tokens if scope == "band" else None
        self.reset()

    def reset(self) -> None:
        self.cache = ReformerHFCache(self.model.config)

    def prefill(self, ids: Tensor) -> Tensor:
        batch, length = ids.shape
        block = length if self.prefill_tokens is None else max(1, self.prefill_tokens // batch)
        return [self.forward(part) for part in ids.split(block, dim=1)][-1]

    def cache_bytes(self) -> tuple[int, int]:
        return self.cache.used_bytes(), self.cache.allocated_bytes()


class StockReformer(CachedModel):
    """transformers' Reformer. Its cache holds each layer's inputs, and bucket ids per round."""

    cache: ReformerDynamicCache | None

    def __init__(self, shape: ModelShape):
        config = ReformerConfig(**shape.reformer_fields())
        self.model = ReformerModelWithLMHead(config).eval()
        self.reset()

    def reset(self) -> None:
        self.cache = None

    def forward(self, ids: Tensor) -> Tensor:
        out = self.model(ids, past_buckets_states=self.cache, use_cache=True, logits_to_keep=1)
        self.cache = out.past_buckets_states
        return out.logits

    def fill_randomly(self, batch: int, length: int) -> None:
        config = self.model.config
        self.cache = ReformerDynamicCache()
        first_ids = torch.arange(config.num_hashes)[:, None] * config.num_buckets
        ids_shape = (batch, config.num_attention_heads, config.num_hashes, length)
        for layer, kind in enumerate(config.attn_layers):
            states = torch.randn(batch, length, config.hidden_size)
            buckets = torch.randint(config.num_buckets, ids_shape) + first_ids
            self.cache.update(buckets if kind == "lsh" else None, states, layer)  # type: ignore[arg-type]

    def cached_tokens(self) -> int:
        return 0 if self.cache is None else self.cache.get_start_idx()

    def cache_bytes(self) -> tuple[int, int]:
        assert self.cache is not None
        size = sum(tensor.nbytes for tensor in self.cache.states_cache + self.cache.buckets_cache)
        return size, size


class FullAttention(CachedModel):
    """GPT-2's architecture with full attention (sdpa) and transformers' dynamic cache."""

    cache: DynamicCache

    def __init__(self, shape: ModelShape):
        config = GPT2Config(
            vocab_size=shape.vocab_size,
            n_positions=shape.max_positions,
            n_embd=shape.hidden_size,
            n_layer=shape.num_hidden_layers,
            n_head=shape.num_attention_heads,
            n_inner=shape.feed_forward_size,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
            bos_token_id=None,
            eos_token_id=None,
        )
        self.model = GPT2LMHeadModel(config).eval()
        self.model.set_attn_implementation("sdpa")
        self.reset()

    def reset(self) -> None:
        self.cache = DynamicCache(config=self.model.config)

    def fill_randomly(self, batch: int, length: int) -> None:
        config = self.model.config
        shape = (batch, config.n_head, length, config.n_embd // config.n_head)
        for layer in range(config.n_layer):
            self.cache.update(torch.randn(shape), torch.randn(shape), layer)

    def cache_bytes(self) -> tuple[int, int]:
        layers = self.cache.layers
        size = sum(layer.keys.nbytes + layer.values.nbytes for layer in layers)  # type: ignore[union-attr]
        return size, size


def build(variant: str, shape: ModelShape, prefill_tokens: int) -> CachedModel:
    """Build one of `VARIANTS` with random weights and an empty cache; see `Ours`."""
    if variant in OURS:
        return Ours(shape, variant, prefill_tokens)
    return {"stock": StockReformer, "gpt2": FullAttention}[variant](shape)
