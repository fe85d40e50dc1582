"""Sparse attention modules against the oracle; rotations and decisions."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from reformer_hf.nn.attention import LocalSelfAttention, LSHSelfAttention
from reformer_hf.nn.full_attention import FullSelfAttention
from reformer_hf.nn.heads import merge_heads, split_heads
from reformer_hf.nn.reversible import Decision
from reformer_hf.nn.self_attention import Hashing
from reformer_hf.ops import reference
from reformer_hf.ops.rotary import rotary_angles, rotary_frequencies
from reformer_hf.ops.sorting import places_in_document
from tests.nn.attention_oracle import (
    DIM,
    HEAD_DIM,
    HEADS,
    LSH,
    WINDOW,
    build,
    check_dropout,
    check_rows,
    lsh_oracle,
    qkv_oracle,
)

THETA = 50.0


def test_heads_are_split_and_merged():
    hidden = torch.arange(24.0).view(1, 3, 8)
    heads = split_heads(hidden, 2)
    assert heads.shape == (1, 2, 3, 4)
    assert torch.equal(heads[0, 1, 0], torch.tensor([4.0, 5.0, 6.0, 7.0]))
    assert torch.equal(merge_heads(heads), hidden)


@pytest.mark.parametrize("deduplicate", [False, True])
@settings(max_examples=15)
@given(seq=st.integers(1, 14), causal=st.booleans(), rounds=st.integers(1, 3), packed=st.booleans())
def test_lsh_in_the_band_scope_equals_the_oracle(deduplicate, seq, causal, rounds, packed):
    after = 0 if causal else 1
    options = {"causal": causal, "num_chunks_after": after, "deduplicate_rounds": deduplicate}
    module = build(LSHSelfAttention, **LSH, **options)
    hidden = torch.randn(2, seq, DIM).double()
    documents = torch.randint(0, 3, (2, seq)) if packed else None
    oracle = lambda row, numbers: lsh_oracle(module, row, numbers, rounds)  # noqa: E731
    check_rows(module, hidden, documents, oracle, hashing=Hashing(5, rounds))


@pytest.mark.parametrize("deduplicate", [False, True])
@settings(max_examples=15)
@given(
    seq=st.integers(1, 14),
    causal=st.booleans(),
    rounds=st.integers(1, 3),
    other=st.sampled_from([(), (2,), (4,)]),
)
def test_lsh_in_the_chunk_scope_equals_the_oracle(deduplicate, seq, causal, rounds, other):
    options = {"causal": causal, "deduplicate_rounds": deduplicate, "chunk_lengths": other}
    module = build(LSHSelfAttention, scope="chunk", **LSH, **options)
    assert set(module.chunk_lengths) == {3, *other}  # the oracle asks the module
    hidden = torch.randn(2, seq, DIM).double()
    oracle = lambda row, _: lsh_oracle(module, row, [], rounds)  # noqa: E731
    check_rows(module, hidden, None, oracle, hashing=Hashing(5, rounds))


@pytest.mark.parametrize("causal", [False, True])
@settings(max_examples=15)
@given(seq=st.integers(1, 11), packed=st.booleans())
def test_local_in_the_band_scope_equals_the_oracle(causal, seq, packed):
    after = 0 if causal else 1
    module = build(LocalSelfAttention, causal=causal, num_chunks_after=after, **WINDOW)
    documents = torch.randint(0, 2, (2, seq)) if packed else None

    def oracle(row, numbers):
        return qkv_oracle(module, row, reference.band_counts([[0] * seq], numbers, 3, 3 * after))

    check_rows(module, torch.randn(2, seq, DIM).double(), documents, oracle)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("seq", [1, 3, 8])
def test_local_in_the_chunk_scope_equals_the_oracle(causal, seq):
    module = build(LocalSelfAttention, scope="chunk", causal=causal, **WINDOW)
    counts = reference.local_chunk_counts(seq, 3, 1, 0, causal)
    hidden = torch.randn(2, seq, DIM).double()
    check_rows(module, hidden, None, lambda row, _: qkv_oracle(module, row, counts))


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(
    "kind",
    ["lsh", "lsh, each key once", "lsh, next values", "local", "full", "full_shared_qk"],
)
@settings(max_examples=4)
@given(
    seq=st.integers(1, 11),
    kernel=st.integers(2, 4),
    documents=st.integers(1, 3),
    sparsity=st.sampled_from([0, 4]),
    norm=st.booleans(),
    after=st.integers(0, 1),
)
def test_what_stands_before_attention_equals_the_oracle(
    kind, causal, seq, kernel, documents, sparsity, norm, after
):
    """Sparse projections, convolution, norms, angles, local round: outputs, maps and gradients.

    Documents need not stand together.
    """
    options = {"causal": causal, "conv_kernel": kernel, "sparsity": sparsity}
    options["sparsity_kernel"], after = kernel - 1, 0 if causal else after
    if kind.startswith("full"):
        options |= {"use_qk_norm": norm, "shared_query_key": kind == "full_shared_qk"}
        module = build(FullSelfAttention, **options)
    elif kind == "local":
        options |= {"use_qk_norm": norm, "num_chunks_after": after}
        module = build(LocalSelfAttention, **WINDOW, **options)
    else:
        options |= {"deduplicate_rounds": kind.endswith("once"), "local_round": True}
        options |= {"next_values": kind.endswith("next values")}
        module = build(LSHSelfAttention, num_chunks_after=after, **LSH, **options)
    numbers = torch.randint(0, documents, (2, seq))
    hidden = torch.randn(2, seq, DIM).double().requires_grad_()
    frequencies = rotary_frequencies(HEAD_DIM, THETA)
    rotary = rotary_angles(places_in_document(numbers), frequencies, torch.float64)

    def oracle(row, numbers):
        if kind.startswith("lsh"):
            return lsh_oracle(module, row, numbers, 2, THETA)
        reach = (3, 3 * after) if kind == "local" else (seq, 0 if causal else seq)
        counts = reference.band_counts([[0] * seq], numbers, *reach)
        return qkv_oracle(module, row, counts, kind == "full_shared_qk", numbers, THETA)

    check_rows(module, hidden, numbers, oracle, hashing=Hashing(5), rotary=rotary)
    inputs = [hidden, *module.parameters()]
    weights = torch.randn(2, seq, HEADS * HEAD_DIM).double()
    output, _ = module(hidden, numbers, hashing=Hashing(5), rotary=rotary)
    rows = [oracle(row, ids.tolist())[0] for row, ids in zip(hidden, numbers, strict=True)]
    found, expected = (
        torch.autograd.grad((result * weights).sum(), inputs)
        for result in (output, torch.stack(rows))
    )
    for gradient, right in zip(found, expected, strict=True):
        assert_close(gradient, right)


@pytest.mark.parametrize("sparsity", [0, 4])
@pytest.mark.parametrize("kind", [LSHSelfAttention, FullSelfAttention])
def test_some_heads_attend_as_among_all(kind, sparsity):
    module = build(kind, sparsity=sparsity, **(LSH if kind is LSHSelfAttention else {}))
    hidden, documents = torch.randn(2, 9, DIM).double(), torch.randint(0, 2, (2, 9))
    output, _ = module(hidden, documents)
    parts = [module(hidden, documents, heads=slice(head, head + 1))[0] for head in range(HEADS)]
    assert_close(torch.cat(parts, dim=-1), output)


@pytest.mark.parametrize("scope", ["band", "chunk"])
def test_gradients_equal_those_of_the_oracle(scope):
    module = build(LSHSelfAttention, scope=scope, **LSH)
    row = torch.randn(8, DIM).double().requires_grad_()
    inputs = [row, *module.parameters()]
    weights = torch.randn(8, HEADS * HEAD_DIM).double()
    output, _ = module(row[None], hashing=Hashing(5))
    found = torch.autograd.grad((output[0] * weights).sum(), inputs)
    expected_output, _ = lsh_oracle(module, row, [0] * 8, 2)
    expected = torch.autograd.grad((expected_output * weights).sum(), inputs)
    for gradient, right in zip(found, expected, strict=True):
        assert_close(gradient, right)


def test_rotations_differ_by_seed_layer_head_and_round_and_start_alike():
    module = build(LSHSelfAttention, **LSH)
    drawn = module.rotations(5, 3)
    assert drawn.shape == (HEADS, HEAD_DIM, 3, 3) and drawn.dtype == torch.float32
    assert not torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[:, :, 0], drawn[:, :, 1])
    assert torch.equal(module.rotations(5, 1)[:, :, 0], drawn[:, :, 0])
    assert torch.equal(module.rotations(5, 3), drawn)
    assert not torch.equal(module.rotations(6, 3), drawn)
    other_layer = build(LSHSelfAttention, layer_index=1, **LSH)
    assert not torch.equal(other_layer.rotations(5, 3), drawn)


def test_shared_rotations_are_those_of_every_layer():
    first, second = (
        build(LSHSelfAttention, layer_index=index, share_rotations=True, **LSH) for index in (0, 1)
    )
    assert torch.equal(first.rotations(5, 2), second.rotations(5, 2))
    # As transformers draws them: one normal tensor after seeding.
    expected = torch.randn(HEADS, HEAD_DIM, 2, 3, generator=torch.Generator().manual_seed(5))
    assert torch.equal(first.rotations(5, 2), expected)


def test_attention_leaves_the_random_state_alone():
    module, hidden = build(LSHSelfAttention, **LSH), torch.randn(1, 9, DIM).double()
    state = torch.get_rng_state()
    module(hidden, hashing=Hashing(3))
    module.train()(hidden, hashing=Hashing(3))
    assert torch.equal(torch.get_rng_state(), state)


def test_a_decision_is_made_once_and_obeyed():
    module, hidden = build(LSHSelfAttention, **LSH), torch.randn(1, 20, DIM).double()
    decision = Decision()
    first, _ = module(hidden, hashing=Hashing(5, decision=decision))
    kept = decision.recall(lambda: pytest.fail("nothing was decided"))
    query = split_heads(module.query_key(hidden), HEADS)
    assert torch.equal(kept, module.hash(query, 5))
    assert torch.equal(module(hidden, hashing=Hashing(6, decision=decision))[0], first)
    assert not torch.equal(module(hidden, hashing=Hashing(6))[0], first)


def test_nothing_is_hashed_where_one_chunk_holds_the_row(monkeypatch):
    module = build(LSHSelfAttention, scope="chunk", **LSH)
    monkeypatch.setattr(module, "hash", lambda *_: pytest.fail("hashed"))
    module(torch.randn(1, 3, DIM).double())
    with pytest.raises(pytest.fail.Exception):
        module(torch.randn(1, 4, DIM).double())


@pytest.mark.parametrize("scope", ["band", "chunk"])
def test_dropout_acts_in_training_only_and_keeps_the_mean(scope):
    check_dropout(LSHSelfAttention, {**LSH, "scope": scope})
    check_dropout(LocalSelfAttention, {**WINDOW, "scope": scope})
