"""The bidirectional model against the oracle, layer by layer, in float64."""

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from reformer_hf import ReformerHFModel
from reformer_hf.nn.attention import LSHSelfAttention
from reformer_hf.ops import reference
from tests.models.tiny import ALL_OPTIONS, SCOPES, WITH_SRU, random_ids, tiny_config, tiny_encoder
from tests.nn.attention_oracle import HEAD_DIM, HEADS, lsh_oracle, qkv_oracle

ORACLE_SIZES = {"num_attention_heads": HEADS, "attention_head_size": HEAD_DIM, "hash_seed": 5}
LOOK_AHEAD = {
    "as far as back": {},
    "as far as back, two chunks": {"local_num_chunks_before": 2, "lsh_num_chunks_before": 2},
    "none": {"local_num_chunks_after": 0, "lsh_num_chunks_after": 0},
    "ahead only": {
        "local_num_chunks_before": 0,
        "local_num_chunks_after": 1,
        "lsh_num_chunks_before": 0,
        "lsh_num_chunks_after": 2,
    },
}


def attend_by_the_oracle(
    module, row: Tensor, documents: list[int], theta: float | None = None
) -> Tensor:
    if isinstance(module, LSHSelfAttention):
        return lsh_oracle(module, row, documents, module.num_hashes, theta)[0]
    window = module.window
    length, before, after = (window.chunk_length, window.num_chunks_before, window.num_chunks_after)
    if window.scope == "band":
        single_bucket = [[0] * len(row)]
        counts = reference.band_counts(single_bucket, documents, length * before, length * after)
    else:
        counts = reference.local_chunk_counts(len(row), length, before, after, causal=False)
    return qkv_oracle(module, row, counts, documents=documents, theta=theta)[0]


def hidden_states_by_the_oracle(
    model: ReformerHFModel, ids: Tensor, documents: list[int] | None = None
) -> Tensor:
    """The last hidden state of one row, (seq, 2 * hidden)."""
    documents = documents or [0] * len(ids)
    starts = [documents.index(document) for document in documents]
    positions = torch.tensor([[place - start for place, start in enumerate(starts)]])
    theta = (model.config.rope_parameters or {}).get("rope_theta")
    x1 = x2 = model.embeddings(model.embeddings.word_embeddings(ids[None]), positions)
    for layer in model.encoder.layers:
        normalised = layer.attention.layer_norm(x2)[0]
        module = layer.attention.self_attention
        attended = attend_by_the_oracle(module, normalised, documents, theta)
        x1 = x1 + layer.attention.output(attended)
        x2 = x2 + layer.feed_forward(x1)
    return model.encoder.finish(x1, x2)[0]


@pytest.mark.parametrize("look_ahead", LOOK_AHEAD)
@pytest.mark.parametrize("scope", SCOPES)
def test_hidden_states_equal_the_oracle_s(scope, look_ahead):
    fields = {**ORACLE_SIZES, "attention_scope": scope, **LOOK_AHEAD[look_ahead]}
    model = tiny_encoder(attn_layers=["local", "lsh"] * 2, **fields).double()
    for seq in (3, 13, 22):
        ids = random_ids(2, seq)
        output = model(ids).last_hidden_state
        for row in range(2):
            assert_close(output[row], hidden_states_by_the_oracle(model, ids[row]))


@pytest.mark.parametrize("options", [{}, ALL_OPTIONS])
def test_packed_documents_equal_the_oracle_s(options):
    model = tiny_encoder(attn_layers=["local", "lsh"] * 2, **ORACLE_SIZES, **options).double()
    ids, documents = random_ids(1, 19), [0] * 8 + [1] * 11
    output = model(ids, seq_idx=torch.tensor([documents])).last_hidden_state
    assert_close(output[0], hidden_states_by_the_oracle(model, ids[0], documents))


def test_look_ahead_is_as_far_as_look_back_in_the_band_scope():
    for scope, causal, after in (("band", False, 3), ("band", True, 0), ("chunk", False, 0)):
        config = tiny_config(
            attention_scope=scope, local_num_chunks_before=3, lsh_num_chunks_before=3
        )
        for kind in ("local", "lsh"):
            assert config.attention_window(kind, causal).num_chunks_after == after


@pytest.mark.parametrize("scope", SCOPES)
def test_local_layers_do_not_wrap_around(scope):
    """Nothing at one end moves what stands at the other (transformers' model wraps)."""
    fields = {"local_num_chunks_before": 1, "local_num_chunks_after": 1}
    model = tiny_encoder(attn_layers=["local"], attention_scope=scope, **fields).double()
    ids = random_ids(1, 24)  # six chunks
    before = model(ids).last_hidden_state
    for places, reach in ((slice(20, 24), slice(0, 16)), (slice(0, 4), slice(8, 24))):
        changed = ids.clone()
        changed[:, places] = random_ids(1, 4, seed=1)
        after = model(changed).last_hidden_state
        assert_close(after[:, reach], before[:, reach], rtol=0, atol=1e-12)
        assert (after[:, places] - before[:, places]).abs().max() > 0.1


def test_recurrent_units_are_refused():
    with pytest.raises(ValueError, match="ff_sru_size=3 with is_decoder=None: .* set ff_sru_size"):
        tiny_encoder(**WITH_SRU)
