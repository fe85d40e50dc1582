"""Claims of the Reformer paper and talk, each of them a study: ours beside what was published.

python -m scripts.studies.reproduce CLAIM --help
"""

import sys
from importlib import import_module
from pathlib import Path

from scripts.benchmarks.common.processes import exit_when_terminated


def claims() -> list[str]:
    """The modules here that have a function `run`."""
    files = sorted(Path(__file__).parent.glob("[!_]*.py"))
    return [file.stem for file in files if "\ndef run(" in file.read_text(encoding="utf-8")]


def main(argv: list[str] | None = None) -> int:
    """Do the study of one claim."""
    claim, *rest = [*(sys.argv[1:] if argv is None else argv), ""]
    if claim in claims():
        return import_module(f"scripts.studies.reproduce.{claim}").run(rest[:-1])
    print(f"usage: python -m scripts.studies.reproduce {{{','.join(claims())}}} [--help]\n")
    print(__doc__)
    sys.exit(0 if claim in ("-h", "--help") else 2)


if __name__ == "__main__":
    exit_when_terminated()
    sys.exit(main())
