"""Images as byte sequences: pixels row by row, channels last, each byte one token.

Byte b is token b, and :data:`START` stands before the first byte. So place p of the input predicts
byte p, and its position has the row, the column and the channel of that byte.
"""

import errno
import hashlib
import io
import json
import math
import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.utils.data import Dataset, Subset
from tqdm.auto import tqdm

from reformer_hf.training.arguments import argument, require_positive
from reformer_hf.training.data.sources import load
from reformer_hf.training.storage import new_directory, write_json

CHANNELS = {"RGB": 3, "L": 1}
"""Bytes of a pixel, by the mode of an image."""

START = 256
"""Token before an image's first byte."""

_PARTS: tuple[str, str] = ("train", "held_out")


@dataclass
class ImageArguments:
    """Where images come from, and what shape they get."""

    _argument_group_name = "data"

    dataset_name: str | None = argument(None, "A dataset of images on the Hub.")
    dataset_config_name: str | None = argument(None, "Configuration of the Hub dataset.")
    image_column_name: str = argument("image", "Column of the dataset that holds the images.")
    train_dir: str | None = argument(None, "A folder of images, instead of a dataset.")
    validation_dir: str | None = argument(None, "A folder of held-out images.")
    train_val_split: float = argument(
        0.05, "Share of the images that is held out, if there is no validation split or folder."
    )
    image_size: int = argument(64, "Images are cut to a square and scaled to this many pixels.")
    image_mode: str = argument("RGB", "RGB: three bytes a pixel; L: one, shades of grey.")
    max_train_samples: int | None = argument(None, "Stop reading at so many training images.")

    def __post_init__(self):
        require_positive(self, "train_val_split", "image_size", "max_train_samples")
        if (self.dataset_name is None) == (self.train_dir is None):
            raise ValueError(
                f"dataset_name={self.dataset_name!r} and train_dir={self.train_dir!r}: "
                "give one of them, to say which images to train on"
            )
        if self.validation_dir is not None and self.train_dir is None:
            raise ValueError(
                f"validation_dir={self.validation_dir!r} without train_dir: a dataset brings its "
                "own validation split, or train_val_split makes one"
            )
        if self.image_mode not in CHANNELS:
            raise ValueError(f"image_mode={self.image_mode!r}: choose one of {list(CHANNELS)}")
        if self.train_val_split >= 1:
            raise ValueError(f"train_val_split={self.train_val_split}: choose a share below 1")


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
    """Images as token ids, read from the disk when asked for.

    Args:
        path: file of the bytes of all images.
        shape: height, width and channels.
    """

    def __init__(self, path: Path, shape: Sequence[int]):
        self.pixels = np.memmap(path, np.uint8, mode="r").reshape(-1, *shape)

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        content = torch.from_numpy(self.pixels[index].flatten().astype(np.int64))
        ids = after_start(content[None, :-1])[0]
        # Trainer asks for labels; the model reads the shifted ones, which have the last byte too.
        return {"input_ids": ids, "labels": ids, "shift_labels": content}

    def spread(self, count: int) -> Subset:
        """Choose at most so many images, evenly spread over all of them."""
        size, count = len(self), min(count, len(self))
        return Subset(self, [index * size // count for index in range(count)])


def after_start(content: Tensor) -> Tensor:
    """Put the start token before bytes, (batch, seq)."""
    return torch.nn.functional.pad(content.long(), (1, 0), value=START)


def save_png(pixels: np.ndarray, file: Path | io.BytesIO) -> None:
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
    description, splits = _open_splits(arguments)
    digest, counts = hashlib.sha256(), dict.fromkeys(_PARTS, 0)
    limit = arguments.max_train_samples
    with ExitStack() as stack:
        files = {p: stack.enter_context((directory / f"{p}.bin").open("wb")) for p in _PARTS}
        for name, images in splits.items():
            for pixels in _pixels(images, arguments):
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


def _open_splits(arguments: ImageArguments) -> tuple[str, dict[str, Iterator[dict]]]:
    """Describe the source and open its parts: the `bytes` or the `path` of each image."""
    if arguments.train_dir is None:
        source, name = f"the Hub dataset {arguments.dataset_name}", arguments.dataset_name
        options: dict[str, Any] = {"name": arguments.dataset_config_name}
    else:
        folders = {"train": arguments.train_dir, "validation": arguments.validation_dir}
        folders = {split: Path(folder).expanduser() for split, folder in folders.items() if folder}
        for split, folder in folders.items():
            if not folder.is_dir():
                option = "train_dir" if split == "train" else "validation_dir"
                raise ValueError(f"{option}={str(folder)!r}: no such folder")
        source, name = f"the images in {folders['train'].name}", "imagefolder"
        files = {split: str(folder.resolve() / "**") for split, folder in folders.items()}
        options = {"data_files": files, "drop_labels": True}
    found = load(str(name), "images", source, **options)
    if "train" not in found:
        raise ValueError(f"{source} has no split 'train', only {', '.join(map(repr, found))}")
    column = "image" if name == "imagefolder" else arguments.image_column_name
    splits = {"train": "train", "held_out": "validation"}
    return source, {
        part: _undecoded(found[split], column, source)
        for part, split in splits.items()
        if split in found
    }


def _undecoded(rows: Any, column: str, source: str) -> Iterator[dict]:
    if not isinstance(rows.features.get(column), datasets.Image):
        raise ValueError(
            f"image_column_name={column!r}: {source} has the columns "
            f"{ {name: type(kind).__name__ for name, kind in rows.features.items()} }"
        )
    undecoded = rows.select_columns(column).cast_column(column, datasets.Image(decode=False))
    return (row[column] for row in undecoded)


def _pixels(files: Iterator[dict], arguments: ImageArguments) -> Iterator[np.ndarray]:
    """Read images, cut them to squares about the middle and scale them, (height, width, channels).

    Scaling is by the mean over areas, as in the downsampled ImageNet.
    """
    size = (arguments.image_size, arguments.image_size)
    for index, file in enumerate(tqdm(files, desc="images")):
        name = file["path"] or f"image {index}"
        try:
            with Image.open(io.BytesIO(file["bytes"]) if file["bytes"] else file["path"]) as image:
                if image.mode.startswith(("I", "F")):
                    raise ValueError(
                        f"{name}: more than 8 bits a channel (mode {image.mode}); convert it first"
                    )
                upright = ImageOps.exif_transpose(image).convert(arguments.image_mode)
        except OSError as error:
            reason = f"cannot be read as an image ({error}); remove it or mend it"
            raise OSError(error.errno or errno.EIO, reason, name) from error
        square = ImageOps.fit(upright, size, Image.Resampling.BOX)
        yield np.asarray(square, np.uint8).reshape(*size, CHANNELS[arguments.image_mode])
