"""Attention to gathered candidates against the oracle's softmax."""

import pytest
import torch

from reformer_hf.nn.past.candidates import PIECE, attend_candidates
from reformer_hf.nn.past.token_store import TokenStore
from reformer_hf.ops import reference
from tests.nn.past.passes import to_dense
from tests.ops.oracle import BATCH, DIM, HEADS, TOLERANCE

SEQ, ROUNDS, REACH = 30, 3, 4


@pytest.mark.parametrize("queries", [1, PIECE, PIECE + 1, 2 * PIECE + 5])
@pytest.mark.parametrize("deduplicate", [False, True])
@pytest.mark.parametrize("output_map", [False, True])
def test_equals_the_oracle(queries, deduplicate, output_map):
    generator = torch.Generator().manual_seed(queries)
    keys, values = torch.randn(2, BATCH, HEADS, SEQ, DIM, generator=generator, dtype=torch.float64)
    query = torch.randn(BATCH, HEADS, queries, DIM, generator=generator, dtype=torch.float64)
    # Few places, so that rounds repeat them; the own place is one that no window holds.
    others = torch.randint(-1, 8, (BATCH, HEADS, queries, ROUNDS, REACH), generator=generator)
    others[:, :, -1] = -1  # the last query is alone
    own = torch.full((BATCH, HEADS, queries, ROUNDS, 1), SEQ - 1)
    candidates = torch.cat([own, others], dim=-1)
    store = TokenStore()
    store.append(torch.cat([keys, values], dim=-1))
    output, attention_map = attend_candidates(
        query, candidates, store, deduplicate_rounds=deduplicate, output_map=output_map
    )
    assert (attention_map is not None) == output_map
    for row in range(BATCH):
        for head in range(HEADS):
            shown = candidates[row, head].flatten(1)
            counts = torch.stack([(shown == place).sum(1) for place in range(SEQ)], dim=1)
            counts[:-1, SEQ - 1] = 0
            expected, weights = reference.attend(
                query[row, head],
                keys[row, head],
                values[row, head],
                torch.where(counts.any(dim=1, keepdim=True), counts, 1),
                self_mask=False,
                deduplicate=deduplicate,
            )
            torch.testing.assert_close(output[row, head], expected, atol=TOLERANCE, rtol=0)
            if attention_map is not None:
                dense = to_dense(attention_map, SEQ)[row, head]
                torch.testing.assert_close(dense, weights, atol=TOLERANCE, rtol=0)
    assert torch.allclose(output[:, :, -1], values[:, :, -1])
