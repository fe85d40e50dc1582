"""Passes with a cache are exact: as one pass without, as the row alone, and after a rollback.

In float64, where equal inputs get equal buckets; in float32 the buckets are given.
"""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.testing import assert_close

from reformer_hf import ReformerHFCache, ReformerHFForCausalLM
from reformer_hf.nn.reversible import Decision
from tests.models.cached_passes import (
    PADDINGS,
    Pass,
    decided,
    draw_mask,
    model_fields,
    passes_with_detours,
    plain_passes,
    run,
    uncached,
)
from tests.models.tiny import WITH_NGRAMS, random_ids, tiny_lm

EXACT = ("local", "lsh", "full", "full_shared_qk")
"""Kinds of layers whose cached passes equal one pass in the band scope."""
TOLERANCE = 1e-9
"""For float64 and logits around one; a wrong key moves them by more than 1e-3."""

paddings = st.sampled_from(PADDINGS)
row_counts = st.integers(1, 3)
scoped = st.one_of(
    st.tuples(st.just("band"), model_fields(*EXACT)),
    # Without LSH layers the chunk scope is exact, too.
    st.tuples(st.just("chunk"), model_fields("local", "full", "full_shared_qk")),
)


def build(scope: str, fields: dict) -> ReformerHFForCausalLM:
    if scope == "chunk":
        fields = {**fields, "lsh_local_round": False, "lsh_next_values": False}
    fields = {**fields, "attention_scope": scope}
    return tiny_lm(max_position_embeddings=96, **fields).double()


def assert_rows_as_alone(model: ReformerHFForCausalLM, logits: Tensor, ids: Tensor, mask: Tensor):
    """Logits of real tokens are those of one uncached pass over the row's real tokens."""
    for row, real in enumerate(mask.bool()):
        expected = uncached(model, ids[row, real][None])[0]
        assert_close(logits[row, real], expected, atol=TOLERANCE, rtol=0)


@settings(max_examples=60)
@given(scoped=scoped, rows=row_counts, passes=plain_passes(), padding=paddings)
def test_cached_is_uncached_is_the_row_alone(scoped, rows, passes, padding):
    model = build(*scoped)
    mask = draw_mask(padding, rows, passes, seed=rows)
    ids = random_ids(*mask.shape)
    given_mask = None if padding == "none" else mask
    logits = run(model, ids, passes, given_mask, record=False)
    real = mask.bool()
    at_once = uncached(model, ids, attention_mask=mask)
    assert_close(logits[real], at_once[real], atol=TOLERANCE, rtol=0)
    assert_rows_as_alone(model, logits, ids, mask)


@settings(max_examples=60)
@given(scoped=scoped, rows=row_counts, passes=passes_with_detours(), padding=paddings)
def test_what_is_taken_back_has_never_been(scoped, rows, passes, padding):
    model = build(*scoped)
    mask = draw_mask(padding, rows, passes, seed=rows)
    ids = random_ids(*mask.shape)
    logits = run(model, ids, passes, None if padding == "none" else mask)
    assert_rows_as_alone(model, logits, ids, mask)


@settings(max_examples=40)
@given(
    fields=model_fields("local", "lsh", "full"),
    rows=row_counts,
    passes=passes_with_detours(),
    padding=paddings,
)
def test_rows_are_independent_in_the_chunk_scope(fields, rows, passes, padding):
    """Each row is as alone in the same passes, without its padding and without the detours."""
    model = build("chunk", fields)
    mask = draw_mask(padding, rows, passes, seed=rows)
    ids = random_ids(*mask.shape)
    logits = run(model, ids, passes, None if padding == "none" else mask)
    for row, real in enumerate(mask.bool()):
        counts = [int(part.sum()) for part in real.split([one.size for one in passes])]
        alone = [Pass(count) for count in counts if count]
        expected = run(model, ids[row, real][None], alone, record=False)[0]
        assert_close(logits[row, real], expected, atol=TOLERANCE, rtol=0)


@settings(max_examples=25)
@given(
    fields=model_fields("local", "lsh"),
    before=st.lists(st.sampled_from(["local", "full"]), max_size=2),
    first=st.integers(1, 9),
    steps=st.integers(1, 8),
)
def test_the_last_attention_layer_is_exact_in_the_chunk_scope(fields, before, first, steps):
    """Where the only LSH layer is the last: each step gives what one pass gives the last token.

    Without recurrent units, whose state holds what the layer gave earlier tokens.
    """
    fields |= {"attn_layers": [*before, "lsh"], "ff_sru_size": 0, "ff_sru_layers": 1}
    model = build("chunk", fields)
    ids = random_ids(2, first + steps)
    logits = run(model, ids, [Pass(first), *[Pass(1)] * steps], record=False)
    assert_close(logits[:, :first], uncached(model, ids[:, :first]), atol=TOLERANCE, rtol=0)
    for place in range(first, first + steps):
        expected = uncached(model, ids[:, : place + 1])[:, -1]
        assert_close(logits[:, place], expected, atol=TOLERANCE, rtol=0)
    block = run(model, ids, [Pass(first), Pass(steps)], record=False)
    assert_close(block, logits, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("scope", ["band", "chunk"])
def test_a_row_does_not_depend_on_the_others(scope):
    """Tokens of one row change: the other rows stay as they are, to the last bit."""
    model = tiny_lm(attention_scope=scope, attn_layers=["local", "lsh", "full", "lsh"])
    passes = [Pass(20), Pass(1), Pass(1), Pass(12), Pass(1)]
    ids = random_ids(3, 35)
    changed = ids.clone()
    changed[1] = random_ids(35, seed=1)
    before, after = (run(model, rows, passes, record=False) for rows in (ids, changed))
    assert torch.equal(before[[0, 2]], after[[0, 2]])
    assert not torch.equal(before[1], after[1])


def test_long_rows_and_ring_wrap_around():
    """Many more tokens than a window holds, one by one, in blocks, and with a prefill."""
    model = tiny_lm(attn_layers=["local", "lsh"], **WITH_NGRAMS).double()
    ids = random_ids(2, 400)
    expected = uncached(model, ids)
    for sizes in ([1] * 400, [300, *[1] * 100], [100] * 4, [150, 7, 200, 43]):
        logits = run(model, ids, [Pass(size) for size in sizes], record=False)
        assert_close(logits, expected, atol=TOLERANCE, rtol=0)


def test_embedded_tokens_and_positions():
    model = tiny_lm().double()
    ids, passes = random_ids(2, 12), [(0, 5), (5, 6), (6, 12)]
    expected = uncached(model, ids)
    embedded = model.get_input_embeddings()(ids).detach()
    for shape in ((-1,), (1, -1), (2, -1)):
        cache, parts = ReformerHFCache(model.config), []
        for start, stop in passes:
            positions = torch.arange(start, stop).expand(*shape)
            inputs = {"inputs_embeds": embedded[:, start:stop], "position_ids": positions}
            parts.append(model(past_key_values=cache, **inputs).logits)
        assert_close(torch.cat(parts, dim=1), expected)


def test_recorded_outputs_of_a_cached_pass():
    model = tiny_lm(**WITH_NGRAMS).double()
    ids = random_ids(2, 12)
    options = {"output_hidden_states": True, "output_attentions": True}
    expected = model(ids, use_cache=False, **options)
    cache = ReformerHFCache(model.config)
    model(ids[:, :7], past_key_values=cache)
    output = model(ids[:, 7:], past_key_values=cache, **options)
    for found, wanted in zip(output.hidden_states, expected.hidden_states, strict=True):
        assert_close(found, wanted[:, 7:])
    for found, wanted in zip(output.attentions, expected.attentions, strict=True):
        assert_close(found, wanted[:, :, 7:])


def test_nothing_cached_has_a_gradient():
    model = tiny_lm()
    output = model.reformer(random_ids(1, 5), use_cache=True)
    assert not output.last_hidden_state.requires_grad
    for layer in output.past_key_values.layers:
        assert not layer.past.tokens.tokens().requires_grad


def test_another_number_of_rounds_than_in_training():
    model = tiny_lm(attn_layers=["lsh", "local", "lsh"], **WITH_NGRAMS).double()
    ids = random_ids(2, 30)
    expected = uncached(model, ids, num_hashes=5)
    assert not torch.allclose(expected, uncached(model, ids))
    cache, parts = ReformerHFCache(model.config), []
    for tokens in ids.split([10, 1, 19], dim=1):
        parts.append(model(tokens, past_key_values=cache, num_hashes=5).logits)
    assert_close(torch.cat(parts, dim=1), expected, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("redraw", [False, True])
def test_rotations_are_those_outside_training(redraw):
    """With a cache in every mode: buckets of a later pass must be those of an earlier one."""
    model = tiny_lm(attn_layers=["lsh"], redraw_rotations=redraw, hash_seed=3).double()
    ids = random_ids(2, 30)
    expected = uncached(model, ids)
    logits = run(model.train(), ids, [Pass(10), Pass(1), Pass(19)], record=False)
    assert_close(logits, expected, atol=TOLERANCE, rtol=0)


class Rounded:
    """A float64 model whose modules' results are rounded to float32 once."""

    def __init__(self, model: ReformerHFForCausalLM):
        self.model = model

    def __enter__(self) -> None:
        leaves = [module for module in self.model.modules() if not list(module.children())]
        attention = [layer.attention.self_attention for layer in self.model.reformer.encoder.layers]
        self.hooks = [module.register_forward_hook(self._round) for module in leaves + attention]

    def __exit__(self, *_: object) -> None:
        for hook in self.hooks:
            hook.remove()

    @staticmethod
    def _round(module: nn.Module, inputs: tuple, output: Tensor | tuple) -> Tensor | tuple:
        if isinstance(output, Tensor):
            return output.float().double()
        return (output[0].float().double(), *output[1:])


def spread(error: Tensor) -> float:
    return error.double().square().mean().sqrt().item()


@settings(max_examples=25)
@given(fields=model_fields(*EXACT), rows=row_counts, passes=passes_with_detours(), padding=paddings)
def test_float32_errs_no_more_with_a_cache(fields, rows, passes, padding):
    """Given equal buckets, against float64: at most the uncached error and one more rounding."""
    passes = [*passes, Pass(20), *[Pass(1)] * 4]  # enough tokens to speak of their mean error
    model = build("band", fields).float()
    mask = draw_mask(padding, rows, passes, seed=rows)
    real, ids = mask.bool(), random_ids(*mask.shape)
    decisions = [Decision() for _ in model.config.attn_layers]
    plain = uncached(model, ids, attention_mask=mask, hash_decisions=decisions)[real]
    kinds = model.config.attn_layers
    buckets = [
        decision.recall(lambda: pytest.fail("nothing was decided")) if kind == "lsh" else None
        for kind, decision in zip(kinds, decisions, strict=True)
    ]
    cached = run(model, ids, passes, mask, buckets)[real]
    wide = model.double()

    def exact() -> Tensor:
        given_ids = [decided(ids) for ids in buckets]
        return uncached(wide, ids, attention_mask=mask, hash_decisions=given_ids)[real]

    expected = exact()
    with Rounded(wide):
        rounding = spread(exact() - expected)
    assert 0 < rounding < 1e-3
    assert spread(cached - expected) <= spread(plain - expected) + rounding


def test_tokens_behind_padding_follow_those_of_earlier_passes():
    model = tiny_lm(attn_layers=["lsh", "local", "lsh"], **WITH_NGRAMS).double()
    ids, mask = random_ids(2, 12), torch.ones(2, 12, dtype=torch.int64)
    mask[0, 6:8] = 0
    first = model(ids[:, :6], use_cache=True)
    second = model(ids[:, 6:], attention_mask=mask[:, 6:], past_key_values=first.past_key_values)
    assert_rows_as_alone(model, torch.cat([first.logits, second.logits], dim=1), ids, mask)
