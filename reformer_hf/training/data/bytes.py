"""Files read byte by byte as token ids, from the disk, without a copy."""

import hashlib
import operator
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import SupportsIndex

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from transformers import PreTrainedTokenizerBase

from reformer_hf.models.tokenization_reformer_hf import BYTE_VOCABULARY, EOS_TOKEN, FIRST_BYTE_ID

_PIECE = 1 << 16
_FEW = 100  # files; of fewer, a split by file may leave one part empty


def row_number(index: SupportsIndex, count: int) -> int:
    """Read the number of one of `count` rows as lists do; negative ones count from the end.

    Raises:
        IndexError: if there is no such row, which also ends an iteration.
        TypeError: if it is no whole number.
    """
    number = operator.index(index)
    if not -count <= number < count:
        raise IndexError(f"row {number} of {count}")
    return number % count


def check_byte_tokenizer(tokenizer: PreTrainedTokenizerBase) -> None:
    """Check that a tokenizer has the ids of `ReformerHFByteTokenizer`, whatever its class.

    Raises:
        ValueError: if it has not.
    """
    if tokenizer("\n\u00e9", add_special_tokens=False)["input_ids"] != [12, 197, 171]:
        raise ValueError(
            f"data_format='bytes' needs ReformerHFByteTokenizer, the tokenizer is a "
            f"{type(tokenizer).__name__}: leave data_format out"
        )


def read_bytes(paths: Sequence[Path]) -> Iterator[tuple[bytes, bool]]:
    """Read files piece by piece.

    Yields:
        Bytes, and whether they are the last of a file.
    """
    for path in paths:
        with path.open("rb") as file:
            piece = file.read(_PIECE)
            while piece:
                following = file.read(_PIECE)
                yield piece, not following
                piece = following


class ByteRows(Dataset):
    """Consecutive rows of the bytes of files, as ids of `ReformerHFByteTokenizer`.

    Each file is a document; one end-of-sequence token stands between two of them.

    Args:
        paths: files, which are read when a row is asked for.
        block_size: tokens in a row; the last row may be shorter.
        start: first token.
        stop: token after the last one, the end of the files if None.

    Raises:
        ValueError: if there are no bytes.
    """

    def __init__(
        self, paths: Sequence[Path], block_size: int, start: int = 0, stop: int | None = None
    ):
        self.paths, self.block_size = list(paths), block_size
        self.ends = np.cumsum([path.stat().st_size + 1 for path in self.paths])
        total = int(self.ends[-1]) - 1
        self.start, self.stop = start, total if stop is None else stop
        if not 0 <= self.start < self.stop <= total:
            raise ValueError(
                f"{self._name()}: no bytes from {self.start:,} to {self.stop:,} of {total:,}; "
                "give a longer file"
            )

    def __len__(self) -> int:
        return -(-(self.stop - self.start) // self.block_size)

    def __getitem__(self, index: SupportsIndex) -> dict[str, Tensor]:
        start = self.start + row_number(index, len(self)) * self.block_size
        stop = min(start + self.block_size, self.stop)
        ids = np.full(stop - start, BYTE_VOCABULARY[EOS_TOKEN], np.int64)
        first, last = np.searchsorted(self.ends, (start, stop - 1), side="right")
        for file in range(first, last + 1):
            begin = int(self.ends[file - 1]) if file else 0
            low, high = max(start, begin), min(stop, int(self.ends[file]) - 1)
            count = max(0, high - low)  # none at an end of sequence
            content = np.fromfile(self.paths[file], np.uint8, count, offset=low - begin)
            if len(content) < count:
                raise OSError(f"{self.paths[file]} became shorter while it was read; run again")
            ids[low - start : low - start + count] = content.astype(np.int64) + FIRST_BYTE_ID
        return {"input_ids": torch.from_numpy(ids)}

    def split(self, percentage: int) -> tuple["ByteRows", "ByteRows"]:
        """Hold out a share: of many files some whole ones, by a hash of the name, else the end.

        Args:
            percentage: the share, of the files or of the rows; at least one row.

        Returns:
            Rows to train on, and rows held out.

        Raises:
            ValueError: if there is only one row.
        """
        if len(self.paths) >= _FEW:
            parts: tuple[list[Path], list[Path]] = ([], [])
            root = os.path.commonpath(self.paths)
            for path in self.paths:
                parts[_is_held_out(path.relative_to(root), percentage)].append(path)
            if all(parts):
                return ByteRows(parts[0], self.block_size), ByteRows(parts[1], self.block_size)
        rows = len(self)
        if rows < 2:
            raise ValueError(
                f"{self._name()}: {self.stop - self.start:,} bytes are one row of block_size="
                f"{self.block_size}, and none is left to hold out; give validation_file, a longer "
                "file or a smaller block_size"
            )
        held_out = min(max(1, rows * percentage // 100), rows - 1)
        cut = self.start + (rows - held_out) * self.block_size
        return (
            ByteRows(self.paths, self.block_size, self.start, cut),
            ByteRows(self.paths, self.block_size, cut, self.stop),
        )

    def _name(self) -> str:
        return str(self.paths[0]) + (" and others" if len(self.paths) > 1 else "")


def _is_held_out(name: Path, percentage: int) -> bool:
    digest = hashlib.blake2b(name.as_posix().encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") % 100 < percentage
