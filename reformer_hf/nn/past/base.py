"""What every layer's past has in common."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from reformer_hf.nn.past.recent_inputs import RecentInputs, RecentStates
from reformer_hf.nn.past.token_store import TokenStore
from reformer_hf.ops.attend import Implementation
from reformer_hf.ops.attention_map import HeadsAndMap
from reformer_hf.ops.convolution import following
from reformer_hf.ops.window import Window


class NewTokens(NamedTuple):
    """Where the tokens of a pass stand in their rows.

    Attributes:
        places: place of each token among the real tokens of its row, -1 for padding.
        padded: whether there is any padding.
    """

    places: Int[Tensor, "batch seq"]
    padded: bool

    @property
    def real(self) -> Bool[Tensor, "batch seq"]:
        """True at real tokens."""
        return self.places >= 0

    @property
    def documents(self) -> Int[Tensor, "batch seq"] | None:
        """Document of each token, 1 at padding; None where there is none."""
        return (~self.real).long() if self.padded else None


class Past:
    """What a layer remembers of the tokens before.

    Attributes:
        length: tokens of each row so far, padding included.
        partial: whether other processes have read the first of them, so that only what later
            tokens see of these is stored.
        tokens: their keys and values side by side.
        recent: their last inputs, where a short convolution sees them.
        recent_shared: the last vectors that sparse projections share.
        last_stored: which of the stored tokens is the last real one of each row, from 1.
        states: the last states of recurrent units, side by side.
        recording: from now on, keep what :meth:`drop_last` needs.
    """

    def __init__(self) -> None:
        self.length, self.partial = 0, False
        self.tokens = TokenStore()
        self.recent, self.recent_shared = RecentInputs(), RecentInputs()
        self.last_stored = RecentInputs()
        self.states = RecentStates()
        self.recording = False

    @property
    def _remembered(self) -> tuple[RecentInputs, ...]:
        return self.recent, self.recent_shared, self.last_stored, self.states

    def go_on_at(self, length: int) -> None:
        """Let the next tokens stand behind so many, of which other processes have read the first.

        Args:
            length: tokens of each row so far.
        """
        self.length, self.partial = length, True

    def can_drop(self, count: int) -> bool:
        """Whether enough is known to forget the last tokens.

        Args:
            count: tokens, fewer than there are.

        Returns:
            True if so.
        """
        return all(each.can_drop(count) for each in self._remembered)

    def drop_last(self, count: int) -> None:
        """Forget the last tokens of every row, as if they had never been.

        Args:
            count: tokens that :meth:`can_drop`, none of them padding; 0 only forgets what was
                recorded.
        """
        self.length -= count
        self.tokens.drop_last(count)
        for each in self._remembered:
            each.drop_last(count)

    def change_rows(self, change: Callable[[Tensor], Tensor]) -> None:
        """Replace each tensor by a function of it, such as a choice or repetition of rows.

        Args:
            change: keeps all axes but the first.
        """
        self.tokens.change_rows(change)
        for each in self._remembered:
            each.change_rows(change)

    @property
    def keys(self) -> Float[Tensor, "batch heads stored dim"]:
        """Keys of the tokens that are stored, in order; a row's padding may have moved left.

        Those of other processes come first, in an LSH layer by head, round and bucket.
        """
        return self.tokens.tokens().chunk(2, dim=-1)[0]

    @property
    def values(self) -> Float[Tensor, "batch heads stored dim"]:
        """Their values; of a layer with next values those of the tokens behind them."""
        return self.tokens.tokens().chunk(2, dim=-1)[1]

    @property
    def rows(self) -> int:
        """Rows of the batch; 0 before the first tokens."""
        return 0 if self.tokens.buffer is None else self.tokens.buffer.shape[0]

    @property
    def fixed_bytes(self) -> int:
        """Bytes that do not grow with the length."""
        return sum(each.allocated_bytes for each in self._remembered)

    @property
    def token_bytes(self) -> int:
        """Bytes of what is stored by token, all rows together."""
        return self.tokens.bytes_per_token * self.tokens.length

    @property
    def allocated_bytes(self) -> int:
        """Bytes held, room to grow included."""
        return self.tokens.allocated_bytes + self.fixed_bytes


class LSHPast(Past, ABC):
    """The past of an LSH layer.

    Args:
        rotations: that the layer hashes with.
        num_buckets: total number of buckets, without the one of padding.
        window: how far a query sees, of a causal layer.
        deduplicate_rounds: count a key that several rounds show once.
    """

    def __init__(
        self,
        rotations: Float[Tensor, "heads dim rounds columns"],
        num_buckets: int,
        window: Window,
        deduplicate_rounds: bool = False,
    ):
        super().__init__()
        self.rotations, self.num_buckets, self.window = rotations, num_buckets, window
        self.deduplicate_rounds = deduplicate_rounds

    def follow(
        self, value: Float[Tensor, "batch heads seq dim"], new: NewTokens
    ) -> Float[Tensor, "batch heads seq dim"]:
        """Give each new token the value of the next, and the last stored one that of the first.

        Args:
            value: of the new tokens.
            new: where they stand.

        Returns:
            What :meth:`attend` is to remember of them as their values; that of a row's last token
            is zero until the next pass.
        """
        self.tokens.check(value)
        last, real = self.last_stored.last, new.real
        if last is not None:
            # Of a row without real tokens padding takes and gives, which nobody sees.
            first = real.long().argmax(dim=1)[:, None, None, None]
            nexts = value.gather(2, first.expand(-1, value.shape[1], 1, value.shape[3]))
            self.tokens.overwrite_end((last - 1).clamp(min=0), nexts)
        self.count_stored(value, real if new.padded else None)
        return following(value, new.documents)

    def drop_last(self, count: int) -> None:
        """Forget the last tokens of every row; see :meth:`Past.drop_last`."""
        super().drop_last(count)
        last = self.last_stored.last
        if last is not None and count:
            nothing = torch.zeros_like(self.values[:, :, :1])
            self.tokens.overwrite_end((last - 1).clamp(min=0), nothing)

    def count_stored(
        self,
        tokens: Float[Tensor, "batch heads seq dim"],
        real: Bool[Tensor, "batch seq"] | None = None,
    ) -> None:
        """Note which of the tokens that are to be stored is the last real one of each row.

        Args:
            tokens: all that one pass stores.
            real: true at real tokens; None where there is no padding.
        """
        start = self.tokens.length + 1
        stored = torch.arange(start, start + tokens.shape[2], device=tokens.device)
        stored = stored.expand(tokens.shape[0], -1).unsqueeze(-1)
        self.last_stored.join(stored, 1, real, self.recording)

    def begins(self, new: NewTokens) -> Bool[Tensor, "batch seq"]:
        """Say which new tokens are the first of a document.

        Args:
            new: where they stand.

        Returns:
            True at these.
        """
        return new.places == 0

    @abstractmethod
    def attend(
        self,
        query: Float[Tensor, "batch heads seq dim"],
        value: Float[Tensor, "batch heads seq dim"],
        buckets: Int[Tensor, "batch heads rounds seq"],
        new: NewTokens,
        *,
        dropout: float = 0.0,
        output_map: bool = False,
        implementation: Implementation = "auto",
    ) -> HeadsAndMap:
        """Attend from new tokens to all that they see, each other included, and remember them.

        Args:
            query: queries.
            value: values.
            buckets: bucket ids under this past's rotations.
            new: where the tokens stand.
            dropout: of the probabilities.
            output_map: also return the attention map.
            implementation: how to compute it, if the past is empty.

        Returns:
            The output, and the map or None.
        """


class LSHCachePast(LSHPast):
    """The past of an LSH layer that remembers its tokens."""

    def attend(
        self,
        query: Tensor,
        value: Tensor,
        buckets: Tensor,
        new: NewTokens,
        *,
        dropout: float = 0.0,
        output_map: bool = False,
        implementation: Implementation = "auto",
    ) -> HeadsAndMap:
        """Attend from new tokens; see the base class."""
        if self.length:
            return self._decode(query, value, buckets, new, dropout, output_map)
        options = {"dropout": dropout, "output_map": output_map, "implementation": implementation}
        return self._prefill(query, value, buckets, new, **options)

    @abstractmethod
    def _prefill(
        self, query: Tensor, value: Tensor, buckets: Tensor, new: NewTokens, **options: Any
    ) -> HeadsAndMap:
        """Attend from the first tokens to each other."""

    @abstractmethod
    def _decode(
        self,
        query: Tensor,
        value: Tensor,
        buckets: Tensor,
        new: NewTokens,
        dropout: float,
        output_map: bool,
    ) -> HeadsAndMap:
        """Attend from further tokens."""
