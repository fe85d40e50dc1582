"""The pasts of a shard: what its layers see of the tokens that other processes hold.

They remember nothing, so that a layer may be replayed: each pass asks the other processes anew.
"""

from typing import Any

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor
from torch.nn.functional import pad

from reformer_hf.nn.past.base import LSHPast, NewTokens
from reformer_hf.nn.past.distance import AttendRows, DistancePast
from reformer_hf.nn.past.recent_inputs import Joined, RecentInputs
from reformer_hf.nn.sequence_parallel.shard import Shard
from reformer_hf.ops.attention import lsh_attention
from reformer_hf.ops.attention_map import HeadsAndMap
from reformer_hf.ops.tails import find_tails, take_tails
from reformer_hf.ops.window import Window


class LeftInputs(RecentInputs):
    """The last inputs of the process before, for a convolution or n-grams.

    Args:
        shard: of this process.
    """

    def __init__(self, shard: Shard):
        super().__init__()
        self.shard = shard

    def join(
        self, inputs: Shaped[Tensor, "batch seq dim"], count: int, *unused: Any, **options: Any
    ) -> Joined:
        """Put this shard's inputs behind the neighbour's last ones; see the base class."""
        joined = self.shard.take_left(inputs, count)
        return Joined(joined, None, self.shard.behind_neighbours(count))


class DistanceShardPast(DistancePast):
    """The last keys and values of the process before.

    Args:
        shard: of this process.
        window: how far a query sees.
    """

    def __init__(self, shard: Shard, window: Window):
        super().__init__(window)
        self.shard, self.before = shard, window.before
        self.recent, self.recent_shared = LeftInputs(shard), LeftInputs(shard)

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
        joined = self.shard.take_left(torch.cat([key, value], dim=-1), self.before)
        # Nobody stands before the first process: not even zeros may be seen there.
        left = 0 if self.shard.group.first else self.before
        key, value = joined[:, :, self.before - left :].chunk(2, dim=-1)
        documents = self.shard.behind_neighbours(left)
        output, _ = attend(pad(query, (0, 0, left, 0)), key, value, documents, **options)
        return output[:, :, left:], None


class LSHShardPast(LSHPast):
    """The tails of all processes before: for each head, round and bucket its last tokens.

    Args:
        shard: of this process.
        rotations: that the layer hashes with.
        num_buckets: total number of buckets.
        window: how far a query sees, of a causal layer.
    """

    def __init__(
        self,
        shard: Shard,
        rotations: Float[Tensor, "heads dim rounds columns"],
        num_buckets: int,
        window: Window,
    ):
        super().__init__(rotations, num_buckets, window)
        self.shard = shard
        self.recent, self.recent_shared = LeftInputs(shard), LeftInputs(shard)

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
        # The local round, the last one, has a single bucket.
        rounds, local = self.rotations.shape[2], buckets.shape[2] - self.rotations.shape[2]
        places = find_tails(buckets, self.shard.carried_on, self.num_buckets, self.window.before)
        places = torch.cat([places[:, :, :rounds].flatten(2, 3), places[:, :, rounds:, 0]], dim=2)
        tails = self.shard.group.scan(take_tails(vectors, places), self.shard.goes_on)
        labels = self._label(tails.counts, local)
        left = 0 if self.shard.group.first else labels.shape[-1]
        # Oldest first, as the order of the row has them.
        before = tails.vectors.flip(-2).flatten(2, 3)[:, :, :left]
        query, value = torch.cat([before, vectors], dim=2).chunk(2, dim=-1)
        output, _ = lsh_attention(
            query,
            value,
            torch.cat([labels[..., :left], buckets], dim=-1),
            self.shard.behind_tails(left),
            num_buckets=self.num_buckets + 1,
            window=self.window,
            **options,
        )
        return output[:, :, left:], None

    def _label(
        self, counts: Int[Tensor, "batch heads buckets"], local: int
    ) -> Int[Tensor, "batch heads rounds slots"]:
        """Buckets of the slots of tails in each round, oldest first.

        A slot counts in its own round; in the others, and while it is empty, it stands in a bucket
        behind all others, which nobody reads.
        """
        rounds, window = self.rotations.shape[2], self.window.before
        device = counts.device
        filled = torch.arange(window, 0, -1, device=device) <= counts.unsqueeze(-1)
        numbers = torch.arange(counts.shape[2], device=device)
        own_round, bucket = numbers // self.num_buckets, numbers % self.num_buckets
        in_round = own_round == torch.arange(rounds + local, device=device).unsqueeze(1)
        counted = in_round.unsqueeze(-1) & filled.unsqueeze(2)
        labels = torch.where(counted, bucket.unsqueeze(-1), self.num_buckets)
        return labels.flatten(-2)
