"""Where images come from, folders or the Hub, and their pixels in one shape."""

import errno
import glob
import io
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from PIL import Image, ImageOps
from tqdm.auto import tqdm
from transformers.utils import logging

from reformer_hf.training.argument_checks import require_positive
from reformer_hf.training.arguments import argument
from reformer_hf.training.data.sources import load

logger = logging.get_logger(__name__)

CHANNELS = {"RGB": 3, "L": 1}
"""Bytes of a pixel, by the mode of an image."""


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


def open_splits(arguments: ImageArguments) -> tuple[str, dict[str, Iterator[dict]]]:
    """Describe the source and open its parts: the `bytes` or the `path` of each image."""
    if arguments.train_dir is not None:
        return _open_folders(arguments)
    source = f"the Hub dataset {arguments.dataset_name}"
    found = load(str(arguments.dataset_name), "images", source, name=arguments.dataset_config_name)
    if "train" not in found:
        raise ValueError(f"{source} has no split 'train', only {', '.join(map(repr, found))}")
    splits = {"train": "train", "held_out": "validation"}
    return source, {
        part: _undecoded(found[split], arguments.image_column_name, source)
        for part, split in splits.items()
        if split in found
    }


def _open_folders(arguments: ImageArguments) -> tuple[str, dict[str, Iterator[dict]]]:
    found: dict[str, list[Path]] = {}
    for part, option in (("train", "train_dir"), ("held_out", "validation_dir")):
        if (folder := getattr(arguments, option)) is None:
            continue
        path = Path(folder).expanduser()
        if not path.is_dir():
            raise ValueError(f"{option}={folder!r}: no such folder")
        found[part] = _find_images(path)
    if both := {path.resolve() for path in found["train"]} & {
        path.resolve() for path in found.get("held_out", [])
    }:
        logger.warning(f"{len(both):,} images of validation_dir are in train_dir, too")
    source = f"the images in {Path(str(arguments.train_dir)).expanduser().name}"
    return source, {
        part: iter([{"bytes": None, "path": str(path)} for path in paths])
        for part, paths in found.items()
    }


def _find_images(folder: Path) -> list[Path]:
    """Each image in a folder and the folders in it once, in order; links are followed.

    What is hidden is left out, and with a warning what has no ending of an image.
    """
    inside = sorted(glob.glob(f"{glob.escape(str(folder))}/**", recursive=True), reverse=True)
    files = {real: path for path in map(Path, inside) if not (real := path.resolve()).is_dir()}
    endings = {end for end, kind in Image.registered_extensions().items() if kind in Image.OPEN}
    images = [path for path in files.values() if path.suffix.lower() in endings and path.exists()]
    if not images:
        raise OSError(
            f"the images could not be loaded from the images in {folder.name}: none of its "
            f"{len(files)} files is one by its ending, such as .png or .jpg"
        )
    if others := sorted({*files.values()} - {*images}):
        logger.warning(
            f"{folder}: {len(others)} files are left out, such as {others[0].name}: they have no "
            "ending of an image"
        )
    return sorted(images)


def _undecoded(rows: Any, column: str, source: str) -> Iterator[dict]:
    if not isinstance(rows.features.get(column), datasets.Image):
        raise ValueError(
            f"image_column_name={column!r}: {source} has the columns "
            f"{ {name: type(kind).__name__ for name, kind in rows.features.items()} }"
        )
    undecoded = rows.select_columns(column).cast_column(column, datasets.Image(decode=False))
    return (row[column] for row in undecoded)


def read_pixels(files: Iterator[dict], arguments: ImageArguments) -> Iterator[np.ndarray]:
    """Read images, cut them to squares about the middle and scale them, (height, width, channels).

    Scaling is by the mean over areas, as in the downsampled ImageNet.
    """
    size = (arguments.image_size, arguments.image_size)
    for index, file in enumerate(tqdm(files, desc="images")):
        name = (file or {}).get("path") or f"image {index}"
        try:
            mode, square = _read_square(file, arguments.image_mode, size)
        except Image.DecompressionBombError as error:
            raise ValueError(f"{name}: {error} Scale it down or remove it") from error
        except Exception as error:  # a decoder raises whatever a broken file leads it to
            code = getattr(error, "errno", None) or errno.EIO
            reason = f"cannot be read as an image ({str(error) or type(error).__name__})"
            raise OSError(code, f"{reason}; remove it or mend it", name) from error
        if mode.startswith(("I", "F")):
            raise ValueError(f"{name}: more than 8 bits a channel (mode {mode}); convert it first")
        yield np.asarray(square, np.uint8).reshape(*size, CHANNELS[arguments.image_mode])


def _read_square(file: dict, mode: str, size: tuple[int, int]) -> tuple[str, Image.Image]:
    """The mode of an image's file, and its first frame upright, without transparency, to size."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # large, and still read
        with Image.open(io.BytesIO(file["bytes"]) if file["bytes"] else file["path"]) as image:
            upright = ImageOps.exif_transpose(image).convert(mode)
            return image.mode, ImageOps.fit(upright, size, Image.Resampling.BOX)
