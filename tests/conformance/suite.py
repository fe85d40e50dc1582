"""Transformers' own common test suites, imported from a folder outside this repository.

`TRANSFORMERS_TESTS` names that folder: a checkout of transformers, or its unpacked source
distribution. The latter lacks some modules; what the suites import from them is stubbed.
"""

import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import transformers
from transformers.models.auto import modeling_auto

import tests.models  # before transformers' folder of that name comes into view
from reformer_hf.models.registration import MODELS
from tests.conformance.tiny_models import save_tiny_models

VARIABLE = "TRANSFORMERS_TESTS"

STUBS: dict[str, dict[str, Any]] = {
    "exporters.test_export": {
        name: type(name, (), {}) for name in ("ExportTesterMixin", "ExportGenerateTesterMixin")
    },
    "generation.test_utils": {"GenerationTesterMixin": type("GenerationTesterMixin", (), {})},
    "utils.test_configuration_utils": {"config_common_kwargs": {}},
}
"""Modules that a source distribution lacks, and what the suites import from them."""


def suites_folder() -> Path | None:
    """The folder of transformers' tests, if one is given.

    Raises:
        ValueError: if it holds no suites, or those of another version.
    """
    given = os.environ.get(VARIABLE)
    if not given:
        return None
    root = Path(given).resolve()
    if not (root / "tests/test_modeling_common.py").exists():
        raise ValueError(f"{VARIABLE}={given}: no tests/test_modeling_common.py in it")
    code = (root / "src/transformers/__init__.py").read_text(encoding="utf-8")
    if f'__version__ = "{transformers.__version__}"' not in code:
        raise ValueError(
            f"{VARIABLE}={given}: not of transformers {transformers.__version__}, which is "
            "installed; give the tests of that version"
        )
    return root / "tests"


def load(folder: Path) -> None:
    """Make the suites importable as modules of `tests`, and known to them our classes.

    Args:
        folder: as `suites_folder` returns it.
    """
    (folder / "__init__.py").touch()  # which is read, and not in a source distribution
    tests.__path__ = [*tests.__path__, str(folder)]
    for name, content in STUBS.items():
        if not (folder / name.replace(".", "/")).with_suffix(".py").exists():
            _add_stub(name, content)
    name_classes()
    os.environ["TRANSFORMERS_TINY_MODEL_PATH"] = save_tiny_models()


def _add_stub(name: str, content: dict[str, Any]) -> None:
    parent = ModuleType(f"tests.{name.split('.')[0]}")
    parent.__path__ = []
    sys.modules.setdefault(parent.__name__, parent)
    module = ModuleType(f"tests.{name}")
    module.__dict__.update(content)
    sys.modules[module.__name__] = module


def name_classes() -> None:
    """Add our classes to the tables of names by which the suites choose labels.

    Registration with the Auto classes does not.
    """
    tables = [table for name, table in vars(modeling_auto).items() if name.endswith("_NAMES")]
    for auto_class, model_class in MODELS.items():
        names = auto_class._model_mapping._model_mapping
        assert any(names is table for table in tables), auto_class
        names[model_class.config_class.model_type] = model_class.__name__
