"""Imports run downwards only: scripts → {training, hub} → models → nn → ops.

And within scripts: {benchmarks, studies} → benchmarks/common, studies → studies/library.
"""

import ast
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "reformer_hf"

LAYERS = {
    "ops": {"ops"},
    "nn": {"nn", "ops"},
    "models": {"models", "nn", "ops"},
    "training": {"training", "models", "nn", "ops"},
    "hub": {"hub", "models", "nn", "ops"},
    "": {"training", "hub", "models", "nn", "ops"},  # __init__.py, quickstart.py
}
"""Layer to the layers that it may import from."""

TENSORS_ONLY = {"ops", "nn"}
"""Layers that import nothing but torch, jaxtyping and the standard library."""

KERNELS = "ops/triton_kernels.py"
"""The one file that also imports Triton."""


def imported_modules(source: str) -> list[str]:
    """Absolute names of all modules that a source imports, at whatever depth of the code."""
    modules = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            modules += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            name = "." * node.level + (node.module or "")
            # `from reformer_hf import nn` names the layer last.
            modules += [
                f"{name}.{alias.name}" if name == "reformer_hf" else name for alias in node.names
            ]
    return modules


def violations(source: str, layer: str) -> list[str]:
    """The imports of a source of `layer` that the layer rule forbids."""
    forbidden = []
    for module in imported_modules(source):
        root, _, rest = module.partition(".")
        if root == "reformer_hf":
            allowed = rest.partition(".")[0] in LAYERS[layer]
        elif layer in TENSORS_ONLY:
            allowed = root in {"torch", "jaxtyping"} or root in sys.stdlib_module_names
        else:
            allowed = root not in {"", "scripts", "tests"}
        if not allowed:
            forbidden.append(module)
    return forbidden


def layer_of(file: Path) -> str:
    parts = file.relative_to(PACKAGE).parts
    return parts[0] if len(parts) > 1 else ""


def test_every_folder_of_the_package_is_a_layer():
    files = list(PACKAGE.rglob("*.py"))
    assert {"ops", "nn", "models", ""} <= {layer_of(file) for file in files} <= set(LAYERS)


@pytest.mark.parametrize("layer", LAYERS)
def test_imports_run_downwards(layer):
    found = {
        file.relative_to(PACKAGE).as_posix(): wrong
        for file in PACKAGE.rglob("*.py")
        if layer_of(file) == layer
        and (wrong := violations(file.read_text(encoding="utf-8"), layer))
    }
    assert found == ({KERNELS: ["triton", "triton.language"]} if layer == "ops" else {})


def test_the_kernels_are_imported_where_they_are_launched_alone():
    """A machine without Triton imports all else."""
    names = {
        file.name: {
            node.module
            for node in ast.parse(file.read_text(encoding="utf-8")).body
            if isinstance(node, ast.ImportFrom)
        }
        for file in PACKAGE.rglob("*.py")
    }
    kernels, launch = "reformer_hf.ops.triton_kernels", "reformer_hf.ops.triton_launch"
    assert [name for name, modules in names.items() if kernels in modules] == ["triton_launch.py"]
    assert [name for name, modules in names.items() if launch in modules] == []


@pytest.mark.parametrize(
    ("layer", "line"),
    [
        ("ops", "import transformers"),
        ("ops", "import numpy as np"),
        ("ops", "from reformer_hf.nn.attention import LSHSelfAttention"),
        ("nn", "from accelerate.utils import set_seed"),
        ("nn", "from reformer_hf import ReformerHFConfig"),
        ("nn", "from reformer_hf import models"),
        ("models", "from reformer_hf.training import data"),
        ("models", "import reformer_hf"),
        ("training", "from reformer_hf.hub.card import fill"),
        ("hub", "def f():\n    import reformer_hf.training.data"),
        ("training", "import scripts.quickstart"),
        ("models", "from . import conversion"),
        ("", "from tests.helpers import tiny"),
    ],
)
def test_forbidden_imports_are_found(layer, line):
    assert len(violations(line, layer)) == 1


@pytest.mark.parametrize(
    ("layer", "line"),
    [
        ("ops", "import math, torch.nn.functional as F\nfrom jaxtyping import Float"),
        ("nn", "from reformer_hf.ops.attention import band_attention"),
        ("nn", "from reformer_hf import ops"),
        ("models", "from transformers import PreTrainedModel"),
        ("training", "import datasets\nfrom reformer_hf.models.x import y"),
        ("", "from reformer_hf.hub.card import fill"),
    ],
)
def test_downward_imports_pass(layer, line):
    assert violations(line, layer) == []


SCRIPTS = PACKAGE.parent / "scripts"


def allowed_scripts(file: Path) -> tuple[str, ...]:
    """What a script may import of `scripts`: its own folder, and what the benchmarks share."""
    folder, *rest = file.relative_to(SCRIPTS).parts
    if not rest:
        return ("scripts.make_translation_pairs",)
    common = "scripts.benchmarks.common"
    if rest[0] == "common":
        return (common,)
    own = (f"scripts.{folder}.{rest[0]}",) if rest[1:] else ()
    if rest[0] == "reproduce":  # claims of the paper are rows over the recipe
        own += ("scripts.studies.learning",)
    shared = ("scripts.studies.library",) if folder == "studies" else ()
    # Studies read texts of packages, which the script of the translations downloads.
    return (common, *own, *shared, "scripts.make_translation_pairs")


def test_scripts_share_what_is_common_and_nothing_else():
    found = []
    for file in SCRIPTS.rglob("*.py"):
        for module in imported_modules(file.read_text(encoding="utf-8")):
            if module.startswith("scripts") and not module.startswith(allowed_scripts(file)):
                found.append((file.name, module))
            if module.partition(".")[0] == "tests" and file.name != "check_mutations.py":
                found.append((file.name, module))
    assert found == []


def test_scripts_are_found_without_touching_the_path():
    assert [f for f in SCRIPTS.rglob("*.py") if "sys.path" in f.read_text(encoding="utf-8")] == []
