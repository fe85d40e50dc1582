"""Rules of a configuration's sparse projections: queries, keys, values, and the output layer."""

from typing import Any


def check_sparse_projections(config: Any) -> None:
    """Check these fields against each other and the rest.

    Raises:
        ValueError: naming field, value and fix.
    """
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
    _check_output_layer(config)


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
    if not sparsity and share != 1:
        raise ValueError(
            f"lm_head_sparse_share={share} with lm_head_sparsity=0: give lm_head_sparsity a number "
            "of modules, such as 4, or leave the share out"
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
