"""Settings that save memory change no result; attention implementations agree."""

import re

import pytest
import torch
from torch.testing import assert_close

from reformer_hf import ReformerHFForCausalLM
from reformer_hf.models.implementations import to_implementation
from reformer_hf.models.self_attention import LayerInputs
from reformer_hf.nn.reversible import Decision
from tests.models.tiny import (
    ALL_OPTIONS,
    SCOPES,
    WITH_SRU,
    dropout_fields,
    loss_and_gradients,
    random_ids,
    tiny_config,
    tiny_lm,
)

MIXED = {"attn_layers": ["local", "lsh", "full", "full_shared_qk"], "num_attention_heads": 4}


def assert_same_results(left: ReformerHFForCausalLM, right: ReformerHFForCausalLM, **inputs):
    results = []
    for model in (left, right):
        torch.manual_seed(7)
        results.append(loss_and_gradients(model.double().train(), **inputs))
    (loss, found), (expected_loss, expected) = results
    assert_close(loss, expected_loss)
    for name, gradient in expected.items():
        assert_close(found[name], gradient, rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize(
    "fields",
    [
        {"chunk_size_attention_heads": 1},
        {"chunk_size_attention_heads": 3, "chunk_size_feed_forward": 5},
        {"chunk_size_attention_heads": 2, "reversible": False},
        {"attn_implementation": "eager"},
    ],
)
@pytest.mark.parametrize("padded", [False, True])
def test_results_do_not_change(scope, fields, padded):
    ids = random_ids(2, 19)
    mask = torch.ones_like(ids)
    if padded:
        mask[1, :6] = 0
    common = {"attention_scope": scope, "chunk_size_lm_head": 7, **MIXED}
    if scope == "band":
        common |= {**ALL_OPTIONS, **WITH_SRU, "ff_sparsity_hard_share": 0.0}  # of whatever chunks
    assert_same_results(
        tiny_lm(**common, **fields),
        tiny_lm(**common),
        input_ids=ids,
        labels=ids.masked_fill(mask == 0, -100),
        attention_mask=mask,
    )


@pytest.mark.parametrize("reversible", [True, False])
def test_groups_of_heads_share_the_dropout_of_their_sum(reversible):
    """The gradient is that of the dropped sum, not of sums dropped each by itself."""
    fields = {"use_qk_norm": True, **dropout_fields(0.5)}
    model = tiny_lm(chunk_size_attention_heads=1, reversible=reversible, **fields)
    model.double().train()
    attention = model.reformer.encoder.layers[0].attention
    stream = torch.randn(1, 8, 16, dtype=torch.float64)
    groups = attention.head_groups()
    assert len(groups) == 2
    # Local attention alone, whose own dropout is off: only the sum's is left.
    attention.self_attention.dropout = 0.0
    parts = [attention(stream, LayerInputs(), heads, 3)[0] for heads in groups]
    assert torch.equal(parts[0] == 0, parts[1] == 0)
    assert 0.3 < (parts[0] == 0).double().mean() < 0.7
    attention.output.dropout.p = 0.0
    whole = attention(stream, LayerInputs())[0]
    kept = sum(parts)[parts[0] != 0]
    assert_close(kept, 2 * whole[parts[0] != 0])


@pytest.mark.parametrize("layer", [0, 1])
@pytest.mark.parametrize("hooked", ["", "forward", "full_backward"])
def test_groups_of_heads_keep_no_normalised_stream(layer, hooked):
    """Unless somebody watches the layer norm, which then is called."""
    attention = tiny_lm(chunk_size_attention_heads=1).reformer.encoder.layers[layer].attention
    called = []
    if hooked:
        register = getattr(attention.layer_norm, f"register_{hooked}_hook")
        register(lambda *_: called.append(1))
    stream, saved = torch.randn(2, 64, 16, requires_grad=True), []  # more than the weights
    with torch.autograd.graph.saved_tensors_hooks(lambda x: saved.append(x) or x, lambda x: x):
        output, _ = attention(stream, LayerInputs(), attention.head_groups()[0])
    output.sum().backward()
    large = {x.data_ptr() for x in saved if x.numel() == stream.numel() and x.shape[-1] == 16}
    assert (large == {stream.data_ptr()}) != bool(hooked) == bool(called)


def test_adapters_attend_with_all_heads_at_once():
    attention = tiny_lm(chunk_size_attention_heads=1).reformer.encoder.layers[0].attention
    attention.output.dense = torch.nn.Sequential(attention.output.dense)
    assert attention.head_groups() == [slice(0, 2)]


@pytest.mark.parametrize(
    "fields", [{"attention_sparsity": 4}, {"attention_output_projection": False}]
)
def test_what_is_no_dense_projection_attends_with_all_heads_at_once(fields):
    options = {"attn_layers": ["local"], **fields}
    model = tiny_lm(chunk_size_attention_heads=1, **options)
    assert model.reformer.encoder.layers[0].attention.head_groups() == [slice(0, 2)]
    ids = random_ids(1, 9)
    assert_close(model(ids).logits, tiny_lm(**options)(ids).logits)


def test_buckets_of_other_passes_need_all_heads_at_once():
    model = tiny_lm(chunk_size_attention_heads=1)
    with pytest.raises(ValueError, match="hash_decisions with chunk_size_attention_heads=1"):
        model(random_ids(1, 5), hash_decisions=[Decision(), Decision()])
    with pytest.raises(ValueError, match="chunk_size_attention_heads=-1 must be 0"):
        tiny_config(chunk_size_attention_heads=-1)


def test_bucket_ids_are_remembered_in_two_bytes():
    decisions = [Decision() for _ in range(2)]
    tiny_lm().train()(random_ids(1, 9), hash_decisions=decisions)
    assert decisions[1].recall(lambda: None).dtype == torch.int16


@pytest.mark.parametrize("scope", SCOPES)
def test_attention_implementations(scope):
    ids = random_ids(2, 19)
    model = tiny_lm(attention_scope=scope, **MIXED)
    assert model.config._attn_implementation == "sdpa"
    expected = model(ids).logits
    model.set_attn_implementation("eager")
    assert_close(model(ids).logits, expected)
    other = ReformerHFForCausalLM._from_config(model.config, attn_implementation="eager")
    assert other.config._attn_implementation == "eager"
    with pytest.raises(ValueError, match="Flash Attention 2"):
        model.set_attn_implementation("flash_attention_2")


def test_blockwise_is_a_name_that_loads(tmp_path):
    ids, model = random_ids(2, 19), tiny_lm(**MIXED).eval()
    expected = model(ids).logits
    assert to_implementation(model.config._attn_implementation) == "auto"
    model.set_attn_implementation("eager")
    assert to_implementation(model.config._attn_implementation) == "eager"
    model.set_attn_implementation("blockwise")
    assert model.config._attn_implementation == "blockwise"
    assert torch.equal(model(ids).logits, expected)
    model.save_pretrained(tmp_path)
    for options in ({}, {"attn_implementation": "blockwise"}, {"attn_implementation": "sdpa"}):
        loaded = ReformerHFForCausalLM.from_pretrained(tmp_path, **options)
        assert torch.equal(loaded(ids).logits, expected)
    model.config._attn_implementation = None
    assert torch.equal(model(ids).logits, expected)


@pytest.mark.parametrize("name", ["blocks", "paged|eager"])
def test_unknown_implementations_are_refused(name, tmp_path):
    model = tiny_lm()
    message = f'attn_implementation="{re.escape(name)}"` is not supported: choose "auto"'
    with pytest.raises(ValueError, match=message):
        model.set_attn_implementation(name)
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=message):
        ReformerHFForCausalLM.from_pretrained(tmp_path, attn_implementation=name)
    model.config._attn_implementation = name  # which checks nothing
    with pytest.raises(ValueError, match=message):
        model(random_ids(1, 5))


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_flex_attention():
    ids = random_ids(2, 19)
    model = tiny_lm(**MIXED)
    with torch.no_grad():
        expected = model(ids).logits
        model.set_attn_implementation("flex_attention")
        assert_close(model(ids).logits, expected)
    with pytest.raises(NotImplementedError, match="backward on CPU"):
        model(ids)  # torch's FlexAttention
    with pytest.raises(ValueError, match="'flex_attention' with attention_scope='chunk'"):
        tiny_lm(attention_scope="chunk", attn_implementation="flex_attention")
