"""torch.compile of a decode step: one graph, which soon serves every context."""

import json
import shutil
from pathlib import Path

import pytest

from tests import processes

SCRIPT = Path(__file__).with_name("compiled_steps.py")
RECOMPILE_LIMIT = 8
"""Graphs of one function that torch compiles by default."""


def compile_steps(scope: str, backend: str, last: int) -> dict:
    # Not in this process: the tests' shape checks are not to be compiled.
    return json.loads(processes.run(1, SCRIPT, scope, backend, last).splitlines()[-1])


def test_a_growing_context_is_not_compiled_again():
    found = compile_steps("band", "eager", 320)
    assert found["difference"] == 0
    # The second step makes the length a variable. Then stores grow and local layers forget, for
    # the first time and once more with sizes that vary.
    assert found["compiled"][:2] == [40, 41]
    assert len(found["compiled"]) < RECOMPILE_LIMIT
    assert found["compiled"][-1] <= 160


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler")
def test_inductor_gives_the_same_logits():
    found = compile_steps("band", "inductor", 60)
    assert found["difference"] < 1e-4
    assert found["compiled"] == [40, 41]
