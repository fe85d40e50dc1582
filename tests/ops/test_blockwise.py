"""The fast path where it differs from the plain one: dropout, long rows, extreme scores."""

from functools import partial

import pytest
import torch

from reformer_hf.ops import blockwise
from reformer_hf.ops.attention import local_attention, lsh_attention
from reformer_hf.ops.chunk_scope import chunk_attention
from reformer_hf.ops.window import Window

WINDOW = {"window": Window(4, 1)}
BUCKETS = 3
SCOPES = pytest.mark.parametrize(
    "attend",
    [
        partial(lsh_attention, num_buckets=BUCKETS, **WINDOW),
        partial(chunk_attention, num_buckets=BUCKETS, window=Window(4, 1, scope="chunk")),
    ],
)


def rows(seq: int, dtype: torch.dtype = torch.float64) -> list[torch.Tensor]:
    return [torch.randn(2, 2, seq, 4, dtype=dtype, requires_grad=True) for _ in range(2)]


def random_buckets(seq: int, rounds: int = 3) -> torch.Tensor:
    return torch.randint(BUCKETS, (2, 2, rounds, seq))


def test_sizes_of_blocks_change_nothing(monkeypatch):
    query, value = rows(150)
    buckets, cotangent = random_buckets(150), torch.randn(2, 2, 150, 4, dtype=torch.float64)
    results = []
    for sizes in [(2**12, 2**22), (8, 1), (64, 700), (32, 2500)]:
        monkeypatch.setattr(blockwise, "CPU_SIZES", blockwise.Sizes(*sizes))
        output, _ = lsh_attention(query, value, buckets, num_buckets=BUCKETS, **WINDOW)
        results.append((output, *torch.autograd.grad(output, (query, value), cotangent)))
    for result in results[1:]:
        for mine, first in zip(result, results[0], strict=True):
            torch.testing.assert_close(mine, first, atol=1e-12, rtol=0)


@SCOPES
def test_dropout_has_the_gradient_of_what_it_computed(attend, monkeypatch):
    monkeypatch.setattr(blockwise, "CPU_SIZES", blockwise.Sizes(8, 16))
    query, value = rows(13)
    buckets = random_buckets(13)

    def run(query: torch.Tensor, value: torch.Tensor, seed: int = 3) -> torch.Tensor:
        torch.manual_seed(seed)
        return attend(query, value, buckets, dropout=0.4)[0]

    assert torch.autograd.gradcheck(run, (query, value), fast_mode=True)
    assert not torch.equal(run(query, value), run(query, value, seed=4))
    assert not torch.equal(run(query, value), attend(query, value, buckets)[0])


def test_dropout_keeps_the_mean():
    query = torch.randn(1, 1, 4000, 4)
    ones = torch.ones_like(query)
    output, _ = local_attention(query, query, ones, dropout=0.5, **WINDOW)
    # Of 4,000 queries with a mean of 1, each the mean of about 5 keys: a deviation of 0.01.
    assert abs(output.mean() - 1) < 0.05
    assert output.std() > 0.1


def test_dropout_draws_one_seed_from_the_default_generator():
    query, value = rows(9)
    torch.manual_seed(1)
    local_attention(query, query, value, dropout=0.1, **WINDOW)
    after = torch.rand(1)
    torch.manual_seed(1)
    torch.randint(2**63 - 1, ())
    assert torch.equal(torch.rand(1), after)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 300.0])
def test_scores_of_any_size_are_exact(scale):
    """Also where most probabilities underflow."""
    query, value = rows(60)
    query = (query.detach() * scale).requires_grad_()
    buckets, cotangent = random_buckets(60), torch.randn(2, 2, 60, 4, dtype=torch.float64)
    results = []
    for implementation in ("blockwise", "eager"):
        output, _ = lsh_attention(
            query, value, buckets, num_buckets=BUCKETS, implementation=implementation, **WINDOW
        )
        results.append((output, *torch.autograd.grad(output, (query, value), cotangent)))
    for mine, plain in zip(*results, strict=True):
        torch.testing.assert_close(mine, plain, atol=1e-11, rtol=1e-9)


def test_it_differentiates_once_only():
    query, value = rows(9)
    output, _ = local_attention(query, query, value, **WINDOW)
    with pytest.raises(RuntimeError, match="create_graph=True.*implementation='eager'"):
        torch.autograd.grad(output.square().sum(), value, create_graph=True)


@SCOPES
def test_autocast_changes_nothing(attend):
    query, value = rows(40, torch.float32)
    buckets, cotangent = random_buckets(40), torch.randn(2, 2, 40, 4)
    results = []
    for enabled in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            output, _ = attend(query, value, buckets)
            gradients = torch.autograd.grad(output, (query, value), cotangent)
        results.append((output, *gradients))
    for mine, plain in zip(*results, strict=True):
        assert mine.dtype == torch.float32
        assert torch.equal(mine, plain)


def test_half_precisions_are_computed_in_float32_on_a_cpu():
    query, value = (x.detach() for x in rows(40, torch.bfloat16))
    buckets = random_buckets(40)
    window = {"num_buckets": BUCKETS, **WINDOW}
    output, _ = lsh_attention(query, value, buckets, **window)
    wide, _ = lsh_attention(query.float(), value.float(), buckets, **window)
    assert output.dtype == torch.bfloat16
    # What is rounded: the normalised keys, whose error the softmax doubles at most, and the result.
    reach = query.float().norm(dim=-1).max() * 2**-9 * 4
    assert (output.float() - wide).abs().max() <= value.float().abs().max() * reach
