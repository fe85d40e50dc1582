"""Names of attention implementations: transformers' and those of :mod:`reformer_hf.ops`."""

from typing import get_args

from reformer_hf.ops.attend import Implementation

NAMES: dict[str | None, Implementation] = {
    None: "auto",
    "sdpa": "auto",  # under this name transformers asks for a model's default
    **{name: name for name in get_args(Implementation)},
}


def to_implementation(name: str | None) -> Implementation:
    """Translate a model's `config._attn_implementation`; None stands for the default.

    Raises:
        ValueError: if there is no such implementation.
    """
    if name not in NAMES:
        raise ValueError(
            # transformers' words, which its tests look for
            f'Specified `attn_implementation="{name}"` is not supported: choose "auto" (the '
            'default, "sdpa" is the same), "blockwise", "triton", "eager" or "flex_attention"'
        )
    return NAMES[name]
