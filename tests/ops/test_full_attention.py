"""Exact attention against the oracle with every key in sight."""

import pytest
import torch

from reformer_hf.ops import reference
from reformer_hf.ops.full_attention import full_attention
from tests.ops import oracle


@pytest.mark.parametrize("seq", [1, 2, 7])
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("self_mask", [True, False])
@pytest.mark.parametrize("padding", ["none", "left", "holes", "packed"])
def test_equals_the_oracle(seq, causal, self_mask, padding):
    generator = torch.Generator().manual_seed(0)
    inputs = [oracle.random_heads(seq, generator) for _ in range(3)]
    documents = oracle.make_documents(padding, seq, generator)
    options = {"causal": causal, "self_mask": self_mask}

    def expected(*heads):
        outcomes = []
        for q, k, v, docs in oracle.examples(*heads, documents):
            docs = [0] * seq if docs is None else docs.tolist()
            counts = reference.band_counts([[0] * seq], docs, seq, 0 if causal else seq)
            outcomes.append(reference.attend(q, k, v, counts, self_mask=self_mask))
        return oracle.stack(outcomes, heads[0])

    def fast(*heads):
        output, none = full_attention(*heads, documents, **options)
        with_map, attention_map = full_attention(*heads, documents, output_map=True, **options)
        assert none is None
        torch.testing.assert_close(with_map, output, atol=oracle.TOLERANCE, rtol=0)
        return output, attention_map

    oracle.assert_equal([("both", fast)], expected, inputs)


@pytest.mark.parametrize("self_mask", [True, False])
@pytest.mark.parametrize("output_map", [True, False])
def test_dropout_keeps_the_mean(self_mask, output_map):
    query, ones = torch.randn(1, 1, 200, 4), torch.ones(1, 1, 200, 4)
    options = {"self_mask": self_mask, "output_map": output_map}
    output, _ = full_attention(query, query, ones, dropout=0.5, **options)
    assert output[0, 0, 1:].std() > 0.01
    # Averages over up to 200 keys of weights doubled or dropped, and over 200 queries.
    assert abs(output.mean() - 1) < 0.2
