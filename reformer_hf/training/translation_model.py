"""The configuration of an encoder-decoder for translation."""

from typing import Any

from transformers import PreTrainedTokenizerBase

from reformer_hf.models.configuration_reformer_hf import ReformerHFConfig
from reformer_hf.training.causal_lm import axial_shape
from reformer_hf.training.translation_arguments import Seq2SeqModelArguments


def special_tokens(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """Fields of a configuration that name special tokens: the pad token starts a target."""
    return {
        "pad_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "decoder_start_token_id": tokenizer.pad_token_id,
    }


def build_config(
    arguments: Seq2SeqModelArguments, tokenizer: PreTrainedTokenizerBase, max_length: int
) -> ReformerHFConfig:
    """Configure an encoder-decoder.

    Args:
        arguments: its sizes.
        tokenizer: its vocabulary.
        max_length: the longest source or target.
    """
    kinds = arguments.layer_type.split("_")
    layers = [kinds[layer % len(kinds)] for layer in range(arguments.num_hidden_layers)]
    positions = max_length * (2 if arguments.decoder_form == "packed" else 1)
    half = arguments.hidden_size // 2
    attention_dropout = arguments.attention_probs_dropout_prob
    return ReformerHFConfig(
        is_encoder_decoder=True,
        encoder_attn_layers=layers,
        decoder_attn_layers=layers,
        decoder_form=arguments.decoder_form,
        reversible=arguments.reversible,
        vocab_size=len(tokenizer),
        **special_tokens(tokenizer),
        hidden_size=arguments.hidden_size,
        num_attention_heads=arguments.num_attention_heads,
        attention_head_size=arguments.hidden_size // arguments.num_attention_heads,
        feed_forward_size=arguments.feed_forward_size,
        axial_pos_shape=list(axial_shape(positions)),
        axial_pos_embds_dim=[half, arguments.hidden_size - half],
        axial_norm_std=0.02,
        max_position_embeddings=positions,
        hidden_dropout_prob=arguments.hidden_dropout_prob,
        local_attention_probs_dropout_prob=attention_dropout,
        lsh_attention_probs_dropout_prob=attention_dropout,
    )
