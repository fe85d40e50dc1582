"""The two sides of an encoder-decoder's configuration: what holds for the encoder, the decoder."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Literal

from reformer_hf.models.configuration_checks import LAYER_TYPES, check_config

if TYPE_CHECKING:
    from reformer_hf.models.configuration_reformer_hf import ReformerHFConfig

Side = Literal["encoder", "decoder"]
SIDES: tuple[Side, Side] = ("encoder", "decoder")
FORMS = ("cross_attention", "packed")


def side_config(config: ReformerHFConfig, side: Side) -> ReformerHFConfig:
    """The configuration of one side, as of a model of its own.

    Args:
        config: of the encoder-decoder.
        side: which one.

    Returns:
        A copy with this side's layers; causal for the decoder.
    """
    own = copy.deepcopy(config)
    layers = own.encoder_attn_layers if side == "encoder" else own.decoder_attn_layers
    own.attn_layers = list(layers or ())
    own.is_encoder_decoder = own.tie_word_embeddings = False
    own.is_decoder = side == "decoder"
    own.encoder_attn_layers = own.decoder_attn_layers = None
    own.activation_budget = config.activation_budget // 2
    if side == "decoder":
        own.local_num_chunks_after = own.lsh_num_chunks_after = None  # for the encoder alone
    return own


def resolve_sides(config: ReformerHFConfig) -> None:
    """Take `attn_layers` from the decoder, whose layers have a cache.

    Raises:
        ValueError: if a side's layers are missing, or given without an encoder-decoder.
    """
    fields = [f"{side}_attn_layers" for side in SIDES]
    given = [name for name in fields if getattr(config, name) is not None]
    if not config.is_encoder_decoder:
        if given:
            raise ValueError(
                f"{given[0]}={getattr(config, given[0])!r} with is_encoder_decoder=False: set "
                "is_encoder_decoder to True, or give attn_layers"
            )
        return
    for name in fields:
        layers = getattr(config, name)
        wrong = [kind for kind in layers or () if kind not in LAYER_TYPES]
        if wrong or not layers:
            raise ValueError(
                f"{name}={layers!r} with is_encoder_decoder=True: give at least one layer, each "
                f"one of {', '.join(map(repr, LAYER_TYPES))}; or set is_encoder_decoder to False"
            )
        setattr(config, name, list(layers))
    if list(config.attn_layers) not in (list(type(config).attn_layers), config.decoder_attn_layers):
        raise ValueError(
            f"attn_layers={config.attn_layers!r} with is_encoder_decoder=True: give "
            "encoder_attn_layers and decoder_attn_layers instead"
        )
    assert config.decoder_attn_layers is not None
    config.attn_layers = config.decoder_attn_layers


def check_sides(config: ReformerHFConfig) -> None:
    """Check the fields of an encoder-decoder, and those of each side.

    Raises:
        ValueError: naming field, value and fix.
    """
    if config.is_decoder:
        raise ValueError(
            "is_decoder=True with is_encoder_decoder=True: only the decoder is causal, which needs "
            "no saying; leave is_decoder out"
        )
    if config.decoder_form not in FORMS:
        raise ValueError(f"decoder_form={config.decoder_form!r}: choose one of {FORMS}")
    if config.attention_scope == "chunk":
        raise ValueError(
            "attention_scope='chunk' with is_encoder_decoder=True: that scope is for published "
            "decoders, whose outputs move with later tokens; use 'band'"
        )
    start = config.decoder_start_token_id
    if start is not None and not 0 <= start < config.vocab_size:
        raise ValueError(
            f"decoder_start_token_id={start} is not below vocab_size={config.vocab_size}: give the "
            "id of a token"
        )
    for side in SIDES:
        check_config(side_config(config, side))
