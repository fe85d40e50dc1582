"""What an import of the package brings in, and its metadata."""

import functools
import json
import subprocess
import sys
import tomllib
from pathlib import Path

import reformer_hf

ROOT = Path(__file__).parents[1]

# What a program has in memory that uses any model and any tokenizer of transformers.
TRANSFORMERS = "import transformers; transformers.PreTrainedModel, transformers.GenerationMixin, \
transformers.AutoModelForCausalLM, transformers.AutoTokenizer, transformers.PreTrainedTokenizerFast"


@functools.cache
def packages_after(statement: str) -> frozenset[str]:
    """Names of the packages outside the standard library that a fresh process has imported."""
    code = f"{statement}\nimport json, sys; print(json.dumps(sorted(sys.modules)))"
    output = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], check=True, capture_output=True, text=True
    ).stdout
    packages = {name.partition(".")[0] for name in json.loads(output.splitlines()[-1])}
    return frozenset(packages - set(sys.stdlib_module_names))


def test_import_brings_in_nothing_heavy():
    added = packages_after("import reformer_hf") - packages_after(TRANSFORMERS)
    # jaxtyping formats its messages with wadler_lindig.
    assert added - {"wadler_lindig"} == {"reformer_hf", "jaxtyping"}


def test_import_brings_in_no_training_tools():
    packages = packages_after("import reformer_hf")
    assert packages.isdisjoint({"datasets", "matplotlib", "pandas", "pyarrow"})


def test_versions_agree():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert reformer_hf.__version__ == project["version"]
    assert f"## [{project['version']}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_public_names_exist():
    assert len(set(reformer_hf.__all__)) == len(reformer_hf.__all__)
    for name in reformer_hf.__all__:
        assert getattr(reformer_hf, name).__module__.startswith("reformer_hf.")


def test_package_is_typed():
    assert (Path(reformer_hf.__file__).parent / "py.typed").exists()
