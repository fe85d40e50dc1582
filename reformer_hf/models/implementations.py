"""Names of attention implementations: transformers' and those of :mod:`reformer_hf.ops`."""

from typing import get_args

from transformers import PreTrainedConfig

from reformer_hf.ops.attend import Implementation

NAMES: dict[str | None, Implementation] = {
    None: "blockwise",
    "sdpa": "blockwise",  # under this name transformers asks for a model's default
    **{name: name for name in get_args(Implementation)},
}


def implementation_of(config: PreTrainedConfig) -> Implementation:
    """Look up how a model computes attention.

    Args:
        config: of the model; its `attn_implementation` counts.

    Raises:
        ValueError: if there is no such implementation.
    """
    return to_implementation(config._attn_implementation)


def to_implementation(name: str | None) -> Implementation:
    """Translate a value of `attn_implementation`; None stands for the default.

    Raises:
        ValueError: if there is no such implementation.
    """
    if name not in NAMES:
        raise ValueError(
            f"attn_implementation={name!r}: choose 'blockwise' (the default, 'sdpa' is the same), "
            "'eager' or 'flex_attention'"
        )
    return NAMES[name]
