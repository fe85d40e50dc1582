"""Cross-entropy that never holds the logits of the whole sequence."""

from collections.abc import Callable, Iterable
from functools import partial

import torch
from jaxtyping import Float, Int, Num
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint


def chunked_cross_entropy(
    hidden_states: Float[Tensor, "batch seq dim"] | tuple[Float[Tensor, "batch seq dim"], ...],
    labels: Int[Tensor, "batch seq"],
    project: Callable[..., Tensor],
    chunk_size: int,
    num_items: Num[Tensor, ""] | int | None = None,
    ignore_index: int = -100,
    cut: Callable[[Tensor, int], Iterable[Tensor]] | None = None,
) -> Float[Tensor, ""]:
    """Cross-entropy of projected hidden states, computed a chunk of the sequence at a time.

    A chunk's logits are dropped after use and computed again in backward.

    Args:
        hidden_states: inputs of the output projection; one tensor or several.
        labels: target of each place (already shifted); ``ignore_index`` where there is none.
        project: maps chunks of them ``(batch, chunk, dim)`` to logits ``(batch, chunk, vocab)``.
        chunk_size: tokens of each row at a time.
        num_items: what the summed loss is divided by; None for the number of labels.
        ignore_index: label without a loss.
        cut: makes the chunks of hidden states, of which each is used before the next is taken, and
            gets a gradient; None for a plain split.

    Returns:
        The loss, float32 or wider.

    Raises:
        ValueError: if ``chunk_size`` is not positive.

    >>> x = torch.zeros(1, 3, 4)
    >>> loss = chunked_cross_entropy(x, torch.tensor([[0, 1, -100]]), lambda h: h, 2)
    >>> bool(torch.isclose(loss, torch.tensor(4.0).log()))
    True
    """
    if chunk_size < 1:
        raise ValueError(f"chunk_size={chunk_size}: the loss needs chunks of at least one token")

    def chunk_loss(targets: Tensor, *chunks: Tensor) -> Tensor:
        logits = project(*chunks).flatten(0, 1)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        return cross_entropy(logits, targets.flatten(), ignore_index=ignore_index, reduction="sum")

    cut = cut or partial(torch.split, dim=1)
    states = (hidden_states,) if isinstance(hidden_states, Tensor) else hidden_states
    parts = [
        checkpoint(chunk_loss, *chunks, use_reentrant=False)
        for chunks in zip(
            labels.split(chunk_size, dim=1), *(cut(x, chunk_size) for x in states), strict=True
        )
    ]
    total = torch.stack(parts).sum()  # type: ignore[arg-type]
    if num_items is None:
        num_items = (labels != ignore_index).sum()
    return total / num_items
