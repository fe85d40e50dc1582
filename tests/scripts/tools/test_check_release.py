import os
import subprocess
import sys
import tarfile
import tomllib
from pathlib import Path

import pytest
import yaml

import reformer_hf

ROOT = Path(__file__).parents[3]


@pytest.mark.slow
def test_the_wheel_works_where_nothing_else_is_installed(tmp_path):
    """Needs the network, for pip."""
    done = subprocess.run(
        ["bash", str(ROOT / "scripts" / "tools" / "check_release.sh"), str(tmp_path)],
        env={**os.environ, "PYTHON": sys.executable},
        capture_output=True,
        text=True,
        timeout=1200,
    )
    assert done.returncode == 0, done.stderr
    version = reformer_hf.__version__
    assert {file.name for file in tmp_path.iterdir()} == {
        f"reformer_hf-{version}-py3-none-any.whl",
        f"reformer_hf-{version}.tar.gz",
    }
    assert "Saved, reloaded through the Auto classes, same logits" in done.stdout
    with tarfile.open(tmp_path / f"reformer_hf-{version}.tar.gz") as archive:
        names = set(archive.getnames())
    root = f"reformer_hf-{version}"
    assert {
        f"{root}/CITATION.cff",
        f"{root}/tests/models/tiny.py",
        f"{root}/scripts/test.sh",
    } <= names


def test_what_is_cited_is_this_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert citation["version"] == project["version"] == reformer_hf.__version__
    assert citation["license"] == project["license"]
    assert [author["name"] for author in citation["authors"]] == [
        author["name"] for author in project["authors"]
    ]
