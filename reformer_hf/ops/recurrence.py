"""A gated recurrence along a row, which starts anew in each document; no loop over tokens."""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import pad

from reformer_hf.ops.sorting import invert_order, rearrange


def gated_recurrence(
    forget: Float[Tensor, "batch seq dim"],
    inputs: Float[Tensor, "batch seq dim"],
    documents: Int[Tensor, "batch seq"] | None = None,
    start: Float[Tensor, "batch dim"] | None = None,
) -> Float[Tensor, "batch seq dim"]:
    """Keep a part of the state at each token, and let the token's input take the place of the rest.

    Number by number, ``state[t] = forget[t] * state[t - 1] + (1 - forget[t]) * inputs[t]``.

    Args:
        forget: how much of the state is kept, from 0 to 1.
        inputs: of the tokens.
        documents: document of each place; None for a single document. A document's tokens need not
            stand together.
        start: state before the first token of each row's lowest document; None for zeros, from
            which all others start.

    Returns:
        The state behind each token.

    Source: Lei et al. 2018, "Simple Recurrent Units" (arXiv 1709.02755): the light recurrence.

    >>> forget, inputs = torch.tensor([[[0.5], [0.5], [0.25]]]), torch.ones(1, 3, 1)
    >>> gated_recurrence(forget, inputs).flatten().tolist()
    [0.5, 0.75, 0.9375]
    >>> gated_recurrence(forget, inputs, torch.tensor([[0, 1, 0]])).flatten().tolist()
    [0.5, 0.5, 0.875]
    """
    addends = (1 - forget) * inputs
    if documents is None:
        return _scan(forget, _begin(forget, addends, start))
    ordered, order = torch.sort(documents, dim=-1, stable=True)
    goes_on = pad(ordered[:, 1:] == ordered[:, :-1], (1, 0), value=True).unsqueeze(-1)
    order = order.unsqueeze(1)
    inverse = invert_order(order)
    forget, addends = (rearrange(x, order, inverse).squeeze(1) for x in (forget, addends))
    states = _scan(forget * goes_on, _begin(forget, addends, start))
    return rearrange(states, inverse, order).squeeze(1)


def _begin(forget: Tensor, addends: Tensor, start: Tensor | None) -> Tensor:
    """Addends whose first one holds what is kept of the start."""
    if start is None:
        return addends
    first = torch.addcmul(addends[:, :1], forget[:, :1], start.unsqueeze(1))
    return torch.cat([first, addends[:, 1:]], dim=1)


def _scan(
    forget: Float[Tensor, "batch seq dim"], addends: Float[Tensor, "batch seq dim"]
) -> Float[Tensor, "batch seq dim"]:
    """All ``state[t] = forget[t] * state[t - 1] + addends[t]``, from a state of zero.

    Two tokens are one step, too: so the states behind every second token are a row of half the
    length, and the others follow from them. Factors, which are at most 1, are only multiplied, so
    that nothing overflows; where a product becomes zero, so little of the state is left.
    """
    seq = addends.shape[1]
    if seq == 1:
        return addends
    if seq % 2:
        return _scan(pad(forget, (0, 0, 0, 1)), pad(addends, (0, 0, 0, 1)))[:, :-1]
    forget_first, forget_second = forget.unflatten(1, (-1, 2)).unbind(dim=2)
    first, second = addends.unflatten(1, (-1, 2)).unbind(dim=2)
    seconds = _scan(forget_first * forget_second, torch.addcmul(second, forget_second, first))
    before = pad(seconds[:, :-1], (0, 0, 1, 0))
    firsts = torch.addcmul(first, forget_first, before)
    return torch.stack([firsts, seconds], dim=2).flatten(1, 2)
