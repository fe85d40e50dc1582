"""Plant faults in a copy of the package, one at a time, and check that the tests find each.

    python -m scripts.tools.check_mutations                   # all faults of tests/mutations.py
    python -m scripts.tools.check_mutations wrap "self mask"  # those whose name contains a word

Run it in an environment with the package's dev dependencies. It ends with status 0 if the tests
pass without a fault and fail with each.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.mutations import MUTATIONS, Mutation

ROOT = Path(__file__).resolve().parents[2]
COPIED = ("reformer_hf", "tests", "pyproject.toml")
TIME_LIMIT = 600  # seconds for one run of the tests
PASSED, FAILED = 0, 1  # of pytest's exit codes; the others mean that the tests did not run


def copy_repository(folder: Path) -> None:
    """Copy what the tests need."""
    for name in COPIED:
        source, target = ROOT / name, folder / name
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, target)


def plant(mutation: Mutation, folder: Path) -> None:
    """Change the copied source; a text that is not there exactly once is an error."""
    file = folder / mutation.file
    text = file.read_text(encoding="utf-8")
    if text.count(mutation.before) != 1:
        raise ValueError(
            f"{mutation.name!r}: {mutation.file} holds the text {mutation.before!r} "
            f"{text.count(mutation.before)} times, not once: bring tests/mutations.py up to date"
        )
    file.write_text(text.replace(mutation.before, mutation.after), encoding="utf-8")


def run_tests(folder: Path, tests: list[str]) -> tuple[int, str]:
    """Run tests on a copy until the first failure; returns pytest's exit code and output."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests]
    environment = os.environ | {"PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}
    environment.pop("PYTEST_ADDOPTS", None)
    result = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=TIME_LIMIT
    )
    return result.returncode, result.stdout + result.stderr


def check(mutation: Mutation | None, tests: list[str], wanted: int) -> bool:
    """Run tests with a fault, or without one, and say whether they ended as wanted."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        copy_repository(folder)
        if mutation is not None:
            plant(mutation, folder)
        code, output = run_tests(folder, tests)
    if code == wanted:
        return True
    print(output, file=sys.stderr)
    return False


def main(argv: list[str] | None = None) -> int:
    """Check the faults whose name contains one of the words; all without a word."""
    parser = argparse.ArgumentParser(
        prog="python -m scripts.tools.check_mutations",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("words", nargs="*", help="part of the names of faults to check")
    words = parser.parse_args(argv).words
    chosen = [m for m in MUTATIONS if not words or any(word in m.name for word in words)]
    if not chosen:
        print(f"No fault is named like {words}", file=sys.stderr)
        return 2
    tests = sorted({test for mutation in chosen for test in mutation.tests})
    if not check(None, tests, wanted=PASSED):
        print("The tests fail without a fault")
        return 1
    missed = 0
    for mutation in chosen:
        found = check(mutation, list(mutation.tests), wanted=FAILED)
        print("found " if found else "MISSED", mutation.name, flush=True)
        missed += not found
    print(f"{len(chosen) - missed} of {len(chosen)} faults found")
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main())
