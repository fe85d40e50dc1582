"""Rules of a configuration's sparse layers, and of the recurrent units beside them."""

from collections.abc import Collection
from typing import Any

import torch
from transformers.activations import ACT2FN

_SWITCHES = {
    "ff_sparsity": ("ff_sparsity_rank", "ff_sparsity_temperature", "ff_sparsity_hard_share"),
    "ff_sru_size": ("ff_sru_layers",),
    "attention_sparsity": ("attention_sparsity_kernel",),
    "lm_head_sparsity": ("lm_head_sparse_share",),
}
"""Fields that switch a sparse layer on, and the fields that only it uses."""


def settle_unused(config: Any, by_hand: Collection[str]) -> None:
    """Refuse fields of layers that are off; what a file says of them becomes the default.

    Args:
        config: whose fields are derived.
        by_hand: names of the fields that do not come from a file.

    Raises:
        ValueError: naming field, value and fix.
    """
    for switch, names in _SWITCHES.items():
        for name in names if getattr(config, switch) == 0 else ():
            value, default = getattr(config, name), getattr(type(config), name)
            if value != default and name in by_hand:
                raise ValueError(
                    f"{name}={value!r} with {switch}=0: nothing uses it; give {switch} a number, "
                    f"or leave {name} out"
                )
            setattr(config, name, default)


def check_sparsity(config: Any) -> None:
    """Check the fields of sparse layers against each other and the rest.

    Raises:
        ValueError: naming field, value and fix.
    """
    if config.ff_sparsity:
        _check_feed_forward(config)
    _check_projections(config)
    _check_output_layer(config)


def check_recurrence(config: Any) -> None:
    """Check that recurrent units, which read a row from its start, stand in a causal model.

    Raises:
        ValueError: naming field, value and fix.
    """
    if not config.is_decoder:
        raise ValueError(
            f"ff_sru_size={config.ff_sru_size} with is_decoder={config.is_decoder}: recurrent "
            "units see earlier tokens only; set ff_sru_size to 0, or is_decoder to True"
        )


def _check_feed_forward(config: Any) -> None:
    size, units = config.ff_sparsity, config.feed_forward_size
    if size == 1:
        raise ValueError(
            "ff_sparsity=1: all units of such blocks are used; give 0 for that, or at least 2"
        )
    if units % size:
        raise ValueError(
            f"ff_sparsity={size} with feed_forward_size={units}: give a divisor of "
            f"feed_forward_size, or make feed_forward_size {-(-units // size) * size}"
        )
    if ACT2FN[config.hidden_act](torch.zeros((), device="cpu")) != 0:
        raise ValueError(
            f"hidden_act={config.hidden_act!r} with ff_sparsity={size}: units that are not used "
            "must give 0; choose an activation that gives 0 for 0, such as 'relu' or 'gelu'"
        )


def _check_projections(config: Any) -> None:
    hidden_size = config.hidden_size
    width = config.num_attention_heads * config.attention_head_size
    heads = f"num_attention_heads * attention_head_size={width}"
    _check_modules("attention_sparsity", config.attention_sparsity)
    if config.attention_sparsity:
        for name, size in (
            (f"hidden_size={config.hidden_size}", config.hidden_size),
            (heads, width),
        ):
            if size % config.attention_sparsity:
                raise ValueError(
                    f"attention_sparsity={config.attention_sparsity} does not divide {name}: give "
                    "a number of modules that does"
                )
    if config.attention_sparsity_kernel < 1:
        raise ValueError(
            f"attention_sparsity_kernel={config.attention_sparsity_kernel}: give a number of "
            "tokens, the own one included, at least 1"
        )
    if not config.attention_output_projection and width != hidden_size:
        raise ValueError(
            f"attention_output_projection=False with {heads} and hidden_size={hidden_size}: "
            "make them equal, or leave it out"
        )


def _check_output_layer(config: Any) -> None:
    sparsity, share = config.lm_head_sparsity, config.lm_head_sparse_share
    _check_modules("lm_head_sparsity", sparsity)
    if sparsity and sparsity > config.vocab_size:
        raise ValueError(
            f"lm_head_sparsity={sparsity} is more than vocab_size={config.vocab_size}: give fewer "
            "modules, such as 4"
        )
    if not 0 < share <= 1:
        raise ValueError(
            f"lm_head_sparse_share={share}: give a share of the training passes above 0, up to 1 "
            "for all"
        )
    if sparsity and config.tie_word_embeddings:
        raise ValueError(
            f"lm_head_sparsity={sparsity} with tie_word_embeddings=True: a sparse output layer has "
            "no row of weights for each word; set one of them to 0 or False"
        )


def _check_modules(name: str, modules: int) -> None:
    if modules < 0 or modules == 1:
        raise ValueError(
            f"{name}={modules}: give a number of modules, at least 2, or 0 for a dense layer"
        )
