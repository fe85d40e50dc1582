"""transformers' cache protocol: choosing rows, taking back, forgetting, offloading."""

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close
from transformers import DynamicCache

from reformer_hf import ReformerHFCache, ReformerHFForCausalLM
from reformer_hf.models.cache_reformer_hf import ReformerHFCacheLayer
from tests.models.tiny import SCOPES, WITH_SRU, random_ids, tiny_lm

KINDS = ["local", "lsh", "full", "lsh"]
PROMPT, MORE = 12, 7


@pytest.fixture(params=SCOPES)
def model(request) -> ReformerHFForCausalLM:
    """A model with all kinds of past in either scope."""
    fields = {"attn_layers": KINDS, "eos_token_id": None, **WITH_SRU}
    return tiny_lm(attention_scope=request.param, **fields).double()


def step(model: ReformerHFForCausalLM, cache, ids: Tensor, mask: Tensor | None = None) -> Tensor:
    with torch.no_grad():
        return model(ids, past_key_values=cache, attention_mask=mask).logits


def prefilled(
    model: ReformerHFForCausalLM, ids: Tensor, mask: Tensor | None = None, record: bool = False
) -> ReformerHFCache:
    """A cache of these tokens."""
    cache = ReformerHFCache(model.config)
    if record:
        cache.activate_past_recording()
    step(model, cache, ids, mask)
    return cache


def padded_rows(*lengths: int) -> tuple[Tensor, Tensor]:
    """Ids and left-padding mask of rows with so many real tokens."""
    width = max(lengths)
    mask = torch.arange(width) >= width - torch.tensor(lengths)[:, None]
    return random_ids(len(lengths), width), mask.long()


def test_length_and_layers(model):
    cache = ReformerHFCache(model.config)
    assert cache.get_seq_length() == 0 and len(cache) == len(KINDS)
    assert cache.used_bytes() == cache.allocated_bytes() == 0
    for length in (5, 6, 30):
        step(model, cache, random_ids(2, length - cache.get_seq_length()))
        assert [layer.get_seq_length() for layer in cache.layers] == [length] * len(KINDS)
        assert cache.get_seq_length(2) == length
        assert cache.get_mask_sizes(3, 0) == (length + 3, 0)
    assert all(isinstance(layer, ReformerHFCacheLayer) for layer in cache.layers)
    assert cache.is_croppable and cache.get_max_length() == -1
    assert isinstance(cache, DynamicCache)


CHANGES = {
    "reorder_cache": ("reorder_cache", torch.tensor([2, 0, 0]), [2, 0, 0]),
    "batch_select_indices": ("batch_select_indices", torch.tensor([2, 1]), [2, 1]),
    "batch_repeat_interleave": ("batch_repeat_interleave", 2, [0, 0, 1, 1, 2, 2]),
}


@pytest.mark.parametrize("method, argument, rows", CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize("roll_back", [False, True])
@pytest.mark.parametrize("padded", [False, True])
def test_choosing_rows_is_as_if_they_had_been_chosen_before(
    model, method, argument, rows, roll_back, padded
):
    ids, mask = padded_rows(5, PROMPT, 9) if padded else (random_ids(3, PROMPT), None)
    cache = prefilled(model, ids, mask, record=roll_back)
    step(model, cache, random_ids(3, 2, seed=1))
    if roll_back:
        step(model, cache, random_ids(3, 1, seed=2))
        step(model, cache, random_ids(3, 30, seed=3))
    getattr(cache, method)(argument)
    if roll_back:
        cache.crop(-31)
    expected = prefilled(model, ids[rows], None if mask is None else mask[rows])
    step(model, expected, random_ids(3, 2, seed=1)[rows])
    more = random_ids(len(rows), MORE, seed=4)
    assert_close(step(model, cache, more), step(model, expected, more))
    if mask is not None:  # the number of padding tokens went along
        whole = torch.cat([mask[rows], torch.ones(len(rows), 2 + MORE + 1, dtype=torch.int64)], 1)
        step(model, cache, more[:, :1], whole)


def test_reset(model):
    ids, mask = padded_rows(5, PROMPT)
    cache = prefilled(model, ids, mask)
    step(model, cache, random_ids(2, 3))
    cache.reset()
    assert cache.get_seq_length() == 0 and cache.used_bytes() == 0
    fresh = ReformerHFCache(model.config)
    for tokens in (random_ids(3, 8), random_ids(3, 2)):  # of another batch size, without padding
        assert torch.equal(step(model, cache, tokens), step(model, fresh, tokens))


CROPS = [("band", count) for count in (1, MORE - 1, MORE, MORE + 1, MORE + PROMPT - 1)]
# The chunk scope's first pass is cut as a whole: a part of it is not a shorter first pass.
CROPS += [("chunk", count) for count in (1, MORE - 1, MORE)]


@pytest.mark.parametrize("scope, count", CROPS)
def test_crop_is_as_if_the_tokens_had_never_been(scope, count):
    model = tiny_lm(attention_scope=scope, attn_layers=KINDS).double()
    ids = random_ids(2, PROMPT + MORE)
    cache = prefilled(model, ids[:, :PROMPT], record=True)
    step(model, cache, ids[:, PROMPT:])
    cache.crop(-count)
    left = PROMPT + MORE - count
    assert [layer.get_seq_length() for layer in cache.layers] == [left] * len(KINDS)
    expected = prefilled(model, ids[:, : min(PROMPT, left)])
    if left > PROMPT:
        step(model, expected, ids[:, PROMPT:left])
    more = random_ids(2, 5, seed=1)
    assert_close(step(model, cache, more), step(model, expected, more))


def test_crop_again_and_again(model):
    """As in assisted decoding: each pass is recorded, and each crop takes back some of it."""
    cache, kept = prefilled(model, random_ids(2, PROMPT), record=True), [random_ids(2, PROMPT)]
    for turn in range(6):
        tokens = random_ids(2, 5, seed=turn)
        step(model, cache, tokens)
        cache.crop(-(turn % 5))
        kept.append(tokens[:, : 5 - turn % 5])
    expected = prefilled(model, kept[0])
    for tokens in kept[1:]:
        step(model, expected, tokens)
    more = random_ids(2, 3)
    assert_close(step(model, cache, more), step(model, expected, more))


@pytest.mark.parametrize("record", [False, True])
def test_crop_of_all_tokens_empties_the_cache(model, record):
    cache = prefilled(model, *padded_rows(5, PROMPT), record=record)
    cache.crop(-PROMPT)
    assert cache.get_seq_length() == 0 and cache.used_bytes() == 0
    tokens = random_ids(2, 6)
    expected = step(model, ReformerHFCache(model.config), tokens)
    assert torch.equal(step(model, cache, tokens), expected)


def test_crop_of_nothing(model):
    ReformerHFCache(model.config).crop(0)
    tokens, more = random_ids(2, PROMPT), random_ids(2, 3)
    cache = prefilled(model, tokens)
    cache.crop(0)
    assert_close(step(model, cache, more), step(model, prefilled(model, tokens), more))


class TestRefusedCrops:
    """Each leaves all layers as they were."""

    def check(self, model, cache, expected, count, error, message):
        before = cache.get_seq_length()
        with pytest.raises(error, match=message):
            cache.crop(count)
        assert [layer.get_seq_length() for layer in cache.layers] == [before] * len(KINDS)
        more = random_ids(2, MORE, seed=5)
        assert_close(step(model, cache, more), step(model, expected, more))

    @pytest.mark.parametrize("count", [1, PROMPT, -PROMPT - 1])
    def test_of_an_impossible_number(self, model, count):
        cache, expected = (prefilled(model, random_ids(2, PROMPT)) for _ in range(2))
        message = rf"crop\({count}\): give minus the number.*of the {PROMPT}"
        self.check(model, cache, expected, count, ValueError, message)

    def test_of_an_empty_cache(self, model):
        with pytest.raises(ValueError, match="of the 0 that there are"):
            ReformerHFCache(model.config).crop(-1)

    def test_of_what_was_not_recorded(self):
        model = tiny_lm(attn_layers=["full", "lsh", "local", "full"]).double()
        cache, expected = (prefilled(model, random_ids(2, PROMPT)) for _ in range(2))
        message = r"crop\(-1\): .*call activate_past_recording\(\)"
        self.check(model, cache, expected, -1, RuntimeError, message)

    @pytest.mark.parametrize("turn", ["before", "after a crop"])
    def test_beyond_what_was_recorded(self, turn):
        model = tiny_lm(attn_layers=KINDS).double()
        caches = [prefilled(model, random_ids(2, PROMPT)) for _ in range(2)]
        caches[0].activate_past_recording()
        for cache in caches:
            step(model, cache, random_ids(2, 3))
            if turn == "after a crop":
                cache.crop(0)
        count = -4 if turn == "before" else -1
        self.check(model, *caches, count, RuntimeError, "activate_past_recording")

    def test_of_what_a_local_layer_forgot(self):
        model = tiny_lm(
            attn_layers=["full", "local", "full", "full"], position_embedding_type="none"
        ).double()
        cache, expected = (prefilled(model, random_ids(2, 200)) for _ in range(2))
        self.check(model, cache, expected, -1, RuntimeError, "activate_past_recording")

    @pytest.mark.parametrize("count", [-8, -PROMPT])
    def test_across_padding(self, model, count):
        rows = padded_rows(5, PROMPT)
        cache, expected = prefilled(model, *rows, record=True), prefilled(model, *rows)
        for one in (cache, expected):
            step(model, one, random_ids(2, 2))
        message = rf"crop\({count}\): only 7 tokens came after the last padding"
        self.check(model, cache, expected, count, RuntimeError, message)

    def test_across_padding_after_a_crop(self, model):
        rows = padded_rows(5, PROMPT)
        cache, expected = prefilled(model, *rows, record=True), prefilled(model, *rows)
        step(model, cache, random_ids(2, 6))
        cache.crop(-4)
        step(model, expected, random_ids(2, 6)[:, :2])
        self.check(model, cache, expected, -8, RuntimeError, "only 7 tokens came after")

    def test_left_padding_is_no_obstacle_to_the_tokens_behind_it(self):
        model = tiny_lm(attention_scope="band").double()
        rows = padded_rows(5, PROMPT)
        cache = prefilled(model, *rows, record=True)
        cache.crop(-3)
        expected = prefilled(model, *(tensor[:, :-3] for tensor in rows))
        more = random_ids(2, MORE)
        assert_close(step(model, cache, more), step(model, expected, more))


class TestOffloading:
    def test_it_changes_nothing(self, model):
        caches = [ReformerHFCache(model.config, offloading=offload) for offload in (False, True)]
        rows = padded_rows(5, PROMPT)
        for cache in caches:
            cache.activate_past_recording()
            step(model, cache, *rows)
            step(model, cache, random_ids(2, 1))
            step(model, cache, random_ids(2, 25))
            cache.reorder_cache(torch.tensor([1, 1]))
            cache.crop(-25)
        more = random_ids(2, MORE)
        assert torch.equal(*(step(model, cache, more) for cache in caches))

    def test_layers_rest_on_the_cpu_and_come_back(self, model):
        cache = prefilled(model, random_ids(2, PROMPT))
        layer = cache.layers[1]
        layer.offload()
        assert layer.device == torch.device("cpu")  # where it belongs
        layer.offload()
        layer.prefetch()
        assert layer.device is None
        layer.prefetch()
        expected = prefilled(model, random_ids(2, PROMPT))
        more = random_ids(2, 2)
        assert torch.equal(step(model, cache, more), step(model, expected, more))


class TestOtherCaches:
    @pytest.mark.parametrize("fields", [{"attn_layers": ["lsh"]}, {"attn_layers": KINDS + KINDS}])
    def test_of_another_model(self, model, fields):
        other = ReformerHFCache(tiny_lm(**fields).config)
        with pytest.raises(ValueError, match=r"past_key_values is a ReformerHFCache that does not"):
            step(model, other, random_ids(1, 2))

    def test_of_transformers(self, model):
        for other in (DynamicCache(), ((torch.zeros(1), torch.zeros(1)),) * 4):
            with pytest.raises(ValueError, match=r"give reformer_hf.ReformerHFCache\(model.config"):
                step(model, other, random_ids(1, 2))

    def test_layers_are_filled_by_the_model_only(self, model):
        cache = ReformerHFCache(model.config)
        with pytest.raises(TypeError, match="filled by its own layers only"):
            cache.update(torch.zeros(1, 2, 3, 8), torch.zeros(1, 2, 3, 8), 0)


class TestKeysAndValues:
    """What other tools read of a layer."""

    def test_they_are_those_of_the_tokens_in_order(self, model):
        ids = random_ids(2, PROMPT)
        cache = prefilled(model, ids[:, :9])
        assert ReformerHFCache(model.config).layers[0].keys is None
        step(model, cache, ids[:, 9:])
        whole = prefilled(model, ids)
        for layer, other in zip(cache.layers, whole.layers, strict=True):
            kept = layer.keys.shape[2]
            assert layer.keys.shape == layer.values.shape == (2, 2, kept, 8)
            assert kept == (PROMPT if layer is not cache.layers[0] else min(kept, PROMPT))
            atol = 1e-9 if model.config.attention_scope == "band" else 9.0  # not strictly causal
            assert_close(layer.keys, other.keys[:, :, -kept:], rtol=0, atol=atol)
        attention = model.reformer.encoder.layers[0].attention
        first = model.reformer.embeddings(
            model.reformer.embeddings.word_embeddings(ids), torch.arange(PROMPT).expand(2, -1)
        )
        normalised = attention.layer_norm(first)
        kept = cache.layers[0].keys.shape[2]
        for name in ("key", "value"):
            projected = getattr(attention.self_attention, name)(normalised)
            expected = projected.unflatten(-1, (2, 8)).transpose(1, 2)[:, :, -kept:]
            assert_close(getattr(cache.layers[0], f"{name}s"), expected)

    def test_a_local_layer_has_what_can_still_be_seen(self):
        model = tiny_lm(attn_layers=["local", "full"], position_embedding_type="none").double()
        cache = prefilled(model, random_ids(2, 90))
        assert [layer.keys.shape[2] for layer in cache.layers] == [4, 90]
        assert [layer.get_seq_length() for layer in cache.layers] == [90, 90]
        cache = ReformerHFCache(model.config)
        cache.activate_past_recording()
        step(model, cache, random_ids(2, 90))
        assert cache.layers[0].keys.shape[2] >= 4

    def test_they_follow_rows_crops_and_resets(self, model):
        cache = prefilled(model, random_ids(3, PROMPT), record=True)
        before = cache.layers[2].values.clone()
        cache.crop(-2)
        cache.reorder_cache(torch.tensor([2, 0, 1]))
        assert torch.equal(cache.layers[2].values, before[[2, 0, 1], :, :-2])
        assert cache.batch_size == 3 and cache.is_initialized and not cache.is_compileable
        for layer, (keys, values, _) in zip(cache.layers, cache, strict=True):  # as transformers'
            assert torch.equal(keys, layer.keys) and torch.equal(values, layer.values)
        cache.layers[2].offload()
        assert torch.equal(cache.layers[2].values, before[[2, 0, 1], :, :-2])
        cache.reset()
        assert cache.layers[2].values is None and cache.batch_size == -1

    def test_they_cannot_be_set(self, model):
        with pytest.raises(AttributeError):
            ReformerHFCache(model.config).layers[0].keys = torch.zeros(1, 2, 3, 8)
