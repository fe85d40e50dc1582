"""Memory of the cache, as documented: keys and values once, and what says where they belong."""

import pytest
import torch
from torch import Tensor

from reformer_hf import ReformerHFCache, ReformerHFForCausalLM
from tests.models.tiny import SCOPES, random_ids, tiny_lm

HEADS, HEAD_DIM, HASHES, BUCKETS, WINDOW = 2, 8, 2, 4, 4
"""Of the tiny models."""


def step(
    model: ReformerHFForCausalLM, cache: ReformerHFCache, ids: Tensor, mask: Tensor | None = None
) -> None:
    with torch.no_grad():
        model(ids, past_key_values=cache, attention_mask=mask)


def growth(model, lengths, batch=3):
    cache, used = ReformerHFCache(model.config), []
    for length in lengths:
        step(model, cache, random_ids(batch, length - cache.get_seq_length()))
        used.append(cache.used_bytes())
        # Room to grow: an eighth, and at least 128 tokens of each store.
        room = 3 * 128 * batch * HEADS * 2 * HEAD_DIM * 8 * len(model.config.attn_layers)
        assert used[-1] <= cache.allocated_bytes() <= 1.13 * used[-1] + room
    return used


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_lsh_layers_of_the_band_scope(dtype):
    fields = {"position_embedding_type": "none", "attn_layers": ["lsh"]}
    model = tiny_lm(**fields).to(dtype)
    short, longer, longest = growth(model, [1, 51, 551])
    per_token = 3 * 2 * HEADS * HEAD_DIM * dtype.itemsize
    rings = 3 * HEADS * HASHES * (BUCKETS + 1) * WINDOW * 4
    assert short == rings + per_token
    assert longer - short == 50 * per_token and longest - longer == 500 * per_token


def test_lsh_layers_of_the_chunk_scope():
    fields = {"position_embedding_type": "none", "attn_layers": ["lsh"]}
    model = tiny_lm(attention_scope="chunk", **fields)
    short, longer, longest = growth(model, [1, 51, 251])
    per_token = 3 * HEADS * (2 * HEAD_DIM * 4 + HASHES * 8)
    assert short - per_token == 3 * 8
    assert longer - short == 50 * per_token and longest - longer == 200 * per_token


@pytest.mark.parametrize("kind", ["full", "full_shared_qk"])
def test_full_layers(kind):
    model = tiny_lm(position_embedding_type="none", attn_layers=[kind])
    used = growth(model, [1, 51, 551])
    per_token = 3 * 2 * HEADS * HEAD_DIM * 4
    assert used == [length * per_token for length in (1, 51, 551)]


def test_sparse_projections_keep_the_last_vectors_that_they_share():
    fields = {"position_embedding_type": "none", "attn_layers": ["full"], "attention_sparsity": 4}
    used = growth(tiny_lm(**fields), [1, 51])
    per_token, shared = 3 * 2 * HEADS * HEAD_DIM * 4, 3 * 2 * HEADS * HEAD_DIM * 4
    assert used == [length * per_token + shared for length in (1, 51)]


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("padded", [False, True])
def test_local_layers_are_bounded(scope, padded):
    fields = {"position_embedding_type": "none", "attn_layers": ["local"]}
    model = tiny_lm(attention_scope=scope, **fields)
    cache, used = ReformerHFCache(model.config), []
    mask = torch.ones(3, 10, dtype=torch.int64)
    if padded:
        mask[1, :3] = 0
    for _ in range(60):
        step(model, cache, random_ids(3, 10), mask)
        used.append(cache.used_bytes())
        assert cache.allocated_bytes() <= 2 * 128 * 3 * (2 * HEADS * HEAD_DIM * 4 + 2 * 8)
    per_token = 3 * (2 * HEADS * HEAD_DIM * 4 + (2 * 8 if padded else 0))
    assert max(used) <= (2 * (2 * 4 - 1) + 64 + 10) * per_token
    assert max(used[30:]) <= max(used[:30])


def test_used_bytes_are_those_of_all_layers():
    model = tiny_lm(attn_layers=["lsh", "full", "lsh"])
    alone = [growth(tiny_lm(attn_layers=[kind]), [40])[0] for kind in ("lsh", "full")]
    assert growth(model, [40])[0] == 2 * alone[0] + alone[1]
