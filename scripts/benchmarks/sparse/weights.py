"""How many bytes of weights a decoding step reads."""

from collections import Counter

from torch import Tensor, nn

from reformer_hf.nn.sparse_feed_forward import SparseFeedForward

PARTS = ("attention", "feed_forward", "head")
"""Of a model."""

_OF_UNITS = ("up_weight", "up_bias", "down_weight")


def bytes_per_token(model: nn.Module) -> dict[str, int]:
    """Bytes of weights that a step of one token reads, by part.

    Of a sparse feed-forward layer one unit of each block counts. Embeddings do not: one row of them
    is read.

    Args:
        model: causal language model of this package.
    """
    found: Counter[str] = Counter(dict.fromkeys(PARTS, 0))
    for name, module in model.named_modules():
        part = part_of(name)
        if part is not None:
            for label, weight in module.named_parameters(recurse=False):
                size = stored_bytes(weight)
                if isinstance(module, SparseFeedForward) and label in _OF_UNITS:
                    size //= module.block_size
                found[part] += size
    return dict(found)


def part_of(name: str) -> str | None:
    """The part of a model that a module belongs to; None for embeddings and norms of the whole."""
    if name.startswith("lm_head"):
        return "head"
    return next((part for part in PARTS if f".{part}" in name), None)


def stored_bytes(weight: Tensor) -> int:
    """Bytes of a tensor, or of the tensors that make up a quantised one."""
    if not hasattr(weight, "__tensor_flatten__"):
        return weight.nbytes
    names, _ = weight.__tensor_flatten__()  # type: ignore[operator]
    return sum(stored_bytes(getattr(weight, name)) for name in names)
