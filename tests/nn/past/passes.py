"""Rows of random vectors, cut into passes, for the tests of what layers remember."""

from collections.abc import Iterator

import torch
from hypothesis import strategies as st
from torch import Tensor

from reformer_hf.nn.past.base import LSHPast, NewTokens
from reformer_hf.ops.attention_map import AttentionMap
from tests.ops.oracle import BATCH, DIM, HEADS

BUCKETS = 4
PADDINGS = ("none", "left", "right", "prompt", "holes")
"""Of rows: none, in front, behind, behind the first pass, anywhere."""

generators = st.integers(0, 2**32).map(lambda seed: torch.Generator().manual_seed(seed))
passes = st.lists(st.integers(1, 9), min_size=2, max_size=6)
"""Tokens of each pass."""


def draw_mask(kind: str, steps: list[int], generator: torch.Generator) -> Tensor:
    """True at real tokens, (batch, seq)."""
    seq = sum(steps)
    mask = torch.ones(BATCH, seq, dtype=torch.bool)
    for row in mask:
        count = int(torch.randint(steps[0] + 1, (), generator=generator))
        if kind == "left":
            row[:count] = False
        elif kind == "right":
            row[seq - count :] = False
        elif kind == "prompt":
            row[steps[0] - count : steps[0]] = False
        elif kind == "holes":
            row &= torch.rand(seq, generator=generator) < 0.7
    return mask


def random_heads(seq: int, generator: torch.Generator, count: int) -> Tensor:
    """So many times vectors (batch, heads, seq, dim), float64."""
    shape = (count, BATCH, HEADS, seq, DIM)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def random_buckets(rounds: int, seq: int, generator: torch.Generator) -> Tensor:
    """Bucket ids (batch, heads, rounds, seq)."""
    return torch.randint(BUCKETS, (BATCH, HEADS, rounds, seq), generator=generator)


def new_tokens(mask: Tensor, start: int, stop: int) -> NewTokens:
    """The tokens of one pass."""
    real = mask[:, start:stop]
    places = (mask.cumsum(dim=1) - 1)[:, start:stop].masked_fill(~real, -1)
    return NewTokens(places, padded=not bool(real.all()))


def to_dense(attention_map: AttentionMap, seq: int) -> Tensor:
    """Each query's probabilities over all places of the row, (batch, heads, new, seq)."""
    probabilities, places = (x.transpose(2, 3).flatten(3) for x in attention_map)
    dense = probabilities.new_zeros(*probabilities.shape[:3], seq + 1)
    return dense.scatter_add(-1, places.long() + 1, probabilities)[..., 1:]


def spans(steps: list[int], start: int = 0) -> Iterator[tuple[int, int]]:
    """Start and stop of each pass."""
    for step in steps:
        yield start, start + step
        start += step


class LSHRows:
    """Queries, values and bucket ids of rows, and a past that they are fed to."""

    def __init__(self, rounds: int, mask: Tensor, generator: torch.Generator):
        seq = mask.shape[1]
        self.query, self.value = random_heads(seq, generator, 2)
        self.buckets = random_buckets(rounds, seq, generator)
        self.mask = mask

    def feed(self, past: LSHPast, start: int, stop: int, **options) -> tuple[Tensor, Tensor | None]:
        """Give a past the tokens of one pass; returns output and dense map, or None."""
        tokens = (self.query[:, :, start:stop], self.value[:, :, start:stop])
        new = new_tokens(self.mask, start, stop)
        output, attention_map = past.attend(*tokens, self.buckets[..., start:stop], new, **options)
        if attention_map is None:
            return output, None
        return output, to_dense(attention_map, self.mask.shape[1])

    def feed_all(self, past: LSHPast, steps: list[int], **options) -> tuple[Tensor, Tensor | None]:
        """All passes one after the other."""
        parts = [self.feed(past, *span, **options) for span in spans(steps)]
        outputs, maps = zip(*parts, strict=True)
        found = None if maps[0] is None else torch.cat(maps, dim=2)
        return torch.cat(outputs, dim=2), found

    @property
    def documents(self) -> Tensor:
        """1 at padding."""
        return (~self.mask).long()


def assert_real_equal(found: Tensor, expected: Tensor, mask: Tensor) -> None:
    """Equality at real tokens of (batch, heads, seq, any) tensors."""
    real = mask[:, None, :, None]
    torch.testing.assert_close(found.where(real, 0), expected.where(real, 0), atol=1e-12, rtol=0)
