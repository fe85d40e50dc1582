"""How well the package's recipe learns: `ablation`, `comparison`, `position` and `sparse`.

python -m scripts.studies.learning ablation --help
"""

import sys
from importlib import import_module

from scripts.benchmarks.common.processes import exit_when_terminated

PARTS = ("ablation", "comparison", "position", "sparse")


def main(argv: list[str] | None = None) -> int:
    """Do one part of the study."""
    part, *rest = [*(sys.argv[1:] if argv is None else argv), ""]
    if part in PARTS:
        return import_module(f"scripts.studies.learning.{part}").run_part(rest[:-1])
    print(f"usage: python -m scripts.studies.learning {{{','.join(PARTS)}}} [--help]\n\n{__doc__}")
    sys.exit(0 if part in ("-h", "--help") else 2)


if __name__ == "__main__":
    exit_when_terminated()
    sys.exit(main())
