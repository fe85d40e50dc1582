"""FlexAttention against the plain path; on a CPU it has no gradient and warns of its slowness."""

import pytest
import torch

from reformer_hf.ops.attention import local_attention, lsh_attention
from reformer_hf.ops.chunk_scope import chunk_attention
from reformer_hf.ops.window import Window
from tests.ops import oracle

pytestmark = pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
SEQ = 150  # more than one block of FlexAttention


@pytest.mark.parametrize("after, causal", [(0, True), (1, False)])
@pytest.mark.parametrize("padding", ["none", "left", "packed"])
def test_lsh_and_local_attention(after, causal, padding):
    generator = torch.Generator().manual_seed(0)
    query, key, value = (oracle.random_heads(SEQ, generator).detach() for _ in range(3))
    documents = oracle.make_documents(padding, SEQ, generator)
    buckets = torch.randint(6, (*query.shape[:2], 2, SEQ), generator=generator)
    band, chunk = (Window(8, 2, after, scope, causal) for scope in ("band", "chunk"))
    for attend in (
        lambda how: lsh_attention(
            query, value, buckets, documents, num_buckets=6, window=band, **how
        ),
        lambda how: local_attention(query, key, value, documents, window=band, **how),
        lambda how: local_attention(query, key, value, documents, window=chunk, **how),
    ):
        found, plain = (attend({"implementation": name})[0] for name in ("flex_attention", "eager"))
        torch.testing.assert_close(found, plain, atol=1e-12, rtol=0)


def test_what_it_cannot_do_is_refused():
    x, buckets = torch.zeros(1, 1, 20, 4), torch.zeros(1, 1, 1, 20, dtype=torch.int64)
    how = {"implementation": "flex_attention"}
    with pytest.raises(ValueError, match="dropout=0.1 with flex_attention"):
        local_attention(x, x, x, dropout=0.1, window=Window(4, 1), **how)
    with pytest.raises(ValueError, match="'flex_attention' in the chunk scope"):
        chunk_attention(x, x, buckets, num_buckets=2, window=Window(4, 1, scope="chunk"), **how)
