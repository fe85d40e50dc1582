"""Numerics of attention and of whole models on a GPU; skipped where there is none."""

import pytest
import torch
from torch.testing import assert_close

from scripts.benchmarks.gpu.arguments import NUMERICS, GpuBenchmarkArguments, GpuCase
from scripts.benchmarks.gpu.kernels import examine
from tests.models.tiny import SCOPES, loss_and_gradients, random_ids, tiny_lm

DEVICE = "cuda"
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU"),
]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_attention_errs_no_more_than_the_plain_one(dtype):
    found = examine(GpuCase(NUMERICS, dtype, 300), GpuBenchmarkArguments(device=DEVICE))
    for part in ("output", "gradient"):
        assert found[f"{part}_auto"] <= 4 * found[f"{part}_eager"] + 1e-5


@pytest.mark.parametrize("scope", SCOPES)
def test_a_training_step_is_that_of_the_plain_path(scope):
    model = tiny_lm(attention_scope=scope).to(DEVICE).train()
    ids = random_ids(2, 96).to(DEVICE)
    steps = []
    for name in ("auto", "eager"):
        model.set_attn_implementation(name)
        torch.manual_seed(0)  # the rotations, which training draws
        steps.append(loss_and_gradients(model, input_ids=ids, labels=ids))
    assert_close(*steps, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_cached_steps_are_one_pass():
    model = tiny_lm().to(DEVICE)
    ids = random_ids(2, 40).to(DEVICE)
    output = model(ids[:, :32], use_cache=True)
    logits = [output.logits]
    for token in ids[:, 32:].split(1, dim=1):
        output = model(token, past_key_values=output.past_key_values, use_cache=True)
        logits.append(output.logits)
    assert_close(torch.cat(logits, dim=1), model(ids).logits, rtol=1e-4, atol=1e-5)
