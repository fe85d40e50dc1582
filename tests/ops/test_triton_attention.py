"""The Triton kernels against the oracle, by Triton's interpreter, in a process of its own."""

import importlib.util
import json
import os
import subprocess
import sys

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from reformer_hf.ops import attention, triton_attention
from reformer_hf.ops.attention import choose_implementation, local_attention, lsh_attention
from reformer_hf.ops.window import Window
from tests.ops import triton_cases

needs_triton = pytest.mark.skipif(
    not triton_attention.IS_INSTALLED,
    reason="Triton, whose interpreter runs the kernels, is missing",
)


@pytest.fixture(scope="module")
def failures() -> dict[str, str]:
    """What went wrong in each case.

    The interpreter must be chosen before anything imports Triton, so no process that has imported
    something before will do.
    """
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(triton_cases.ROOT), *sys.path])}
    command = [sys.executable, triton_cases.__file__]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr[-3000:]
    return json.loads(ended.stdout.splitlines()[-1])


@needs_triton
@pytest.mark.parametrize("name", triton_cases.CASES)
def test_the_kernels_by_the_interpreter(name, failures):
    assert failures[name] == ""


def rows(dim: int = 4, **options) -> torch.Tensor:
    return torch.zeros(1, 1, 5, dim, **options)


@pytest.mark.parametrize(
    "query, reason",
    [
        (rows(), "tensors on the CPU: move the model to a CUDA device, or choose 'blockwise'"),
        (rows(dtype=torch.float64), "torch.float64: cast the model to"),
        (rows(129, device="meta"), "129 numbers: use heads of at most 128"),
    ],
)
def test_what_it_cannot_do_is_refused(query, reason, monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(ValueError, match=f"implementation='triton' with .*{reason}"):
        local_attention(query, query, query, window=Window(4, 1), implementation="triton")


def test_a_missing_triton_is_explained(monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.setattr(triton_attention, "IS_INSTALLED", False)
    with pytest.raises(ValueError, match="Triton, which is not installed: `pip install triton`"):
        local_attention(rows(), rows(), rows(), window=Window(4, 1), implementation="triton")


@pytest.mark.parametrize(
    "device, dtype, dim, installed, chosen",
    [
        ("cuda", torch.float32, 64, True, "triton"),
        ("cuda", torch.bfloat16, 128, True, "triton"),
        ("cuda", torch.float32, 64, False, "blockwise"),
        ("cuda", torch.float64, 64, True, "blockwise"),
        ("cuda", torch.float32, 256, True, "blockwise"),
        ("cpu", torch.float32, 64, True, "blockwise"),
        ("meta", torch.float32, 64, True, "blockwise"),
    ],
)
def test_auto_takes_the_kernels_where_they_run(device, dtype, dim, installed, chosen, monkeypatch):
    monkeypatch.setattr(triton_attention, "IS_INSTALLED", installed)
    monkeypatch.setattr(attention, "has_kernels", lambda found: found.type == "cuda")
    with FakeTensorMode():
        query = rows(dim, device=device, dtype=dtype)
        assert choose_implementation("auto", query, needs_all=False) == chosen
        assert choose_implementation("auto", query, needs_all=True) == "eager"


def test_copies_of_the_module_have_operators_of_their_own():
    """As remote code has, imported twice: see `operators.own_name`."""
    names = {triton_attention._attend._qualname, triton_attention._differentiate._qualname}
    for name in ("first.copy", "a folder (v2)+x"):
        spec = importlib.util.spec_from_file_location(name, triton_attention.__file__)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        names |= {module._attend._qualname, module._differentiate._qualname}
    assert len(names) == 6


def test_a_compiler_goes_around_it():
    """Forward and backward are one graph without a break; shapes alone, so that no kernel runs."""
    query = rows(device="meta", requires_grad=True)
    ids = torch.zeros(1, 1, 2, 5, dtype=torch.int64, device="meta")
    options = {"num_buckets": 2, "window": Window(4, 1), "implementation": "triton"}

    def attend(query: torch.Tensor) -> torch.Tensor:
        return lsh_attention(query, query, ids, None, dropout=0.1, **options)[0]

    output = torch.compile(attend, backend="aot_eager", fullgraph=True)(query)
    assert torch.autograd.grad(output.sum(), query)[0].shape == output.shape == query.shape
