"""Windows attended by torch's FlexAttention, which a compiler turns into a kernel for a GPU."""

import functools
from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.attention.flex_attention import AuxRequest, BlockMask, flex_attention

from reformer_hf.ops.window_attention import ALONE_LOGSUMEXP
from reformer_hf.ops.windows import Reach, count_visible

BLOCK = 128
"""FlexAttention's block of queries and of keys."""


def attend_flex(
    query: Float[Tensor, "batch heads seq dim"],
    key: Float[Tensor, "batch heads seq dim"],
    value: Float[Tensor, "batch heads seq dim"],
    segments: Int[Tensor, "batch heads seq"],
    reach: Reach,
    *,
    self_mask: bool,
) -> tuple[Float[Tensor, "batch heads seq dim"], Float[Tensor, "batch heads seq"]]:
    """Attend to places near each query's own in its segment.

    Args:
        query: in the order that defines the ranks.
        key: in the same order.
        value: in the same order.
        segments: along the order.
        reach: how far a query sees.
        self_mask: the own place counts only when there is no other.

    Returns:
        Output and log-sum-exp. On a CPU they have no gradient, which FlexAttention lacks there.

    >>> import warnings; warnings.simplefilter("ignore")  # on a CPU it warns of its slowness
    >>> x, segments = torch.zeros(1, 1, 2, 4), torch.zeros(1, 1, 2, dtype=torch.int64)
    >>> attend_flex(x, x, x, segments, Reach(1, 0, 0), self_mask=False)[1].exp().flatten().tolist()
    [1.0, 2.0]
    """
    seq = query.shape[-2]
    earlier, later = (_fill(count) for count in count_visible(segments, reach))
    alone = earlier + later == 0
    own_visible = alone if self_mask else torch.ones_like(alone)
    filled = (_fill(x.transpose(-1, -2)).transpose(-1, -2) for x in (query, key, value))
    output, extra = _function(query.device.type)(
        *filled,
        block_mask=_block_mask(
            lambda row, head, place, other: (
                (place - other <= earlier[row, head, place])
                & (other - place <= later[row, head, place])
                & ((place != other) | own_visible[row, head, place])
            ),
            earlier.shape[-1],
            reach,
            query.device,
        ),
        return_aux=AuxRequest(lse=True),
    )
    logsumexp = extra.lse[..., :seq]
    if self_mask:
        logsumexp = logsumexp.masked_fill(alone[..., :seq], ALONE_LOGSUMEXP)
    return output[..., :seq, :], logsumexp


def _fill(tensor: Tensor) -> Tensor:
    """Fill the last axis up to whole blocks with zeros."""
    return torch.nn.functional.pad(tensor, (0, -tensor.shape[-1] % BLOCK))


def _block_mask(visible: Callable, seq: int, reach: Reach, device: torch.device) -> BlockMask:
    """The blocks near the diagonal, found without asking about every pair of places."""
    blocks = torch.arange(seq // BLOCK, device=device, dtype=torch.int32)
    first = ((blocks * BLOCK - reach.before) // BLOCK).clamp(min=0)
    last = ((blocks * BLOCK + BLOCK - 1 + reach.after) // BLOCK).clamp(max=len(blocks) - 1)
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
