"""Windows attended by torch's FlexAttention, which a compiler turns into a kernel for a GPU."""

import functools
from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.attention.flex_attention import AuxRequest, BlockMask, flex_attention

from reformer_hf.ops.attend import ALONE_LOGSUMEXP, Attended
from reformer_hf.ops.long_order import count_visible
from reformer_hf.ops.window import Window

BLOCK = 128
"""FlexAttention's block of queries and of keys."""


def attend_flex(
    query: Float[Tensor, "*lead seq dim"],
    key: Float[Tensor, "*lead seq dim"],
    value: Float[Tensor, "*lead seq dim"],
    segments: Int[Tensor, "*#lead seq"],
    window: Window,
    self_mask: bool,
    dropout: float = 0.0,
) -> Attended:
    """Attend to places near each query's own in its segment.

    Args:
        query: in the order that defines the ranks.
        key: in the same order.
        value: in the same order.
        segments: along the order.
        window: how far a query sees.
        self_mask: the own place counts only when there is no other.
        dropout: must be 0.

    Returns:
        Output and log-sum-exp. On a CPU they have no gradient, which FlexAttention lacks there.

    Raises:
        ValueError: if there is dropout, which FlexAttention has not.

    >>> import warnings; warnings.simplefilter("ignore")  # on a CPU it warns of its slowness
    >>> x, segments = torch.zeros(1, 1, 2, 4), torch.zeros(1, 1, 2, dtype=torch.int64)
    >>> attended = attend_flex(x, x, x, segments, Window(1, 1), self_mask=False)
    >>> attended.logsumexp.exp().flatten().tolist()
    [1.0, 2.0]
    """
    if dropout:
        raise ValueError(
            f"dropout={dropout} with flex_attention, which has none: set the dropout of the "
            "attention probabilities to 0, or use another attn_implementation"
        )
    *lead, seq, _ = query.shape
    segments = segments.expand(*lead, seq).reshape(lead[0], -1, seq)
    earlier, later = (_fill(count) for count in count_visible(segments, window))
    alone = earlier + later == 0
    own_visible = alone if self_mask else torch.ones_like(alone)
    vectors = (x.reshape(lead[0], -1, *x.shape[-2:]) for x in (query, key, value))
    output, extra = _function(query.device.type)(
        *(_fill(x.transpose(-1, -2)).transpose(-1, -2) for x in vectors),
        block_mask=_block_mask(
            lambda row, head, place, other: (
                (place - other <= earlier[row, head, place])
                & (other - place <= later[row, head, place])
                & ((place != other) | own_visible[row, head, place])
            ),
            earlier.shape[-1],
            window,
            query.device,
        ),
        return_aux=AuxRequest(lse=True),
    )
    logsumexp = extra.lse[..., :seq]
    if self_mask:
        logsumexp = logsumexp.masked_fill(alone[..., :seq], ALONE_LOGSUMEXP)
    output = output[..., :seq, :].reshape(*lead, seq, -1)
    return Attended(output, logsumexp.reshape(*lead, seq), None)


def _fill(tensor: Tensor) -> Tensor:
    """Fill the last axis up to whole blocks with zeros."""
    return torch.nn.functional.pad(tensor, (0, -tensor.shape[-1] % BLOCK))


def _block_mask(visible: Callable, seq: int, window: Window, device: torch.device) -> BlockMask:
    """The blocks near the diagonal, found without asking about every pair of places."""
    blocks = torch.arange(seq // BLOCK, device=device, dtype=torch.int32)
    first = ((blocks * BLOCK - window.before) // BLOCK).clamp(min=0)
    last = ((blocks * BLOCK + BLOCK - 1 + window.after) // BLOCK).clamp(max=len(blocks) - 1)
    indices = (first[:, None] + blocks).clamp(max=len(blocks) - 1)
    return BlockMask.from_kv_blocks(
        (last - first + 1)[None, None],
        indices[None, None],
        BLOCK_SIZE=BLOCK,
        mask_mod=visible,
        seq_lengths=(seq, seq),
    )


@functools.cache
def _function(device_type: str) -> Callable:
    """FlexAttention, compiled where there is a kernel to win."""
    return flex_attention if device_type == "cpu" else torch.compile(flex_attention)
