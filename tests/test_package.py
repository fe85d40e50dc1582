"""What an import of the package brings in, and its metadata."""

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


def test_import_brings_in_nothing_heavy():
    names = "print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"
    code = "\n".join(["import json, sys", TRANSFORMERS, names, "import reformer_hf", names])
    output = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], check=True, capture_output=True, text=True
    ).stdout
    before, after = (set(json.loads(line)) for line in output.splitlines()[-2:])
    # jaxtyping formats its messages with wadler_lindig.
    added = after - before - set(sys.stdlib_module_names) - {"wadler_lindig"}
    assert added == {"reformer_hf", "jaxtyping"}
    assert after.isdisjoint({"datasets", "matplotlib", "pandas", "pyarrow"})  # training tools


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
