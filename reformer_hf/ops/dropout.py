"""Dropout whose random numbers come from a seed, so that they can be drawn again."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor


def draw_seed() -> int | None:
    """Draw a seed from torch's default generator.

    Returns:
        A seed; None in a pass of fake tensors, which has no numbers to draw.

    >>> 0 <= draw_seed() < 2**63
    True
    """
    drawn = torch.randint(2**63 - 1, (), device="cpu")
    return None if isinstance(drawn, FakeTensor) else int(drawn)


def seeded_generator(seed: int | None, device: torch.device) -> torch.Generator | None:
    """A private generator, in the state that a seed gives it.

    Args:
        seed: from :func:`draw_seed`; None for the default generator.
        device: of the numbers.

    Returns:
        It, or None for the default one.

    >>> seeded_generator(1, torch.device("cpu")).initial_seed()
    1
    """
    if seed is None or device.type == "meta":
        return None
    return torch.Generator(device).manual_seed(seed)


def draw_kept(
    like: Float[Tensor, "*shape"], dropout: float, generator: torch.Generator | None
) -> Float[Tensor, "*shape"]:
    """Draw which numbers dropout keeps.

    Args:
        like: shape and dtype.
        dropout: probability of dropping, below 1.
        generator: where the random numbers come from.

    Returns:
        0, or ``1 / (1 - dropout)``, to be multiplied with.

    >>> draw_kept(torch.zeros(2), 0.0, None).tolist()
    [1.0, 1.0]
    """
    kept = torch.empty_like(like).bernoulli_(1 - dropout, generator=generator)
    return kept.div_(1 - dropout)
