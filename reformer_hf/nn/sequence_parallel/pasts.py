"""The pasts of a shard: what its layers see of the tokens that other processes hold.

Of a layer that looks to both sides, tokens behind the shard are a part of its past: what comes from
the right is what would come from the left if the row were read from its end. The pasts remember
nothing, so that a layer may be replayed: each pass asks the other processes anew. In a pass with a
cache they hand what has come from the left, and the shard's own tokens, to the cache's past.
"""

from typing import Any

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor
from torch.nn.functional import pad

from reformer_hf.nn.past.base import LSHPast, NewTokens, Past
from reformer_hf.nn.past.distance import AttendRows, DistancePast
from reformer_hf.nn.past.lsh_band import LSHBandPast
from reformer_hf.nn.past.recent_inputs import Joined, RecentInputs, RecentStates
from reformer_hf.nn.sequence_parallel.shard import Shard
from reformer_hf.ops.attention import lsh_attention
from reformer_hf.ops.attention_map import HeadsAndMap
from reformer_hf.ops.convolution import following
from reformer_hf.ops.recurrence import gated_recurrence
from reformer_hf.ops.sorting import places_in_document
from reformer_hf.ops.tails import find_tails, take_tails
from reformer_hf.ops.window import Window


class NeighbourInputs(RecentInputs):
    """The last inputs of the process before, for a convolution or n-grams.

    Args:
        shard: of this process.
        causal: whether later tokens are hidden; if not, there are as many first inputs of the
            process behind.
        kept: is to remember the last ones of this shard.
    """

    def __init__(self, shard: Shard, causal: bool = True, kept: RecentInputs | None = None):
        super().__init__()
        self.shard, self.causal, self.kept = shard, causal, kept

    def join(
        self, inputs: Shaped[Tensor, "batch seq dim"], count: int, *unused: Any, **options: Any
    ) -> Joined:
        """Put the neighbours' inputs around this shard's; see the base class."""
        counts = (count, 0 if self.causal else count)
        joined = self.shard.with_neighbours(inputs, *counts)
        if self.kept is not None:
            self.kept.join(joined, count)
        return Joined(joined, None, self.shard.documents_with_neighbours(*counts))


class ShardStates(RecentStates):
    """The states of recurrent units behind the last token of the process before.

    Args:
        shard: of this process.
        kept: is to remember the states behind this shard.
    """

    def __init__(self, shard: Shard, kept: RecentInputs | None = None):
        super().__init__()
        self.shard, self.kept = shard, kept

    def recur(
        self,
        forget: Float[Tensor, "batch seq dim"],
        inputs: Float[Tensor, "batch seq dim"],
        documents: Int[Tensor, "batch seq"] | None,
        start: Float[Tensor, "batch dim"] | None,
    ) -> Float[Tensor, "batch seq dim"]:
        """Run the recurrence of a unit from the state that comes in; see the base class.

        What the shard makes of a state, it knows before it comes: the last one is linear in the
        first. So processes wait for each other's states only, and not for their recurrences.
        """
        shard, documents = self.shard, self.shard.documents
        own = gated_recurrence(forget, inputs, documents)
        handed_on, goes_on, comes_in = shard.handed_on(1), shard.goes_on(1), shard.comes_in()
        if handed_on is None or goes_on is None or comes_in is None:
            start = shard.group.carry(forget.prod(dim=1), own[:, -1])
            return gated_recurrence(forget, inputs, documents, start)
        handed_on = handed_on.unsqueeze(-1)
        kept = forget.where(handed_on, 1).prod(dim=1) * goes_on.unsqueeze(1)
        is_last = handed_on & ~pad(handed_on[:, 1:], (0, 0, 0, 1))
        start = shard.group.carry(kept, (own * is_last).sum(dim=1)) * comes_in.unsqueeze(1)
        return gated_recurrence(forget, inputs, documents, start)

    def join(
        self, inputs: Shaped[Tensor, "batch seq dim"], count: int, *unused: Any, **options: Any
    ) -> Joined:
        """Remember nothing by itself; see the base class."""
        if self.kept is not None:
            self.kept.join(inputs, count)
        return Joined(inputs, None)


class DistanceShardPast(DistancePast):
    """Keys and values of the tokens around a shard, as far as a query sees.

    Args:
        shard: of this process.
        window: how far a query sees.
        kept: is to remember what tokens behind the shard see.
    """

    def __init__(self, shard: Shard, window: Window, kept: DistancePast | None = None):
        super().__init__(window)
        self.shard, self.sides, self.kept = shard, (window.before, window.after), kept
        self.recent, self.recent_shared = _neighbour_inputs(shard, window, kept)

    def attend(
        self,
        attend: AttendRows,
        query: Float[Tensor, "batch heads seq dim"],
        key: Float[Tensor, "batch heads seq dim"],
        value: Float[Tensor, "batch heads seq dim"],
        new: NewTokens,
        **options: Any,
    ) -> HeadsAndMap:
        """Attend from this shard; see the base class."""
        before, after = self.sides
        joined = self.shard.with_neighbours(torch.cat([key, value], dim=-1), before, after)
        # Nobody stands before the first process: not even zeros may be seen there. Nor at the end.
        left = 0 if self.shard.group.first else before
        right = 0 if self.shard.group.last else after
        first, end = before - left, joined.shape[2] - (after - right)
        key, value = joined[:, :, first:end].chunk(2, dim=-1)
        if self.kept is not None:
            self.kept.remember(key, value, new)
            self.kept.go_on_at(self.shard.end)
        documents = self.shard.documents_with_neighbours(left, right)
        output, _ = attend(pad(query, (0, 0, left, right)), key, value, documents, **options)
        return output[:, :, left : left + query.shape[2]], None


class LSHShardPast(LSHPast):
    """Tails: for each head, round and bucket the nearest tokens of the other processes.

    Args:
        shard: of this process.
        rotations: that the layer hashes with.
        num_buckets: total number of buckets.
        window: how far a query sees.
        kept: is to remember what tokens behind the shard see.
    """

    def __init__(
        self,
        shard: Shard,
        rotations: Float[Tensor, "heads dim rounds columns"],
        num_buckets: int,
        window: Window,
        kept: LSHBandPast | None = None,
    ):
        super().__init__(rotations, num_buckets, window)
        self.shard, self.kept, self.follows = shard, kept, False
        self.recent, self.recent_shared = _neighbour_inputs(shard, window, kept)

    def follow(
        self, value: Float[Tensor, "batch heads seq dim"], new: NewTokens
    ) -> Float[Tensor, "batch heads seq dim"]:
        """Give each token the value of the next, which may be the neighbour's first one."""
        self.follows = True
        joined = self.shard.with_neighbours(value, 0, 1)
        nexts = following(joined, self.shard.documents_with_neighbours(0, 1))
        return nexts[:, :, : value.shape[2]]

    def begins(self, new: NewTokens) -> Bool[Tensor, "batch seq"]:
        """Say which tokens are the first of a document; see the base class."""
        documents = self.shard.documents_with_neighbours(1)
        if documents is None:
            first = torch.zeros_like(new.places, dtype=torch.bool)
            first[:, 0] = self.shard.group.first
            return first
        return places_in_document(documents)[:, 1:] == 0

    def attend(
        self,
        query: Float[Tensor, "batch heads seq dim"],
        value: Float[Tensor, "batch heads seq dim"],
        buckets: Int[Tensor, "batch heads rounds seq"],
        new: NewTokens,
        **options: Any,
    ) -> HeadsAndMap:
        """Attend from this shard; see the base class."""
        vectors = torch.cat([query, value], dim=-1)
        before, before_buckets = self._take(vectors, buckets, self.window.before, 1)
        after, after_buckets = self._take(vectors, buckets, self.window.after, -1)
        left, right = before.shape[2], after.shape[2]
        query, value = torch.cat([before, vectors, after], dim=2).chunk(2, dim=-1)
        joined = (query, value, torch.cat([before_buckets, buckets, after_buckets], dim=-1))
        if self.kept is not None:
            # It attends in the same way, and the bucket behind all others is its one of padding.
            if self.follows:
                self.kept.count_stored(query)
            output, _ = self.kept.attend(*joined, new, **options)
            self.kept.go_on_at(self.shard.end)
        else:
            documents = self.shard.documents_with_tails(left, right)
            sizes: dict[str, Any] = {"num_buckets": self.num_buckets + 1, "window": self.window}
            output, _ = lsh_attention(*joined, documents, **sizes, **options)
        return output[:, :, left : left + vectors.shape[2]], None

    def _take(
        self,
        vectors: Float[Tensor, "batch heads seq dim"],
        buckets: Int[Tensor, "batch heads rounds seq"],
        window: int,
        step: int,
    ) -> tuple[Float[Tensor, "batch heads slots dim"], Int[Tensor, "batch heads rounds slots"]]:
        """Take the tokens that a query sees of the processes on one side.

        Args:
            vectors: of this shard.
            buckets: of this shard.
            window: tokens of a bucket that a query sees on that side.
            step: 1 for what comes from the left, -1 for what comes from the right.

        Returns:
            Slots of tokens in the order of the row, none beyond the ends of a row, and in each
            round their buckets.
        """
        if not window:
            return vectors[:, :, :0], buckets[..., :0]
        # The local round, the last one, has a single bucket.
        rounds, local = self.rotations.shape[2], buckets.shape[2] - self.rotations.shape[2]
        handed_on = self.shard.handed_on(step)
        places = find_tails(buckets, handed_on, self.num_buckets, window, step)
        places = torch.cat([places[:, :, :rounds].flatten(2, 3), places[:, :, rounds:, 0]], dim=2)
        tails = self.shard.group.scan(take_tails(vectors, places), self.shard.goes_on(step), step)
        slots, labels = tails.vectors, self._label(tails.counts, window, local)
        if step > 0:  # the nearest first, which are the last ones in the row
            slots, labels = slots.flip(-2), labels.flip(-1)
        count = 0 if self.shard.group.nobody_before(step) else window * slots.shape[2]
        return slots.flatten(2, 3)[:, :, :count], labels.flatten(-2)[..., :count]

    def _label(
        self, counts: Int[Tensor, "batch heads buckets"], window: int, local: int
    ) -> Int[Tensor, "batch heads rounds buckets window"]:
        """Buckets of the slots of tails in each round.

        A slot counts in its own round; in the others, and while it is empty, it stands in a bucket
        behind all others, which nobody reads.
        """
        rounds, device = self.rotations.shape[2], counts.device
        filled = torch.arange(window, device=device) < counts.unsqueeze(-1)
        numbers = torch.arange(counts.shape[2], device=device)
        own_round, bucket = numbers // self.num_buckets, numbers % self.num_buckets
        in_round = own_round == torch.arange(rounds + local, device=device).unsqueeze(1)
        counted = in_round.unsqueeze(-1) & filled.unsqueeze(2)
        return torch.where(counted, bucket.unsqueeze(-1), self.num_buckets)


def _neighbour_inputs(
    shard: Shard, window: Window, kept: Past | None
) -> tuple[NeighbourInputs, NeighbourInputs]:
    """Of a short convolution, and of sparse projections."""
    recents = (None, None) if kept is None else (kept.recent, kept.recent_shared)
    recent, shared = (NeighbourInputs(shard, window.causal, own) for own in recents)
    return recent, shared
