"""Files of images: which are read, how, and what is said of the others."""

import io
import struct

import numpy as np
import pytest
from PIL import Image

from reformer_hf.training.data.image_sources import ImageArguments, open_splits, read_pixels
from reformer_hf.training.data.images import load_images
from tests.training.image_files import claimed_png


def noise(seed=0, *shape):
    pixels = np.random.default_rng(seed).integers(0, 256, shape or (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def encoded(image, kind="PNG", **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "photos").mkdir()
    noise().save(tmp_path / "photos" / "a.png")
    return tmp_path / "photos"


@pytest.fixture
def notes(monkeypatch):
    found = []
    monkeypatch.setattr("reformer_hf.training.data.image_sources.logger.warning", found.append)
    return found


def arguments(folder, **changes):
    return ImageArguments(**{"train_dir": str(folder), "image_size": 4} | changes)


def read(folder, **changes):
    source = arguments(folder, **changes)
    _, splits = open_splits(source)
    return list(read_pixels(splits["train"], source))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        *(("empty.png", b""), ("text.png", b"no image"), ("cut.png", encoded(noise())[:-40])),
        *(("cut.jpg", encoded(noise(), "JPEG")[:-30]), ("cut.gif", encoded(noise(), "GIF")[:30])),
        ("claimed.png", claimed_png(10_000, 10_000)),  # of which PIL warns, without the name
        ("header.ppm", b"P6\n4 x\n255\n"),  # a ValueError of PIL
    ],
)
def test_a_broken_file_is_named(folder, tmp_path, name, content):
    (folder / name).write_bytes(content)
    with pytest.raises(OSError, match=f"cannot be read as an image.*{name}"):
        load_images(arguments(folder), tmp_path / "bytes")
    assert not (tmp_path / "bytes").exists()


@pytest.mark.parametrize(
    "error", [SyntaxError("broken"), EOFError(), struct.error("short"), KeyError("mode")]
)
def test_whatever_a_decoder_raises_names_the_file(folder, monkeypatch, error):
    monkeypatch.setattr(Image, "open", lambda file: (_ for _ in ()).throw(error))
    with pytest.raises(OSError, match="cannot be read as an image .*a.png") as caught:
        read(folder)
    assert (str(error) or "EOFError") in str(caught.value)


def test_a_picture_of_too_many_pixels_is_named(folder):
    (folder / "b.png").write_bytes(claimed_png(20_000, 20_000))
    with pytest.raises(ValueError, match=r"b.png: .*400000000 pixels.* Scale it down or remove"):
        read(folder)


def test_images_of_sixteen_bits_are_refused(folder):
    Image.fromarray(np.full((4, 4), 40_000, np.uint16)).save(folder / "deep.png")
    with pytest.raises(ValueError, match="deep.png: more than 8 bits a channel"):
        read(folder)


def test_all_modes_become_the_one_that_is_asked_for(folder):
    grey = Image.fromarray(np.arange(0, 160, 10, dtype=np.uint8).reshape(4, 4))
    files = {
        "palette.png": encoded(grey.convert("P"), transparency=0),
        "alpha.png": encoded(grey.convert("LA")),
        "rgba.PNG": encoded(grey.convert("RGBA")),
        "moving.gif": encoded(grey, "GIF", save_all=True, append_images=[grey.rotate(90)]),
        "cmyk.tif": encoded(grey.convert("RGB").convert("CMYK"), "TIFF"),
    }
    (folder / "a.png").unlink()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    expected = np.asarray(grey)
    for mode, channels in (("RGB", 3), ("L", 1)):
        found = read(folder, image_mode=mode)
        assert len(found) == len(files)
        assert all((pixels == expected[..., None]).all() for pixels in found)
        assert {pixels.shape for pixels in found} == {(4, 4, channels)}


def test_a_turned_photograph_is_set_upright(folder):
    exif = Image.Exif()
    exif[0x112] = 6  # turn it to the right
    (folder / "a.png").write_bytes(encoded(noise(), exif=exif))
    (pixels,) = read(folder)
    assert (pixels == np.rot90(np.asarray(noise()), -1)).all()


def test_what_is_no_image_by_its_ending_is_left_out_with_a_word(folder, notes):
    for name, content in (
        ("README.txt", b"words"),
        ("metadata.csv", b"file_name,x\nnone.png,1\n"),  # which imagefolder would obey
        ("nameless", encoded(noise(1))),
        (".hidden.png", b""),
    ):
        (folder / name).write_bytes(content)
    assert len(read(folder)) == 1
    assert notes == [
        f"{folder}: 3 files are left out, such as README.txt: they have no ending of an image"
    ]


def test_links_are_followed_and_each_image_is_read_once(tmp_path, notes):
    photos, elsewhere = tmp_path / "photos [1]*", tmp_path / "elsewhere"
    (elsewhere / "deep").mkdir(parents=True)
    photos.mkdir()
    noise(1).save(photos / "a.png")
    noise(2).save(elsewhere / "b.png")
    noise(3).save(elsewhere / "deep" / "c.png")
    (photos / "more").symlink_to(elsewhere)
    (photos / "again.png").symlink_to(elsewhere / "b.png")
    (photos / "loop").symlink_to(photos)
    assert len(read(photos)) == 3 and not notes
    (photos / "gone.png").symlink_to(tmp_path / "gone.png")
    assert len(read(photos)) == 3 and "such as gone.png" in notes[0]


def test_images_in_both_folders_are_remarked_on(folder, notes):
    open_splits(arguments(folder, validation_dir=str(folder)))
    assert notes == ["1 images of validation_dir are in train_dir, too"]


def test_a_folder_without_images_is_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(OSError, match="the images could not be loaded from the images in empty"):
        read(tmp_path / "empty")
    (tmp_path / "empty" / "a.txt").write_text("words")
    with pytest.raises(OSError, match="none of its 1 files is one by its ending"):
        read(tmp_path / "empty")
    with pytest.raises(ValueError, match="train_dir='.*none': no such folder"):
        read(tmp_path / "none")
