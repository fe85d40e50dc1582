"""Attention modules against the oracle: outputs, maps, gradients; rotations and decisions."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from reformer_hf.nn.attention import (
    LocalSelfAttention,
    LSHSelfAttention,
    merge_heads,
    split_heads,
)
from reformer_hf.nn.full_attention import FullSelfAttention
from reformer_hf.nn.reversible import Decision
from reformer_hf.ops import reference
from reformer_hf.ops.chunk_scope import layout_length

HEADS, HEAD_DIM, DIM = 2, 4, 6
SIZES = {"hidden_size": DIM, "num_heads": HEADS, "head_dim": HEAD_DIM}
WINDOW = {"chunk_length": 3, "num_chunks_before": 1}
LSH = {"num_buckets": [2, 4], "num_hashes": 2, **WINDOW}


def build(kind: type, **options):
    torch.manual_seed(0)
    module = kind(**{**SIZES, **options}).double().eval()
    for weight in module.parameters():
        torch.nn.init.normal_(weight)
    return module


def project(row: Tensor, weight: Tensor, head: int) -> Tensor:
    """One head's projection of a row, in the plainest way."""
    return row @ weight[head * HEAD_DIM : (head + 1) * HEAD_DIM].T


def lsh_oracle(module, row: Tensor, documents: list[int], rounds: int) -> tuple[Tensor, Tensor]:
    """Output (seq, dim) and maps (heads, seq, seq) of an LSH layer on one row."""
    options = module.window
    before = options["num_chunks_before"] * options["chunk_length"]
    after = options["num_chunks_after"] * options["chunk_length"]
    outputs, maps = [], []
    for head in range(HEADS):
        query = project(row, module.query_key.weight, head)
        rotations = module.rotations(5, rounds)[head]
        buckets = reference.hash_buckets(query, rotations, module.num_buckets)
        if module.scope == "band":
            counts = reference.band_counts(buckets, documents, before, after)
        else:
            counts = reference.chunk_counts(
                buckets,
                int(layout_length(len(row), module.chunk_lengths)),
                options["chunk_length"],
                options["num_chunks_before"],
                options["num_chunks_after"],
                options["causal"],
            )
        output, probabilities = reference.attend(
            query,
            reference.normalise_keys(query),
            project(row, module.value.weight, head),
            counts,
            self_mask=True,
            deduplicate=options["deduplicate_rounds"],
        )
        outputs.append(output)
        maps.append(probabilities)
    return torch.cat(outputs, dim=-1), torch.stack(maps)


def qkv_oracle(module, row: Tensor, counts: Tensor, shared: bool) -> tuple[Tensor, Tensor]:
    """Output and maps of a local or full layer on one row."""
    outputs, maps = [], []
    for head in range(HEADS):
        query = project(row, (module.query_key if shared else module.query).weight, head)
        key = reference.normalise_keys(query)
        if not shared:
            key = project(row, module.key.weight, head)
        value = project(row, module.value.weight, head)
        output, probabilities = reference.attend(query, key, value, counts, self_mask=shared)
        outputs.append(output)
        maps.append(probabilities)
    return torch.cat(outputs, dim=-1), torch.stack(maps)


def check_rows(module, hidden: Tensor, documents: Tensor | None, oracle, **options) -> None:
    """Output and map of a batch equal the oracle's for each row."""
    output, attention_map = module(hidden, documents, output_map=True, **options)
    plain, no_map = module(hidden, documents, **options)
    assert no_map is None
    assert_close(plain, output)
    dense = attention_map.to_dense()
    for index, row in enumerate(hidden):
        expected, maps = oracle(row, index)
        assert_close(output[index], expected)
        assert_close(dense[index], maps)


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

    def oracle(row: Tensor, index: int) -> tuple[Tensor, Tensor]:
        numbers = [0] * seq if documents is None else documents[index].tolist()
        return lsh_oracle(module, row, numbers, rounds)

    check_rows(module, hidden, documents, oracle, hash_seed=5, num_hashes=rounds)


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
    hidden = torch.randn(2, seq, DIM).double()
    oracle = lambda row, index: lsh_oracle(module, row, [], rounds)  # noqa: E731
    check_rows(module, hidden, None, oracle, hash_seed=5, num_hashes=rounds)


@pytest.mark.parametrize("causal", [False, True])
@settings(max_examples=10)
@given(seq=st.integers(1, 11), packed=st.booleans())
def test_local_and_full_equal_the_oracle(causal, seq, packed):
    hidden = torch.randn(2, seq, DIM).double()
    documents = torch.randint(0, 2, (2, seq)) if packed else None
    after = 0 if causal else 1
    for kind, before, behind, options in (
        (LocalSelfAttention, 3, 3 * after, {**WINDOW, "num_chunks_after": after}),
        (FullSelfAttention, seq, 0 if causal else seq, {}),
        (FullSelfAttention, seq, 0 if causal else seq, {"shared_query_key": True}),
    ):
        module = build(kind, causal=causal, **options)

        def oracle(row, index, module=module, before=before, behind=behind, options=options):
            numbers = [0] * seq if documents is None else documents[index].tolist()
            counts = reference.band_counts([[0] * seq], numbers, before, behind)
            return qkv_oracle(module, row, counts, "shared_query_key" in options)

        check_rows(module, hidden, documents, oracle)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("seq", [1, 3, 8])
def test_local_in_the_chunk_scope_equals_the_oracle(causal, seq):
    module = build(LocalSelfAttention, scope="chunk", causal=causal, **WINDOW)
    counts = reference.local_chunk_counts(seq, 3, 1, 0, causal)
    hidden = torch.randn(2, seq, DIM).double()
    check_rows(module, hidden, None, lambda row, _: qkv_oracle(module, row, counts, False))


@pytest.mark.parametrize("scope", ["band", "chunk"])
def test_gradients_equal_those_of_the_oracle(scope):
    module = build(LSHSelfAttention, scope=scope, **LSH)
    row = torch.randn(8, DIM).double().requires_grad_()
    inputs = [row, *module.parameters()]
    weights = torch.randn(8, HEADS * HEAD_DIM).double()
    output, _ = module(row[None], hash_seed=5)
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
    module(hidden, hash_seed=3)
    module.train()(hidden, hash_seed=3)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_decision_is_made_once_and_obeyed():
    module, hidden = build(LSHSelfAttention, **LSH), torch.randn(1, 20, DIM).double()
    decision = Decision()
    first, _ = module(hidden, hash_seed=5, decision=decision)
    kept = decision.recall(lambda: pytest.fail("nothing was decided"))
    query = split_heads(module.query_key(hidden), HEADS)
    assert torch.equal(kept, module.hash(query, 5))
    assert torch.equal(module(hidden, hash_seed=6, decision=decision)[0], first)
    assert not torch.equal(module(hidden, hash_seed=6)[0], first)


def test_nothing_is_hashed_where_one_chunk_holds_the_row(monkeypatch):
    module = build(LSHSelfAttention, scope="chunk", **LSH)
    monkeypatch.setattr(module, "hash", lambda *_: pytest.fail("hashed"))
    module(torch.randn(1, 3, DIM).double())
    with pytest.raises(pytest.fail.Exception):
        module(torch.randn(1, 4, DIM).double())


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (LSHSelfAttention, LSH),
        (LSHSelfAttention, {**LSH, "scope": "chunk"}),
        (LocalSelfAttention, WINDOW),
        (FullSelfAttention, {}),
        (FullSelfAttention, {"shared_query_key": True}),
    ],
)
def test_dropout_acts_in_training_only_and_keeps_the_mean(kind, options):
    module, hidden = build(kind, dropout=0.5, **options), torch.randn(1, 7, DIM).double()
    expected = module(hidden)[0][0]
    assert torch.equal(expected, build(kind, **options)(hidden)[0][0])
    module.train()
    samples, _ = module(hidden.expand(400, -1, -1))
    assert samples.std(dim=0).max() > 0.1
    error = (samples.mean(dim=0) - expected).abs() / (samples.std(dim=0) / 20 + 1e-9)
    assert error.median() < 1.5 and error.max() < 6
