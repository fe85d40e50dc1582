"""A module as users have it: without the checks of annotations that the tests add on import."""

import importlib.util
from types import ModuleType


def import_plainly(name: str) -> ModuleType:
    """Run a module's source once more, past the import hook of `tests/conftest.py`."""
    checked = importlib.util.find_spec(name)
    assert checked is not None and checked.origin is not None
    spec = importlib.util.spec_from_file_location(f"plain_{name}", checked.origin)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
