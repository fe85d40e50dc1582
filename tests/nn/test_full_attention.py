"""Full attention against the oracle, with separate and with shared queries and keys."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reformer_hf.nn.attention import LocalSelfAttention, LSHSelfAttention
from reformer_hf.nn.full_attention import FullSelfAttention
from reformer_hf.ops import reference
from tests.nn.attention_oracle import DIM, LSH, WINDOW, build, check_dropout, check_rows, qkv_oracle


@pytest.mark.parametrize("shared", [False, True])
@settings(max_examples=15)
@given(seq=st.integers(1, 11), causal=st.booleans(), packed=st.booleans())
def test_full_attention_equals_the_oracle(shared, seq, causal, packed):
    module = build(FullSelfAttention, causal=causal, shared_query_key=shared)
    documents = torch.randint(0, 2, (2, seq)) if packed else None

    def oracle(row, numbers):
        counts = reference.band_counts([[0] * seq], numbers, seq, 0 if causal else seq)
        return qkv_oracle(module, row, counts, shared)

    check_rows(module, torch.randn(2, seq, DIM).double(), documents, oracle)


def test_the_weights_are_those_of_a_local_or_an_lsh_layer():
    local, lsh = build(LocalSelfAttention, **WINDOW), build(LSHSelfAttention, **LSH)
    build(FullSelfAttention).load_state_dict(local.state_dict())
    build(FullSelfAttention, shared_query_key=True).load_state_dict(lsh.state_dict())


@pytest.mark.parametrize("shared", [False, True])
def test_dropout_acts_in_training_only_and_keeps_the_mean(shared):
    check_dropout(FullSelfAttention, {"shared_query_key": shared})
