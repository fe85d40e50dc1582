"""Lower precisions against the float64 oracle, within bounds derived from their unit roundoff."""

import pytest
import torch
from torch import Tensor

from reformer_hf.ops import blockwise
from reformer_hf.ops.attend import attend
from reformer_hf.ops.attention import local_attention, lsh_attention
from reformer_hf.ops.chunk_scope import chunk_attention
from reformer_hf.ops.hashing import hash_vectors, sample_rotations
from reformer_hf.ops.reference import normalise_keys
from reformer_hf.ops.window import Window
from tests.ops import oracle

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
SEQ, CHUNK, ROUNDS, BUCKETS = 29, 6, 3, 4


@pytest.fixture(autouse=True, params=[True, False], ids=["bfloat16 units", "none"])
def processor(request, monkeypatch):
    """A processor with instructions for products of bfloat16, and one without."""
    monkeypatch.setattr(blockwise, "multiplies_bfloat16", lambda: request.param)


def unit_roundoff(dtype: torch.dtype) -> float:
    return torch.finfo(dtype).eps / 2


def error_bound(
    query: Tensor, key: Tensor, value: Tensor, dtype: torch.dtype, rounds: int, window: int
) -> Tensor:
    """How far the output may be off, per query, for inputs that ``dtype`` holds exactly.

    With the unit roundoffs u of ``dtype`` and w of float32, in which sums are accumulated: a score
    carries the roundings of its key, of the product and of the division, 3 u, and dim w of the
    accumulated product, all relative to the sum of the absolute terms. A softmax multiplies a
    score's error by at most 2. Probability, window's output, round weight, their product and
    rounds - 1 additions are rounded to ``dtype``; sums over window and rounds to float32.
    """
    u, w = unit_roundoff(dtype), unit_roundoff(torch.float32)
    dim = query.shape[-1]
    terms = (query.abs() @ key.abs().transpose(-1, -2) / dim**0.5).amax(-1, keepdim=True)
    score = terms * (3 * u + dim * w)
    relative = 2 * score + (rounds + 3) * u + (2 * window + 2 * rounds + 8) * w
    return value.abs().amax() * relative.expm1()


def assert_within(found: Tensor, expected: Tensor, bound: Tensor) -> None:
    excess = ((found.double() - expected).abs() / bound).max()
    assert excess <= 1, f"{excess:.2f} times the bound"


def rounded_heads(dtype: torch.dtype, count: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(5)
    heads = [oracle.random_heads(SEQ, generator).detach() for _ in range(count)]
    return [(x / 2).to(dtype) for x in heads]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scope", ["band", "chunk"])
@pytest.mark.parametrize("deduplicate", [False, True])
@pytest.mark.parametrize("implementation", ["eager", "blockwise"])
def test_lsh_attention(dtype, scope, deduplicate, implementation):
    query, value = rounded_heads(dtype, 2)
    rotations = sample_rotations(0, oracle.HEADS, oracle.DIM, ROUNDS, BUCKETS)
    buckets = hash_vectors(query, rotations, BUCKETS)  # the same ids for both
    documents = oracle.make_documents("left", SEQ, torch.Generator())
    options = {
        "chunk_length": CHUNK,
        "num_chunks_before": 1,
        "deduplicate_rounds": deduplicate,
    }
    how = {"num_buckets": BUCKETS, "implementation": implementation}
    wide_query, wide_value = query.double(), value.double()
    if scope == "band":
        how |= oracle.with_window(options)
        output, _ = lsh_attention(query, value, buckets, documents, **how)
        expected, _ = oracle.band_lsh(wide_query, wide_value, buckets, documents, **options)
    else:
        how |= oracle.with_window(options, scope="chunk")
        output, _ = chunk_attention(query, value, buckets, documents, **how)
        options |= {"num_chunks_after": 0, "causal": True}
        expected, _ = oracle.chunk_lsh(wide_query, wide_value, buckets, documents, **options)
    assert output.dtype == dtype
    key = normalise_keys(wide_query)
    bound = error_bound(wide_query, key, wide_value, dtype, ROUNDS, 2 * CHUNK)
    assert bound.max() < 0.1 * value.abs().max()
    real = (documents == 0)[:, None, :, None]
    assert_within(output.where(real, 0), expected.where(real, 0), bound)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("implementation", ["eager", "blockwise"])
def test_local_attention(dtype, implementation):
    query, key, value = rounded_heads(dtype, 3)
    options = {
        "scope": "band",
        "chunk_length": CHUNK,
        "num_chunks_before": 1,
        "num_chunks_after": 1,
        "causal": False,
    }
    wide = query.double(), key.double(), value.double()
    expected, _ = oracle.local(*wide, None, **options)
    how = oracle.with_window(options, implementation=implementation)
    output, _ = local_attention(query, key, value, **how)
    assert_within(output, expected, error_bound(*wide, dtype, 1, 3 * CHUNK))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rounds", [1, 2, 3, 4])
def test_lone_tokens_get_their_own_value(dtype, rounds):
    query, value = rounded_heads(dtype, 2)
    query = query * 100  # own scores in the hundreds do not matter
    buckets = torch.arange(SEQ).expand(oracle.BATCH, oracle.HEADS, rounds, SEQ)
    window = {"num_buckets": SEQ, "window": Window(CHUNK, 1)}
    output, _ = lsh_attention(query, value, buckets, **window)
    if rounds == 3:  # thirds are rounded: weight, product and two additions
        bound = value.double().abs() * (4 * unit_roundoff(dtype))
        assert ((output.double() - value.double()).abs() <= 1.01 * bound).all()
    else:
        assert torch.equal(output, value)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_first_token_of_the_chunk_scope_gets_its_own_value(dtype):
    query, value = rounded_heads(dtype, 2)
    buckets = torch.randint(BUCKETS, (oracle.BATCH, oracle.HEADS, 2, SEQ))
    window = {"num_buckets": BUCKETS, "window": Window(CHUNK, 1, scope="chunk")}
    output, _ = chunk_attention(100 * query, value, buckets, **window)
    # Each of two rounds may show the own place twice: halves and quarters are exact.
    assert torch.equal(output[:, :, 0], value[:, :, 0])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("lone_round", [0, 1])
@pytest.mark.parametrize("implementation", ["eager", "blockwise"])
def test_a_round_that_shows_nothing_has_no_weight(dtype, lone_round, implementation):
    query, value = rounded_heads(dtype, 2)
    together = torch.zeros(oracle.BATCH, oracle.HEADS, 1, SEQ, dtype=torch.int64)
    rounds = [torch.arange(SEQ).expand_as(together), together]
    buckets = torch.cat(rounds if lone_round == 0 else rounds[::-1], dim=2)
    window = {"num_buckets": SEQ, "window": Window(CHUNK, 1)}
    window |= {"implementation": implementation}
    output, _ = lsh_attention(query, value, buckets, **window)
    expected, _ = lsh_attention(query, value, together, **window)
    if implementation == "eager":
        assert torch.equal(output, expected)
    else:
        # The same products stand at other places of their batches, and are rounded otherwise.
        wide = query.double(), normalise_keys(query.double()), value.double()
        bound = error_bound(*wide, torch.float32, 1, 2 * CHUNK)
        rounding = unit_roundoff(dtype) * expected.double().abs()
        assert_within(output, expected.double(), 2 * bound + 2 * rounding)


@pytest.mark.parametrize("dtype", DTYPES)
def test_softmax_is_float32_or_wider(dtype):
    query, key, value = (x[0, 0] for x in rounded_heads(dtype, 3))
    visible = torch.ones(SEQ, SEQ, dtype=torch.bool)
    attended = attend(query, key, value, visible)
    assert attended.output.dtype == dtype
    assert attended.probabilities.dtype == attended.logsumexp.dtype == torch.float32
    totals = attended.probabilities.sum(-1)
    torch.testing.assert_close(totals, torch.ones_like(totals), atol=SEQ * 2**-23, rtol=0)
