"""Models in the place of this package's, for `Task(model_class=...)`.

They have its layers, widths, heads and vocabulary, and are trained and scored by the same Trainer:
both shift the labels inside, so that a row of n tokens asks for n - 1, as ours does.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedModel,
    ReformerConfig,
    ReformerModelWithLMHead,
)

from reformer_hf import ReformerHFConfig, ReformerHFForCausalLM
from reformer_hf.models.configuration_rules import axial_shape
from reformer_hf.models.layers import ReformerHFEncoder, ReformerHFLayer
from reformer_hf.nn.reversible import PlainCoupling


class Peer:
    """Makes a model for the configuration of one of this package."""

    @classmethod
    def _from_config(cls, config: ReformerHFConfig, **kwargs: Any) -> PreTrainedModel:
        model = cls.make(config)
        # What the training scripts ask of the configurations of this package.
        model.config.position_limit = config.max_position_embeddings
        model.config.ngram_sizes = []
        model.config.use_cache = False
        return model

    @classmethod
    def make(cls, config: ReformerHFConfig) -> PreTrainedModel:
        """The model with random weights."""
        raise NotImplementedError


class StockReformer(Peer):
    """transformers' Reformer, its limits included.

    Positions are axial, and rows to train on must be as long as their two axes make: rows that
    grow are not possible. The axial tables begin as small as word embeddings; at its default of 1
    they drown these.
    """

    @classmethod
    def make(cls, config: ReformerHFConfig) -> PreTrainedModel:
        length, half = config.max_position_embeddings, config.hidden_size // 2
        assert length is not None
        names = ("vocab_size", "hidden_size", "num_attention_heads", "attention_head_size")
        names += ("feed_forward_size", "num_hashes", "num_buckets", "initializer_range")
        names += ("local_attn_chunk_length", "lsh_attn_chunk_length", "pad_token_id")
        peer = ReformerModelWithLMHead(
            ReformerConfig(
                **{name: getattr(config, name) for name in names},
                attn_layers=list(config.attn_layers),
                is_decoder=True,
                max_position_embeddings=length,
                axial_pos_shape=list(axial_shape(length)),
                axial_pos_embds_dim=[half, config.hidden_size - half],
                axial_norm_std=config.initializer_range,
                hidden_dropout_prob=0.0,
                local_attention_probs_dropout_prob=0.0,
                lsh_attention_probs_dropout_prob=0.0,
            )
        )
        peer.config.attention_scope = "chunk"  # type: ignore[attr-defined]
        peer.config.position_embedding_type = "axial"  # type: ignore[attr-defined]
        return peer


class Gpt2(Peer):
    """GPT-2's architecture: learned positions, GELU, full attention by `sdpa`."""

    @classmethod
    def make(cls, config: ReformerHFConfig) -> PreTrainedModel:
        assert config.max_position_embeddings is not None  # a recipe's block_size says it
        positions: int = config.max_position_embeddings
        peer = GPT2LMHeadModel(
            GPT2Config(
                vocab_size=config.vocab_size,
                n_positions=positions,
                n_embd=config.hidden_size,
                n_layer=len(config.attn_layers),
                n_head=config.num_attention_heads,
                n_inner=config.feed_forward_size,
                resid_pdrop=0.0,
                embd_pdrop=0.0,
                attn_pdrop=0.0,
                bos_token_id=None,
                eos_token_id=None,
            )
        )
        peer.set_attn_implementation("sdpa")
        peer.config.attention_scope = "full"  # type: ignore[attr-defined]
        peer.config.attn_layers = ["full"] * len(config.attn_layers)  # type: ignore[attr-defined]
        peer.config.num_hashes = 0  # type: ignore[attr-defined]
        peer.config.position_embedding_type = "learned"  # type: ignore[attr-defined]
        return peer


class OneStream(Peer):
    """This package's model with one residual stream; see `use_one_stream`."""

    @classmethod
    def _from_config(cls, config: ReformerHFConfig, **kwargs: Any) -> PreTrainedModel:
        return use_one_stream(ReformerHFForCausalLM._from_config(config, **kwargs))


def use_one_stream(model: PreTrainedModel) -> PreTrainedModel:
    """Let the layers of a model be those of a plain Transformer, with the parameters it has.

    Each sub-layer adds to the stream that it reads, `y = x + sublayer(x)`, and the output reads
    the last stream in the place of both. A saved model is loaded as one of two streams.
    """
    for module in model.modules():
        if isinstance(module, ReformerHFLayer):
            module.register_forward_pre_hook(_couple_to_itself)
        if isinstance(module, ReformerHFEncoder):
            module.layer_norm.register_forward_pre_hook(_read_last_stream)
    return model


class _OneStream(PlainCoupling):
    def couple(
        self, target: Tensor, sublayer: Any, source: Tensor, piece_length: Any = 0
    ) -> Tensor:
        return super().couple(source, sublayer, source, piece_length)


def _couple_to_itself(layer: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    x1, x2, _, *rest = inputs
    return x1, x2, _OneStream(), *rest


def _read_last_stream(layer_norm: nn.Module, inputs: tuple[Tensor, ...]) -> Tensor:
    last = inputs[0].chunk(2, dim=-1)[1]
    return torch.cat([last, last], dim=-1)


PEERS: dict[str, Any] = {"stock": StockReformer, "gpt2": Gpt2, "one stream": OneStream}
