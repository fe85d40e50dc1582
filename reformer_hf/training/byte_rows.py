"""Files read byte by byte as token ids, from the disk, without a copy."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from reformer_hf.models.tokenization_reformer_hf import FIRST_BYTE_ID


class ByteRows(Dataset):
    """Consecutive rows of the bytes of a file, as ids of `ReformerHFByteTokenizer`.

    Args:
        path: a file, which is mapped into memory and read when a row is asked for.
        block_size: bytes in a row; the last row may be shorter.
        start: first byte.
        stop: byte after the last one, the end of the file if None.

    Raises:
        ValueError: if there are no bytes.
    """

    def __init__(self, path: Path, block_size: int, start: int = 0, stop: int | None = None):
        size = path.stat().st_size
        self.path, self.block_size = path, block_size
        self.start, self.stop = start, size if stop is None else stop
        if not 0 <= self.start < self.stop <= size:
            raise ValueError(
                f"{path}: no bytes from {self.start:,} to {self.stop:,} in a file of {size:,}; "
                "give a longer file"
            )
        self.content = np.memmap(path, np.uint8, mode="r")

    def __len__(self) -> int:
        return -(-(self.stop - self.start) // self.block_size)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        if not 0 <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        start = self.start + index * self.block_size
        content = self.content[start : min(start + self.block_size, self.stop)]
        return {"input_ids": torch.from_numpy(content.astype(np.int64) + FIRST_BYTE_ID)}

    def __getstate__(self) -> dict:
        # A memory map would travel to the workers of a loader as a copy of the file.
        return {name: value for name, value in vars(self).items() if name != "content"}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        self.content = np.memmap(self.path, np.uint8, mode="r")

    def split(self, percentage: int) -> tuple["ByteRows", "ByteRows"]:
        """Hold out the last rows.

        Args:
            percentage: their share; at least one row.

        Returns:
            Rows to train on, and rows held out.

        Raises:
            ValueError: if there is only one row.
        """
        rows = len(self)
        if rows < 2:
            raise ValueError(
                f"{self.path}: {self.stop - self.start:,} bytes are one row of block_size="
                f"{self.block_size}, and none is left to hold out; give validation_file, a longer "
                "file or a smaller block_size"
            )
        held_out = min(max(1, rows * percentage // 100), rows - 1)
        cut = self.start + (rows - held_out) * self.block_size
        return (
            ByteRows(self.path, self.block_size, self.start, cut),
            ByteRows(self.path, self.block_size, cut, self.stop),
        )
