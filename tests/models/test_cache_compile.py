"""A cached step under torch.compile: one graph, the same logits, no recompilation later on."""

import json
import subprocess
import sys

import pytest


def compilations(backend: str, steps: int) -> list[int]:
    """Lengths at which a graph was compiled, behind a prompt of 20 tokens."""
    command = [sys.executable, "-m", "tests.models.compile_worker", backend, str(steps)]
    finished = subprocess.run(command, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr[-3000:]
    return json.loads(finished.stdout)


def test_no_graph_is_compiled_once_each_event_was_seen():
    """The events: the first steps, buffers that grow, local layers that forget."""
    lengths = compilations("eager", 700)
    assert lengths[:2] == [20, 21]
    assert len(lengths) <= 8  # torch's limit
    assert max(lengths) < 200


@pytest.mark.slow
def test_inductor_computes_the_same():
    assert compilations("inductor", 30) == [20, 21]
