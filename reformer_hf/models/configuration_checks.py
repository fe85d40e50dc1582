"""The rules between the fields of a configuration."""

from __future__ import annotations

from typing import TYPE_CHECKING

from transformers.activations import ACT2FN

from reformer_hf.ops.hashing import bucket_factors

if TYPE_CHECKING:
    from reformer_hf.models.configuration_reformer_hf import ReformerHFConfig

LAYER_TYPES = ("local", "lsh", "full", "full_shared_qk")


def check_config(config: ReformerHFConfig) -> None:
    """Check the fields of a configuration against each other.

    Raises:
        ValueError: naming field, value and fix.
    """
    _check_layers(config)
    _check_positions(config)
    _check_windows(config)
    _check_sizes(config)
    if config.tie_word_embeddings:
        raise ValueError(
            "tie_word_embeddings=True: the output projection reads both streams and is "
            f"{2 * config.hidden_size} wide, the embeddings are {config.hidden_size} wide; "
            "set it to False"
        )


def _check_layers(config: ReformerHFConfig) -> None:
    for name, choices in (
        ("attention_scope", ("band", "chunk")),
        ("position_embedding_type", ("axial", "learned", "none")),
    ):
        if getattr(config, name) not in choices:
            raise ValueError(f"{name}={getattr(config, name)!r}: choose one of {choices}")
    wrong = [kind for kind in config.attn_layers if kind not in LAYER_TYPES]
    if wrong or not config.attn_layers:
        raise ValueError(
            f"attn_layers={config.attn_layers!r}: give at least one layer, each one of "
            f"{', '.join(map(repr, LAYER_TYPES))}"
        )
    if config.hidden_act not in ACT2FN:
        raise ValueError(
            f"hidden_act={config.hidden_act!r} is not an activation of transformers: "
            "choose one of transformers.activations.ACT2FN, such as 'relu' or 'gelu'"
        )


def _check_positions(config: ReformerHFConfig) -> None:
    if config.position_embedding_type == "axial":
        _check_axes(config)
    limit = config.position_limit
    if limit is not None and limit < 1:
        raise ValueError(
            f"max_position_embeddings={config.max_position_embeddings!r} must be at least 1"
        )


def _check_axes(config: ReformerHFConfig) -> None:
    shape, dims = config.axial_pos_shape, config.axial_pos_embds_dim
    if len(shape) < 2 or len(shape) != len(dims):
        raise ValueError(
            f"axial_pos_shape={shape!r} and axial_pos_embds_dim={dims!r}: give the same "
            "number of axes, at least two, in both"
        )
    if min(*shape, *dims) < 1:
        raise ValueError(
            f"axial_pos_shape={shape!r} and axial_pos_embds_dim={dims!r} must be positive"
        )
    if sum(dims) != config.hidden_size:
        raise ValueError(
            f"axial_pos_embds_dim={dims!r} sums to {sum(dims)}, but hidden_size="
            f"{config.hidden_size}: make the dimensions add up to hidden_size"
        )


def _check_windows(config: ReformerHFConfig) -> None:
    for kind in ("local", "lsh"):
        if kind not in config.attn_layers:
            continue
        fields = [f"{kind}_attn_chunk_length", f"{kind}_num_chunks_before"]
        for name, least in zip(fields, (1, 0), strict=True):
            value = getattr(config, name)
            if value is None or value < least:
                raise ValueError(f"{name}={value!r} must be an int of at least {least}")
        name = f"{kind}_num_chunks_after"
        after = getattr(config, name)
        if after is not None and after < 0:
            raise ValueError(f"{name}={after!r} must be at least 0")
        if after and config.is_decoder:
            raise ValueError(
                f"{name}={after!r} with is_decoder=True: a causal layer cannot look ahead; "
                f"set {name} to 0"
            )
    if "lsh" not in config.attn_layers:
        return
    if config.num_buckets is not None:
        bucket_factors(config.num_buckets)
    if config.attention_scope == "band" and not any(config.attention_window("lsh", False)[1:]):
        raise ValueError(
            "lsh_num_chunks_before=0 and lsh_num_chunks_after=0 in the band scope: a query "
            "would see only itself; set lsh_num_chunks_before to at least 1"
        )


def _check_sizes(config: ReformerHFConfig) -> None:
    for name in (
        "hidden_size",
        "num_attention_heads",
        "attention_head_size",
        "feed_forward_size",
        "num_hashes",
        "hash_length",
        "vocab_size",
    ):
        if getattr(config, name) < 1:
            raise ValueError(f"{name}={getattr(config, name)!r} must be at least 1")
    for name in ("chunk_size_attention_heads", "chunk_size_feed_forward", "chunk_size_lm_head"):
        if getattr(config, name) < 0:
            raise ValueError(
                f"{name}={getattr(config, name)!r} must be 0 (no chunks) or a number of "
                + ("heads" if name.endswith("heads") else "tokens")
            )
    if config.activation_budget < 0:
        raise ValueError(
            f"activation_budget={config.activation_budget!r} must be 0 (rebuild all activations) "
            "or a number of bytes"
        )
    for name in ("initializer_range", "axial_norm_std", "layer_norm_eps"):
        if getattr(config, name) < 0:
            raise ValueError(f"{name}={getattr(config, name)!r} must be at least 0")
    for name in (
        "hidden_dropout_prob",
        "local_attention_probs_dropout_prob",
        "lsh_attention_probs_dropout_prob",
        "classifier_dropout",
    ):
        value = getattr(config, name)
        if value is not None and not 0 <= value < 1:
            raise ValueError(f"{name}={value!r} must be in [0, 1)")
