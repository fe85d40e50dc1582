"""With glibc freed memory is used again: more layers take hardly more."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from reformer_hf.training import allocator

ROOT = Path(__file__).parents[2]


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="about glibc")
@pytest.mark.skipif(not allocator.has_large_pages(), reason="the system gives no large pages")
def test_memory_is_flat_in_depth():
    """6 layers grow the process 1.1 times as much as 2; with glibc as it is, twice as much."""
    theirs = {"LD_PRELOAD", *allocator.RETURN_LARGEST}
    kept = {name: value for name, value in os.environ.items() if name not in theirs}
    finished = subprocess.run(
        [sys.executable, "-m", "tests.training.memory_by_depth"],
        cwd=ROOT,
        env=kept | allocator.ALIGN_TO_PAGES | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert finished.returncode == 0, finished.stderr
    few, many = map(int, finished.stdout.split())
    assert many < 1.4 * few
    assert "large blocks are aligned to pages" in finished.stderr


@pytest.mark.parametrize(
    "environment", [{"THP_MEM_ALLOC_ENABLE": "0"}, {"LD_PRELOAD": "libtcmalloc_minimal.so.4"}]
)
def test_what_the_environment_chooses_stays(environment, monkeypatch, capsys):
    for name, value in (allocator.ALIGN_TO_PAGES | environment).items():
        monkeypatch.setenv(name, value)
    assert not allocator.reuse_freed_memory()
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("script", sorted((ROOT / "scripts").glob("train_*.py")))
def test_training_scripts_ask_before_anything_makes_a_tensor(script):
    before, found, _ = script.read_text(encoding="utf-8").partition(
        'os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")'
    )
    assert found and not any(word in before for word in ("import torch", "import reformer_hf"))
