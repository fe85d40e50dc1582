"""Images as byte sequences: pixels row by row, channels last, each byte one token.

Byte b is token b, and :data:`START` stands before the first byte. So place p of the input predicts
byte p, and its position has the row, the column and the channel of that byte.
"""

import hashlib
import io
import json
import math
import operator
import shutil
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import SupportsIndex

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from reformer_hf.training.data.image_sources import (
    CHANNELS,
    ImageArguments,
    open_splits,
    read_pixels,
)
from reformer_hf.training.storage import new_directory, write_json

START = 256
"""Token before an image's first byte."""

_PARTS: tuple[str, str] = ("train", "held_out")


@dataclass(frozen=True)
class ImageRecord:
    """What a run is trained and evaluated on, enough to tell it from any other images."""

    description: str
    sha256: str  # over the pixels of all images
    split: str  # in words
    shape: list[int]  # height, width, channels
    train_images: int
    held_out_images: int


class ImageBytes(Dataset):
    """Images as token ids, read from the disk when asked for; -1 is the last one.

    Args:
        path: file of the bytes of all images.
        shape: height, width and channels.
    """

    def __init__(self, path: Path, shape: Sequence[int]):
        self.pixels = np.memmap(path, np.uint8, mode="r").reshape(-1, *shape)

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: SupportsIndex) -> dict[str, Tensor]:
        image = self.pixels[operator.index(index)]
        content = torch.from_numpy(image.flatten().astype(np.int64))
        ids = after_start(content[None, :-1])[0]
        # Trainer asks for labels; the model reads the shifted ones, which have the last byte too.
        return {"input_ids": ids, "labels": ids, "shift_labels": content}


def after_start(content: Tensor) -> Tensor:
    """Put the start token before bytes, (batch, seq)."""
    return torch.nn.functional.pad(content.long(), (1, 0), value=START)


def save_png(pixels: np.ndarray, file: Path | str | io.BytesIO) -> None:
    """Write an image of shape (height, width, channels)."""
    image = Image.fromarray(pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels)
    image.save(file, "PNG")


def png_size(pixels: np.ndarray) -> int:
    """Bytes that an image takes as a PNG file."""
    file = io.BytesIO()
    save_png(pixels, file)
    return file.tell()


def load_images(
    arguments: ImageArguments, directory: Path
) -> tuple[ImageRecord, ImageBytes, ImageBytes]:
    """Open the training and the held-out images, reading and scaling them first if need be.

    They are read once: a run that goes on has the images that it began with.

    Args:
        arguments: which images.
        directory: for their bytes; rewritten if it does not hold those of these arguments.

    Raises:
        OSError: if images cannot be found or read.
        ValueError: if a part of the split is empty.
    """
    source = asdict(arguments)
    record = _recorded(directory, source)
    if record is None:
        shutil.rmtree(directory, ignore_errors=True)
        with new_directory(directory) as temporary:
            record = _write_pixels(arguments, temporary)
            write_json(temporary / "images.json", {"source": source, "record": asdict(record)})
    train, held_out = (ImageBytes(directory / f"{part}.bin", record.shape) for part in _PARTS)
    return record, train, held_out


def _recorded(directory: Path, source: dict) -> ImageRecord | None:
    """What the folder holds, if it is whole and of this source."""
    try:
        content = json.loads((directory / "images.json").read_text())
    except (OSError, ValueError):
        return None
    record = ImageRecord(**content["record"])
    for part in _PARTS:
        size = getattr(record, f"{part}_images") * math.prod(record.shape)
        file = directory / f"{part}.bin"
        if not file.exists() or file.stat().st_size != size:
            return None
    return record if content["source"] == source else None


def _write_pixels(arguments: ImageArguments, directory: Path) -> ImageRecord:
    description, splits = open_splits(arguments)
    digest, counts = hashlib.sha256(), dict.fromkeys(_PARTS, 0)
    limit = arguments.max_train_samples
    with ExitStack() as stack:
        files = {p: stack.enter_context((directory / f"{p}.bin").open("wb")) for p in _PARTS}
        for name, images in splits.items():
            for pixels in read_pixels(images, arguments):
                part = name
                if len(splits) == 1 and _is_held_out(pixels, arguments.train_val_split):
                    part = "held_out"
                if part == "train" and counts["train"] == limit:
                    break
                digest.update(pixels.tobytes())
                files[part].write(pixels.tobytes())
                counts[part] += 1
    for part, count in counts.items():
        if not count:
            raise ValueError(
                f"{description}: none of its {sum(counts.values())} images is in the {part} part; "
                f"take more images or another train_val_split (now {arguments.train_val_split})"
            )
    share = f"{100 * arguments.train_val_split:g}% of the images, by a hash of their pixels"
    return ImageRecord(
        description,
        digest.hexdigest(),
        share if len(splits) == 1 else "as the source has it",
        [arguments.image_size, arguments.image_size, CHANNELS[arguments.image_mode]],
        counts["train"],
        counts["held_out"],
    )


def _is_held_out(pixels: np.ndarray, share: float) -> bool:
    """Decide by the pixels, so that equal images are in the same part."""
    digest = hashlib.blake2b(pixels.tobytes(), digest_size=8).digest()
    return int.from_bytes(digest, "little") < share * 2**64
