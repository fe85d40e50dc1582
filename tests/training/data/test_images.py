"""Images as byte sequences: where they come from, how they are split, what a token is."""

import shutil
from typing import NamedTuple

import datasets
import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from reformer_hf.training.data.images import (
    START,
    ImageArguments,
    load_images,
    png_size,
    save_png,
)
from reformer_hf.training.data.rows import spread_rows


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def noise(seed, *shape):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


@pytest.fixture
def folder(tmp_path):
    """40 images of 4 by 4 pixels, one of them twice, in folders beside a text."""
    for index in range(40):
        path = tmp_path / "photos" / str(index % 3) / f"{index:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        save_png(noise(min(index, 38), 4, 4, 3), path)
    (tmp_path / "photos" / "README.txt").write_text("no image")
    return tmp_path / "photos"


def arguments(folder, **changes):
    values = {"train_dir": str(folder), "image_size": 4, "train_val_split": 0.25}
    return ImageArguments(**values | changes)


def all_pixels(*parts):
    return sorted(image.tobytes() for part in parts for image in part.pixels)


def test_each_byte_is_a_token_row_by_row_channels_last(tmp_path):
    (tmp_path / "photos").mkdir()
    pixels = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    save_png(pixels, tmp_path / "photos" / "a.png")
    source = arguments(tmp_path / "photos", validation_dir=str(tmp_path / "photos"), image_size=2)
    record, train, held_out = load_images(source, tmp_path / "bytes")
    assert record.shape == [2, 2, 3] and len(train) == len(held_out) == 1
    item = train[0]
    assert item["shift_labels"].tolist() == list(range(12))
    assert item["input_ids"].tolist() == [START, *range(11)]
    assert record.split == "as the source has it"


def test_digits_go_to_png_and_back(tmp_path):
    (tmp_path / "digits").mkdir()
    digits = load_digits().images[:20].astype(np.uint8)[..., None] * 15
    for index, digit in enumerate(digits):
        save_png(digit, tmp_path / "digits" / f"{index}.png")
        assert png_size(digit) == (tmp_path / "digits" / f"{index}.png").stat().st_size
    source = arguments(tmp_path / "digits", image_size=8, image_mode="L", train_val_split=0.5)
    _, *parts = load_images(source, tmp_path / "bytes")
    assert all_pixels(*parts) == sorted(digit.tobytes() for digit in digits)


def test_images_are_cut_to_squares_about_the_middle_and_averaged(tmp_path):
    (tmp_path / "photos").mkdir()
    wide = np.zeros((4, 8, 3), np.uint8)
    wide[:, 2:4], wide[:, 4:6] = 100, 200
    wide[0, 2] = 60  # one of four pixels that become one
    save_png(wide, tmp_path / "photos" / "a.png")
    both = str(tmp_path / "photos")
    _, train, _ = load_images(arguments(both, validation_dir=both, image_size=2), tmp_path / "b")
    assert train.pixels[0, ..., 0].tolist() == [[90, 200], [100, 200]]


def test_the_split_is_by_pixels_so_equal_images_stay_together(folder, tmp_path):
    record, train, held_out = load_images(arguments(folder), tmp_path / "bytes")
    assert (record.train_images, record.held_out_images) == (len(train), len(held_out))
    assert record.train_images + record.held_out_images == 40
    assert 4 <= record.held_out_images <= 16
    assert not set(all_pixels(train)) & set(all_pixels(held_out))
    assert all_pixels(train, held_out) == sorted(
        noise(min(index, 38), 4, 4, 3).tobytes() for index in range(40)
    )


def test_reading_stops_at_max_train_samples(folder, tmp_path):
    record, _, _ = load_images(arguments(folder, max_train_samples=9), tmp_path / "bytes")
    assert record.train_images == 9 and 1 <= record.held_out_images < 9


def test_images_are_read_once_and_again_for_other_arguments_or_after_damage(folder, tmp_path):
    directory = tmp_path / "bytes"
    record, _, _ = load_images(arguments(folder), directory)
    shutil.move(folder, tmp_path / "elsewhere")
    again, _, held_out = load_images(arguments(folder), directory)  # the bytes are here
    assert again == record and len(held_out) == record.held_out_images

    with pytest.raises(ValueError, match="train_dir=.*photos': no such folder"):
        load_images(arguments(folder, image_size=2), directory)
    shutil.move(tmp_path / "elsewhere", folder)
    other, _, _ = load_images(arguments(folder, image_size=2), directory)
    assert other.shape == [2, 2, 3]
    content = (directory / "train.bin").read_bytes()
    (directory / "train.bin").write_bytes(content[:-1])
    load_images(arguments(folder, image_size=2), directory)
    assert (directory / "train.bin").read_bytes() == content


def test_an_item_is_one_image_and_iteration_ends(folder, tmp_path):
    _, train, _ = load_images(arguments(folder), tmp_path / "bytes")
    items = [item["shift_labels"].tolist() for item in train]  # type: ignore[attr-defined]
    assert items == [image.flatten().tolist() for image in train.pixels]
    assert train[-1]["shift_labels"].tolist() == items[-1]
    assert train[np.int64(0)]["shift_labels"].tolist() == items[0]
    for index in (len(train), -len(train) - 1):
        with pytest.raises(IndexError):
            train[index]
    for several in ([0, 1], slice(2), 0.5):
        with pytest.raises(TypeError):
            train[several]  # type: ignore[index]


def test_an_empty_part_is_refused(folder, tmp_path):
    with pytest.raises(ValueError, match="none of its 40 images is in the held_out part"):
        load_images(arguments(folder, train_val_split=1e-9), tmp_path / "bytes")


class HubDataset(NamedTuple):
    options: dict
    splits: list[str]


@pytest.fixture
def hub(monkeypatch):
    """Stands in for the Hub: a dataset with a column of images, split as it asks for."""

    def load(path, **options):
        assert (path, options) == ("user/pictures", {"name": "small"})
        images = [Image.fromarray(noise(index, 4, 4)) for index in range(6)]
        rows = datasets.Dataset.from_dict(
            {"img": images, "label": list(range(6))},
            datasets.Features({"img": datasets.Image(), "label": datasets.Value("int64")}),
        )
        return datasets.DatasetDict(
            {names[0]: rows.select(range(4)), names[1]: rows.select([4, 5])}
        )

    names = ["train", "validation"]
    monkeypatch.setattr(datasets, "load_dataset", load)
    options = {"dataset_name": "user/pictures", "dataset_config_name": "small", "image_size": 4}
    return HubDataset(options, names)


def test_a_dataset_of_the_hub_brings_its_own_split(hub, tmp_path):
    source = ImageArguments(**hub.options, image_column_name="img", image_mode="L")
    record, train, held_out = load_images(source, tmp_path / "bytes")
    assert record.description == "the Hub dataset user/pictures"
    assert (len(train), len(held_out), record.shape) == (4, 2, [4, 4, 1])
    assert (held_out.pixels[1, ..., 0] == noise(5, 4, 4)).all()


@pytest.mark.parametrize("column", ["image", "label"])
def test_a_column_that_holds_no_images_is_refused(hub, tmp_path, column):
    with pytest.raises(ValueError, match=f"image_column_name='{column}'.*'img': 'Image'"):
        load_images(ImageArguments(**hub.options, image_column_name=column), tmp_path / "bytes")


def test_a_dataset_without_a_training_part_is_refused(hub, tmp_path):
    hub.splits[0] = "test"
    with pytest.raises(ValueError, match="has no split 'train', only 'test', 'validation'"):
        load_images(ImageArguments(**hub.options, image_column_name="img"), tmp_path / "bytes")


def test_images_are_chosen_from_all_over(folder, tmp_path):
    _, train, _ = load_images(arguments(folder), tmp_path / "bytes")
    chosen = spread_rows(train, 3)
    assert list(chosen.indices) == [0, len(train) // 3, 2 * len(train) // 3]
    assert len(spread_rows(train, 1000)) == len(train)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "dataset_name=None and train_dir=None: give one"),
        ({"dataset_name": "a", "train_dir": "b"}, "dataset_name='a' and train_dir"),
        ({"dataset_name": "a", "validation_dir": "b"}, "validation_dir='b'"),
        ({"train_dir": "a", "image_mode": "CMYK"}, "image_mode='CMYK'.*RGB"),
        ({"train_dir": "a", "image_size": 0}, "image_size=0"),
        ({"train_dir": "a", "train_val_split": 1.0}, "train_val_split=1.0"),
        ({"train_dir": "a", "max_train_samples": 0}, "max_train_samples=0"),
    ],
)
def test_impossible_values_are_named(values, message):
    with pytest.raises(ValueError, match=message):
        ImageArguments(**values)
