"""Every Triton kernel compiles for GPUs ahead of time, into what they have room for; needs none."""

import itertools
import re
from typing import Any

import pytest
import torch

triton = pytest.importorskip("triton", reason="Triton, which compiles the kernels, is missing")

from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.compiler import ASTSource  # noqa: E402

from reformer_hf.ops import triton_kernels  # noqa: E402
from reformer_hf.ops.triton_launch import launch_options  # noqa: E402

KERNELS = ["attend_kernel", "query_gradient_kernel", "key_gradient_kernel"]
SHARED_MEMORY = {80: 163 * 1024, 90: 227 * 1024}
"""Bytes that a program may have, by compute capability (CUDA programming guide, table 28)."""
TYPES = {torch.bfloat16: "*bf16", torch.float16: "*fp16", torch.float32: "*fp32"}

QUICK = [(90, torch.bfloat16, 64, 0, False), (80, torch.bfloat16, 64, 1, True)]
"""Compute capability, dtype, head dimension, which keys are seen, dropout."""
GRID = [
    *itertools.product(SHARED_MEMORY, TYPES, [32, 64, 128], [0], [False, True]),
    *itertools.product(SHARED_MEMORY, [torch.bfloat16], [16, 128], [1, 2], [True]),
]


def to_source(kernel: Any, dtype: torch.dtype, dim: int, sees: int, dropout: bool) -> ASTSource:
    """A kernel with the types of the arguments that a launch would give it."""
    options = launch_options(kernel, dtype, dim, dropout)
    absent = {"query_places", "key_places"} if sees == 0 else {"earlier", "later", "yields"}
    absent |= set() if dropout else {"seed"}
    constants = {
        **{name: None for name in absent},
        **{name: options[name] for name in ("BLOCK", "OTHERS")},
        **{"DIM": dim, "WIDTH": dim, "CHUNK": 32 if sees else 0, "SEES": sees},
    }
    vectors = ("query", "key", "value", "cotangent")
    types = {
        **dict.fromkeys(vectors, TYPES[dtype]),
        **dict.fromkeys(("rows", "earlier", "later", "query_places", "key_places"), "*i32"),
        **dict.fromkeys(("output", "logsumexp", "shift"), "*fp32"),
        **dict.fromkeys(("grad_query", "grad_key", "grad_value"), "*fp32"),
        **dict.fromkeys(("scale", "kept_scale"), "fp32"),
        **{"yields": "*i1", "seed": "i64"},
    }
    signature = {
        name: "constexpr" if name in constants else types.get(name, "i32")
        for name in kernel.arg_names
    }
    kept = {name: value for name, value in constants.items() if name in kernel.arg_names}
    aligned = {
        (place,): [["tt.divisibility", 16]]
        for place, kind in enumerate(signature.values())
        if kind.startswith("*")
    }
    return ASTSource(kernel, signature, kept, aligned)


@pytest.mark.parametrize(
    "target",
    [*QUICK, *(pytest.param(point, marks=pytest.mark.slow) for point in GRID)],
    ids=lambda target: "-".join(map(str, target)),
)
@pytest.mark.parametrize("name", KERNELS)
def test_it_compiles_without_spilling(name, target, monkeypatch, capfd, tmp_path):
    capability, dtype, dim, sees, dropout = target
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("TRITON_DUMP_PTXAS_LOG", "1")
    kernel = getattr(triton_kernels, name)
    source = to_source(kernel, dtype, dim, sees, dropout)
    options = launch_options(kernel, dtype, dim, dropout)
    options = {key: value for key, value in options.items() if key not in ("BLOCK", "OTHERS")}
    compiled = triton.compile(source, GPUTarget("cuda", capability, 32), options)
    assert compiled.asm["cubin"]
    assert compiled.metadata.shared <= SHARED_MEMORY[capability]
    spills = re.findall(r"(\d+) bytes spill", capfd.readouterr().out)
    assert spills and set(spills) == {"0"}
