"""A buffer of per-token tensors that grows with the sequence."""

from collections.abc import Callable

import torch
from jaxtyping import Int, Shaped
from torch import Tensor

LEAST_CAPACITY = 128
"""Tokens that the smallest buffer holds."""


class TokenStore:
    """Tensors of the tokens of a sequence, in order of arrival.

    The buffer grows by an eighth at a time: an append costs the same at any length, and memory
    follows the tokens. What was stored is without gradient.
    """

    def __init__(self) -> None:
        self.length = 0
        self.buffer: Shaped[Tensor, "batch heads capacity dim"] | None = None

    def append(self, tokens: Shaped[Tensor, "batch heads seq dim"]) -> None:
        """Store further tokens.

        Args:
            tokens: of the same batch, heads and dim as before.

        Raises:
            ValueError: if their dtype is another than before.
        """
        self.check(tokens)
        end = self.length + tokens.shape[2]
        if self.buffer is None or end > self.buffer.shape[2]:
            self._reserve(end, tokens)
        assert self.buffer is not None
        self.buffer = writable(self.buffer)
        self.buffer[:, :, self.length : end] = tokens.detach()
        self.length = end

    def check(self, tokens: Shaped[Tensor, "batch heads seq dim"]) -> None:
        """Refuse tokens of another dtype than those that there are.

        Args:
            tokens: to be stored.

        Raises:
            ValueError: if they are.
        """
        if self.buffer is not None and tokens.dtype != self.buffer.dtype:
            raise ValueError(
                f"tokens have dtype {tokens.dtype}, those of earlier passes {self.buffer.dtype}: "
                "use the same dtype and autocast in all passes with one cache"
            )

    def tokens(
        self, start: int = 0, stop: int | None = None
    ) -> Shaped[Tensor, "batch heads seq dim"]:
        """Return a view of the tokens from ``start``, up to ``stop`` or all.

        Args:
            start: of the stored tokens.
            stop: behind the last one.

        Returns:
            The tokens.
        """
        assert self.buffer is not None
        return self.buffer[:, :, start : self.length if stop is None else stop]

    def take(
        self, index: Int[Tensor, "batch heads *lead"]
    ) -> Shaped[Tensor, "batch heads *lead dim"]:
        """Gather tokens, others for each row and head.

        Args:
            index: of the stored tokens.

        Returns:
            The tokens.
        """
        assert self.buffer is not None
        batch, heads, capacity, dim = self.buffer.shape
        rows = torch.arange(0, batch * heads * capacity, capacity, device=index.device)
        flat = index.reshape(batch * heads, -1) + rows.unsqueeze(1)
        return self.buffer.view(-1, dim).index_select(0, flat.view(-1)).view(*index.shape, dim)

    def overwrite_end(
        self, index: Int[Tensor, "batch 1"], tokens: Shaped[Tensor, "batch heads 1 part"]
    ) -> None:
        """Replace the last numbers of one stored token of each row.

        Args:
            index: of the token.
            tokens: the new numbers.
        """
        assert self.buffer is not None
        self.buffer = writable(self.buffer)
        rows = torch.arange(len(index), device=index.device)
        part = self.buffer[..., self.buffer.shape[-1] - tokens.shape[-1] :]
        part[rows, :, index[:, 0]] = tokens[:, :, 0].detach()

    def keep_last(self, count: int) -> None:
        """Forget all but the last tokens.

        Args:
            count: tokens.
        """
        if self.length > count:
            kept = self.tokens(self.length - count)
            self.buffer, self.length = None, 0
            self._reserve(2 * count, kept)
            self.append(kept)

    def replace(self, tokens: Shaped[Tensor, "batch heads seq dim"]) -> None:
        """Store these tokens instead of what there is.

        Args:
            tokens: all tokens.
        """
        self.buffer, self.length = None, 0
        self.append(tokens)

    def drop_last(self, count: int) -> None:
        """Forget the last tokens.

        Args:
            count: tokens.
        """
        self.length -= count

    def change_rows(self, change: Callable[[Tensor], Tensor]) -> None:
        """Replace the buffer by a function of it, such as a choice of rows.

        Args:
            change: keeps all axes but the first.
        """
        if self.buffer is not None:
            self.buffer = change(self.buffer)

    @property
    def device(self) -> torch.device | None:
        """Where the tokens are."""
        return None if self.buffer is None else self.buffer.device

    @property
    def bytes_per_token(self) -> int:
        """Bytes that a token of every row takes."""
        return 0 if self.buffer is None else self.buffer[:, :, :1].nbytes

    @property
    def allocated_bytes(self) -> int:
        """Bytes of the buffer, room to grow included."""
        return 0 if self.buffer is None else self.buffer.nbytes

    def _reserve(self, count: int, like: Tensor) -> None:
        capacity = max(LEAST_CAPACITY, count + count // 8)
        like = like if self.buffer is None else self.buffer
        buffer = like.new_empty(*like.shape[:2], capacity, like.shape[3])
        if self.buffer is not None:
            buffer[:, :, : self.length] = self.tokens()
        self.buffer = buffer


def writable(tensor: Shaped[Tensor, "..."]) -> Shaped[Tensor, "..."]:
    """Return what may be written to now: a copy of what an earlier pass made in inference mode.

    Args:
        tensor: any.

    Returns:
        It, or a copy.
    """
    if torch.compiler.is_compiling():
        return tensor  # whether it is an inference tensor cannot be asked there
    if tensor.is_inference() and not torch.is_inference_mode_enabled():
        return tensor.clone()
    return tensor
