"""generate() from a cache that an earlier call returned, and prefill in blocks."""

from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close
from transformers import DynamicCache

from reformer_hf import ReformerHFCache, ReformerHFForCausalLM
from tests.models.generation_loops import (
    MODELS,
    NEW,
    all_real,
    build_model,
    cached_greedy_loop,
    greedy_loop,
    pad_left,
    some_rows,
)
from tests.models.tiny import random_ids

GREEDY = {"do_sample": False, "max_new_tokens": NEW}


@pytest.fixture(params=MODELS)
def model(request) -> ReformerHFForCausalLM:
    return build_model(request.param)


def write(model: ReformerHFForCausalLM, batch: dict[str, Tensor], **options: Any) -> Any:
    return model.generate(**batch, **{**GREEDY, **options}, return_dict_in_generate=True)


def extend(batch: dict[str, Tensor], text: Tensor, new: Tensor) -> dict[str, Tensor]:
    """Arguments for a text that was written, with further prompt tokens."""
    ids = torch.cat([text, new], dim=1)
    mask = torch.ones_like(ids)
    mask[:, : batch["input_ids"].shape[1]] = batch["attention_mask"]
    return {"input_ids": ids, "attention_mask": mask}


class TestContinuing:
    @pytest.mark.parametrize("lengths", [(14,), (20, 3, 14)])
    def test_turn_after_turn(self, model, lengths):
        batch, cache = pad_left(some_rows(*lengths)), None
        for turn in range(4):
            expected = write(model, batch).sequences
            written = write(model, batch, past_key_values=cache)
            assert torch.equal(written.sequences, expected)
            cache = written.past_key_values
            assert cache.get_seq_length() == expected.shape[1] - 1
            batch = extend(batch, expected, random_ids(len(lengths), turn, seed=turn))

    def test_new_tokens_alone_with_the_mask_of_all(self, model):
        first = pad_left(some_rows(14, 5))
        cache = write(model, first).past_key_values
        longer = extend(first, write(model, first).sequences, random_ids(2, 4))
        expected = write(model, longer).sequences
        new = {**longer, "input_ids": longer["input_ids"][:, cache.get_seq_length() :]}
        written = write(model, new, past_key_values=cache).sequences
        assert torch.equal(written[:, -NEW:], expected[:, -NEW:])

    def test_embedded_tokens(self, model):
        ids, embed = random_ids(2, 22), model.get_input_embeddings()
        cache = write(model, all_real(ids[:, :9]), max_new_tokens=1).past_key_values
        written = model.generate(inputs_embeds=embed(ids), past_key_values=cache, **GREEDY)
        assert torch.equal(written, greedy_loop(model, ids)[:, 22:])

    @pytest.mark.parametrize("cache_class", [ReformerHFCache, DynamicCache])
    def test_one_prefix_for_many_prompts(self, model, cache_class):
        prefix = random_ids(1, 17)
        cache = cache_class(config=model.config)
        with torch.no_grad():
            model(prefix, past_key_values=cache)
        for seed in range(3):
            ids = torch.cat([prefix, random_ids(1, seed + 2, seed=seed)], dim=1)
            written = model.generate(ids, past_key_values=deepcopy(cache), **GREEDY)
            assert torch.equal(written, greedy_loop(model, ids))
        assert cache.get_seq_length() == 17

    @pytest.mark.parametrize("mode", [{"num_beams": 3}, {"do_sample": True}])
    def test_several_texts_from_repeated_rows(self, model, mode):
        ids, texts = random_ids(2, 15), []
        with torch.no_grad():
            cache = model(ids[:, :9], use_cache=True).past_key_values
        cache.batch_repeat_interleave(3)
        options = {**GREEDY, **mode, "num_return_sequences": 3}
        for past in (cache, None):
            torch.manual_seed(1)
            texts.append(model.generate(ids, past_key_values=past, **options))
        assert torch.equal(*texts)

    def test_after_speculation(self, model):
        ids = random_ids(1, 15)
        written = write(model, all_real(ids), prompt_lookup_num_tokens=3)
        longer = torch.cat([written.sequences, random_ids(1, 3)], dim=1)
        again = model.generate(longer, past_key_values=written.past_key_values, **GREEDY)
        assert torch.equal(again, greedy_loop(model, longer))

    def test_in_the_chunk_scope_the_text_goes_on_as_if_it_had_not_paused(self):
        model = build_model("chunk", attn_layers=["lsh", "local", "lsh"])
        ids = random_ids(2, 15)
        first = write(model, all_real(ids))
        second = write(model, all_real(first.sequences), past_key_values=first.past_key_values)
        assert torch.equal(second.sequences, cached_greedy_loop(model, ids, 2 * NEW))


class TestPrefillInBlocks:
    @pytest.mark.parametrize("size", [1, 7, 50, 69, 200])
    @pytest.mark.parametrize("name", ["band", "band, all options"])
    def test_blocks_change_nothing(self, name, size):
        model, batch = build_model(name), pad_left(some_rows(70, 3, 51))
        records = {"output_logits": True}
        expected = write(model, batch, **records)
        actual = write(model, batch, prefill_chunk_size=size, **records)
        assert torch.equal(actual.sequences, expected.sequences)
        for mine, theirs in zip(actual.logits, expected.logits, strict=True):
            assert_close(mine, theirs)

    @pytest.mark.parametrize("mode", [{"num_beams": 3}, {"num_return_sequences": 2}])
    def test_with_several_texts_per_prompt(self, mode):
        model, batch = build_model("band"), pad_left(some_rows(40, 11))
        texts = []
        for size in (None, 7):
            torch.manual_seed(1)
            options = {"prefill_chunk_size": size, "max_new_tokens": NEW, "do_sample": True}
            texts.append(model.generate(**batch, **mode, **options))
        assert torch.equal(*texts)

    def test_of_what_a_cache_does_not_hold_yet(self):
        model, ids = build_model("band"), random_ids(2, 60)
        cache = write(model, all_real(ids[:, :20]), max_new_tokens=1).past_key_values
        written = model.generate(ids, past_key_values=cache, prefill_chunk_size=9, **GREEDY)
        assert torch.equal(written, greedy_loop(model, ids))

    def test_a_long_prompt_in_bounded_blocks(self):
        model = build_model("band", position_embedding_type="none", num_buckets=16)
        ids, passes = random_ids(1, 3000), []
        expected = model.generate(ids, **GREEDY)
        model.register_forward_pre_hook(
            lambda _, __, inputs: passes.append(inputs["input_ids"].shape[1]), with_kwargs=True
        )
        assert torch.equal(model.generate(ids, prefill_chunk_size=256, **GREEDY), expected)
        assert passes == [256] * 11 + [184] + [1] * (NEW - 1)

    def test_without_lsh_layers_the_chunk_scope_has_them_too(self):
        model = build_model("chunk", attn_layers=["local", "full"])
        ids = random_ids(2, 43)
        written = model.generate(ids, prefill_chunk_size=7, **GREEDY)
        assert torch.equal(written, greedy_loop(model, ids))


@pytest.mark.parametrize("implementation", [None, "dynamic", "offloaded"])
def test_cache_implementations(model, implementation):
    batch = pad_left(some_rows(20, 3, 14))
    written = write(model, batch, cache_implementation=implementation)
    assert torch.equal(written.sequences, write(model, batch).sequences)
    assert isinstance(written.past_key_values, ReformerHFCache)
    assert written.past_key_values.offload_between_layers == (implementation == "offloaded")
