"""The four consequences of the band scope, on whole models in float64.

There is no cache yet: a decode step is a forward over the longer prefix.
"""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from reformer_hf import ReformerHFForCausalLM
from reformer_hf.nn.reversible import Decision
from tests.models.tiny import random_ids, tiny_config, tiny_lm

LAYER = st.sampled_from(["local", "lsh", "full", "full_shared_qk"])
MODELS = st.fixed_dictionaries(
    {
        "seed": st.integers(0, 3),
        "attn_layers": st.lists(LAYER, min_size=1, max_size=3),
        "local_attn_chunk_length": st.integers(1, 6),
        "local_num_chunks_before": st.integers(0, 2),
        "lsh_attn_chunk_length": st.integers(1, 6),
        "lsh_num_chunks_before": st.integers(1, 2),
        "num_hashes": st.integers(1, 3),
        "num_buckets": st.sampled_from([2, 4, [2, 4]]),
        "deduplicate_rounds": st.booleans(),
    }
)
"""Fields of models of many kinds."""


def logits_of(model: ReformerHFForCausalLM, ids: Tensor, **inputs) -> Tensor:
    with torch.no_grad():
        return model(ids, **inputs).logits


@settings(max_examples=25)
@given(fields=MODELS, length=st.integers(2, 40), data=st.data())
def test_1_later_tokens_change_nothing(fields, length, data):
    model = tiny_lm(**fields).double()
    ids = random_ids(2, length)
    cut = data.draw(st.integers(1, length - 1), label="cut")
    whole = logits_of(model, ids)
    assert_close(logits_of(model, ids[:, :cut]), whole[:, :cut])
    changed = ids.clone()
    changed[:, cut:] = random_ids(2, length - cut, seed=1)
    assert_close(logits_of(model, changed)[:, :cut], whole[:, :cut])


@settings(max_examples=10)
@given(fields=MODELS, steps=st.lists(st.integers(1, 7), min_size=1, max_size=6))
def test_2_one_pass_equals_a_prefill_and_steps_of_any_sizes(fields, steps):
    model = tiny_lm(**fields).double()
    ids = random_ids(1, sum(steps))
    whole = logits_of(model, ids)
    seen, decoded = 0, []
    for step in steps:
        prefix = ids[:, : seen + step]
        decoded.append(logits_of(model, prefix, logits_to_keep=step))
        seen += step
    assert_close(torch.cat(decoded, dim=1), whole)


@settings(max_examples=15)
@given(fields=MODELS, length=st.integers(1, 40))
def test_3_a_layer_never_looks_further_than_its_window(fields, length):
    """So that a decode step needs rounds times W keys, whatever the length of the context."""
    model = tiny_lm(**fields).double()
    output = model(random_ids(1, length), output_attentions=True)
    config = model.config
    for kind, dense in zip(config.attn_layers, output.attentions, strict=True):
        seen = (dense > 0).sum(dim=-1)
        if kind == "local":
            window = config.local_attn_chunk_length * config.local_num_chunks_before
            assert seen.max() <= window + 1
        elif kind == "lsh":
            window = config.lsh_attn_chunk_length * config.lsh_num_chunks_before
            assert seen.max() <= config.num_hashes * window + 1


@settings(max_examples=15)
@given(fields=MODELS, lengths=st.lists(st.integers(1, 12), min_size=1, max_size=3))
def test_4_neighbours_in_the_batch_and_in_the_row_change_nothing(fields, lengths):
    model = tiny_lm(**fields).double()
    rows = [random_ids(1, length, seed=length) for length in lengths]
    alone = [logits_of(model, row)[0] for row in rows]
    seq_idx = torch.repeat_interleave(torch.tensor(lengths))[None]
    packed = logits_of(model, torch.cat(rows, dim=1), seq_idx=seq_idx)[0]
    assert_close(packed, torch.cat(alone))
    width = max(lengths) + 2
    for side in (0, 1):
        batch, mask = torch.zeros(2, len(rows), width, dtype=torch.long)
        for index, row in enumerate(rows):
            places = slice(0, row.shape[1]) if side else slice(width - row.shape[1], None)
            batch[index, places], mask[index, places] = row[0], 1
        output = logits_of(model, batch, attention_mask=mask)
        assert_close(output[mask.bool()], torch.cat(alone))


def test_the_chunk_scope_is_no_autoregressive_factorisation():
    """What the band scope mends: in the chunk scope later tokens do change earlier outputs."""
    ids = random_ids(1, 40)
    changed = ids.clone()
    changed[:, 30:] = random_ids(1, 10, seed=1)
    moved = {}
    for scope in ("band", "chunk"):
        model = tiny_lm(attention_scope=scope).double()
        difference = logits_of(model, ids)[:, :30] - logits_of(model, changed)[:, :30]
        moved[scope] = difference.abs().amax()
    assert moved["band"] < 1e-12 and moved["chunk"] > 1e-3


def test_buckets_do_not_depend_on_the_length():
    config = tiny_config(attn_layers=["lsh"])
    model = tiny_lm(attn_layers=["lsh"]).double()
    ids = random_ids(1, 40)
    found = []
    for length in (40, 7):
        decisions = [Decision() for _ in config.attn_layers]
        model(ids[:, :length], hash_decisions=decisions)
        found.append(decisions[0].recall(lambda: pytest.fail("nothing was decided")))
    assert torch.equal(found[0][..., :7], found[1])


def test_generation_by_recomputed_prefixes_agrees_with_one_pass():
    """Each token that greedy decoding chose is the argmax of one pass over the finished text."""
    model = tiny_lm(attn_layers=["local", "lsh", "lsh"], eos_token_id=None).double()
    ids = random_ids(3, 5)
    text = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=30)
    assert text.shape == (3, 35)
    assert torch.equal(logits_of(model, text)[:, 4:-1].argmax(-1), text[:, 5:])
