"""Every public function of ops shows an example of at most six lines, and it works."""

import doctest
import importlib
import inspect
import pkgutil

import pytest

import reformer_hf.ops

MODULES = [
    importlib.import_module(info.name)
    for info in pkgutil.iter_modules(reformer_hf.ops.__path__, "reformer_hf.ops.")
    if not info.name.endswith(("triton_kernels", "triton_launch"))  # which need Triton
]


def examples(module) -> dict[str, list[doctest.Example]]:
    found = doctest.DocTestFinder().find(module)
    return {test.name.removeprefix(f"{module.__name__}."): test.examples for test in found}


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_examples_work(module):
    result = doctest.testmod(module, raise_on_error=True)
    assert result.attempted > 0


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_each_public_function_has_a_short_example(module):
    shown = examples(module)
    for name, function in inspect.getmembers(module, inspect.isfunction):
        if function.__module__ == module.__name__ and not name.startswith("_"):
            lines = "".join(example.source + example.want for example in shown[name]).splitlines()
            assert 2 <= len(lines) <= 6, name
