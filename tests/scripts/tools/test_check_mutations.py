"""The mutation check: its register fits the source, and the tests find every fault."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.mutations import MUTATIONS

ROOT = Path(__file__).resolve().parents[3]
COMMAND = [sys.executable, "-m", "scripts.tools.check_mutations"]


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_the_text_to_change_is_in_the_source_once(mutation):
    text = (ROOT / mutation.file).read_text(encoding="utf-8")
    assert text.count(mutation.before) == 1
    assert mutation.after != mutation.before
    for test in mutation.tests:
        assert (ROOT / test).is_file()


def test_names_are_unique():
    assert len({mutation.name for mutation in MUTATIONS}) == len(MUTATIONS)


def test_an_unknown_name_is_an_error():
    result = subprocess.run([*COMMAND, "no such fault"], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 2
    assert "no such fault" in result.stderr


@pytest.mark.slow  # some ten seconds for each fault
def test_every_fault_is_found():
    result = subprocess.run(COMMAND, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
