"""Inputs of passes with a cache: whether there is one, where tokens stand, what is refused."""

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from reformer_hf import ReformerHFCache
from reformer_hf.models.cached_inputs import check_room, choose_cache, place_tokens
from tests.models.tiny import random_ids, tiny_config, tiny_encoder, tiny_lm

CONFIG = tiny_config(is_decoder=True)


@pytest.fixture(scope="module")
def model():
    return tiny_lm().double()


def cached(model, length: int = 6, mask: Tensor | None = None) -> ReformerHFCache:
    cache = ReformerHFCache(model.config)
    model(random_ids(2, length), past_key_values=cache, attention_mask=mask)
    return cache


def place(cache: ReformerHFCache, seq: int, mask=None, positions=None, batch: int = 2):
    mask = None if mask is None else torch.tensor(mask)
    positions = None if positions is None else torch.tensor(positions)
    embedded = torch.zeros(batch, seq, CONFIG.hidden_size)
    return place_tokens(CONFIG, cache, embedded, mask, positions)


class TestChoice:
    def test_there_is_none_unless_asked_for(self, model):
        ids = random_ids(2, 5)
        with torch.no_grad():
            assert model(ids).past_key_values is None
        assert model(ids, use_cache=True).past_key_values.get_seq_length() == 5
        assert choose_cache(CONFIG, None, None, None) is None
        assert isinstance(choose_cache(CONFIG, None, True, None), ReformerHFCache)

    def test_a_given_cache_is_taken(self):
        cache = ReformerHFCache(CONFIG)
        for use_cache in (None, False, True):
            assert choose_cache(CONFIG, cache, use_cache, None) is cache

    def test_bidirectional_models_have_none(self):
        encoder = tiny_encoder(is_decoder=False)
        for options in ({"use_cache": True}, {"past_key_values": ReformerHFCache(CONFIG)}):
            with pytest.raises(ValueError, match="with is_decoder=False: only causal"):
                encoder(random_ids(1, 4), **options)

    def test_packed_rows_have_none(self, model):
        ids, seq_idx = random_ids(2, 4), torch.tensor([[0, 0, 1, 1]] * 2)
        for options in ({"use_cache": True}, {"past_key_values": cached(model)}):
            with pytest.raises(ValueError, match="seq_idx with use_cache=True or past_key_values"):
                model(ids, seq_idx=seq_idx, **options)


class TestPlaces:
    """Tokens stand behind the cached ones; padding has no place."""

    def test_without_padding(self, model):
        for mask in (None, [[1] * 3] * 2, [[1] * 9] * 2):
            new, positions = place(cached(model), 3, mask)
            assert new.places.tolist() == [[6, 7, 8]] * 2 and not new.padded
            assert torch.equal(positions, new.places) and new.documents is None

    def test_of_the_first_pass(self):
        cache = ReformerHFCache(CONFIG)
        assert place(cache, 3)[0].places.tolist() == [[0, 1, 2]] * 2
        new, positions = place(cache, 4, [[0, 0, 1, 1], [1, 0, 1, 0]])
        assert new.places.tolist() == [[-1, -1, 0, 1], [0, -1, 1, -1]] and new.padded
        assert positions.tolist() == [[0, 0, 0, 1], [0, 0, 1, 0]]
        assert new.real.tolist() == [[False, False, True, True], [True, False, True, False]]
        assert new.documents is not None
        assert new.documents.tolist() == [[1, 1, 0, 0], [0, 1, 0, 1]]

    def test_behind_padding(self, model):
        before = [[0, 0, 1, 1, 1, 1], [1] * 6]
        cache = cached(model, 6, torch.tensor(before))
        for mask in (None, [[1, 1], [1, 1]], [[*row, 1, 1] for row in before]):
            new, positions = place(cache, 2, mask)
            assert new.places.tolist() == [[4, 5], [6, 7]] and not new.padded
            assert torch.equal(positions, new.places)
        new, positions = place(cache, 3, [[1, 0, 1], [0, 0, 1]])
        assert new.places.tolist() == [[4, -1, 5], [-1, -1, 6]]
        assert positions.tolist() == [[4, 0, 5], [0, 0, 6]]

    def test_given_positions(self, model):
        for positions in ([6, 7], [[6, 7]], [[6, 7]] * 2):
            new, found = place(cached(model), 2, positions=positions)
            assert found.tolist() == [[6, 7]] * 2 and new.places.tolist() == [[6, 7]] * 2
        # At padding any position is fine, also one beyond the limit.
        _, found = place(cached(model), 2, [[1, 1], [0, 1]], [[6, 7], [1000, 6]])
        assert found.tolist() == [[6, 7], [0, 6]]

    def test_whole_and_new_masks_are_one(self, model):
        before = torch.tensor([[0, 0, 1, 1, 1, 1], [1] * 6])
        new = torch.tensor([[1, 0, 1], [1, 1, 1]])
        ids = random_ids(2, 3)
        logits = [
            model(ids, past_key_values=cached(model, 6, before), attention_mask=mask).logits
            for mask in (new, torch.cat([before, new], dim=1), new.bool())
        ]
        assert_close(logits[0], logits[1])
        assert_close(logits[0], logits[2])

    def test_a_row_may_begin_late(self, model):
        """All padding in the first pass; its first token then stands at place 0."""
        ids = random_ids(2, 8)
        cache = ReformerHFCache(model.config)
        mask = torch.tensor([[1] * 8, [0, 0, 0, 0, 1, 1, 1, 1]])
        model(ids[:, :4], past_key_values=cache, attention_mask=mask[:, :4])
        output = model(ids[:, 4:], past_key_values=cache, attention_mask=mask)
        assert_close(output.logits[1], model(ids[1:, 4:], use_cache=False).logits[0])


class TestRefusals:
    @pytest.mark.parametrize("width", [1, 3, 5, 7, 9])
    def test_masks_of_another_shape(self, model, width):
        with pytest.raises(
            ValueError,
            match=rf"attention_mask has shape \(2, {width}\): with 6 cached and 2 new .*\(2, 8\)",
        ):
            place(cached(model), 2, torch.ones(2, width, dtype=torch.int64).tolist())

    def test_masks_of_other_rows(self, model):
        with pytest.raises(ValueError, match=r"attention_mask has shape \(3, 2\)"):
            place(cached(model), 2, [[1, 1]] * 3)

    def test_masks_that_contradict_the_cache(self, model):
        message = r"has \[5, 6\] real tokens among the cached ones, the cache \[6, 6\]"
        with pytest.raises(ValueError, match=message):
            place(cached(model), 2, [[0, *[1] * 7], [1] * 8])
        cache = cached(model, 6, torch.tensor([[0, 1, 1, 1, 1, 1], [1] * 6]))
        with pytest.raises(ValueError, match=r"the cache \[5, 6\]: what was cached cannot"):
            place(cache, 1, [[1] * 7] * 2)

    def test_other_values_in_a_mask(self, model):
        with pytest.raises(ValueError, match="other than 0"):
            mask = torch.full((2, 1), 2)
            model(random_ids(2, 1), past_key_values=cached(model), attention_mask=mask)

    @pytest.mark.parametrize("positions", [[[0, 1]], [[6, 6]], [[7, 6]], [[6, 8]], [[6, 0]]])
    def test_positions_that_begin_another_document(self, model, positions):
        with pytest.raises(ValueError, match="a cache holds one document a row: let them go on"):
            place(cached(model), 2, positions=positions)

    def test_packed_first_passes(self, model):
        with pytest.raises(ValueError, match="position_ids begin another document"):
            positions = torch.tensor([[0, 1, 0, 1]])
            model(random_ids(1, 4), position_ids=positions, use_cache=True)

    def test_positions_of_another_shape_or_kind(self, model):
        with pytest.raises(ValueError, match=r"position_ids has shape \(3, 2\)"):
            place(cached(model), 2, positions=[[6, 7]] * 3)
        with pytest.raises(ValueError, match=r"position_ids has dtype torch.float32"):
            place(cached(model), 2, positions=[[6.0, 7.0]])

    def test_positions_beyond_the_table(self, model):
        cache = cached(model, 90)
        with pytest.raises(ValueError, match="position 96 is outside the 96 positions"):
            place(cache, 7)
        with pytest.raises(ValueError, match="position 96 is outside"):
            place(cache, 1, positions=[[96]])
        assert place(cache, 6)[0].places[0].tolist() == list(range(90, 96))
        padded = cached(model, 90, torch.tensor([[0] * 10 + [1] * 80] * 2))
        assert place(padded, 16)[0].places[0, -1] == 95  # padding takes up no position

    def test_another_number_of_rounds(self, model):
        cache = cached(model)
        with pytest.raises(ValueError, match="num_hashes=3 with a cache that was filled with 2"):
            model(random_ids(2, 1), past_key_values=cache, num_hashes=3)
        model(random_ids(2, 1), past_key_values=cache, num_hashes=2)
        more = ReformerHFCache(model.config)
        model(random_ids(2, 4), past_key_values=more, num_hashes=3)
        with pytest.raises(ValueError, match="num_hashes=2 with a cache that was filled with 3"):
            model(random_ids(2, 1), past_key_values=more, num_hashes=2)
        model(random_ids(2, 1), past_key_values=more)  # of which it goes on with 3
        assert more.get_seq_length() == 5

    def test_other_rows(self, model):
        with pytest.raises(ValueError, match="the input has 1 rows, past_key_values 2"):
            model(random_ids(1, 1), past_key_values=cached(model))

    def test_an_interrupted_pass(self, model, monkeypatch):
        cache = cached(model)
        with monkeypatch.context() as patch:
            patch.setattr(cache.layers[-1], "fetch", None)
            with pytest.raises(TypeError):
                model(random_ids(2, 1), past_key_values=cache)
        with pytest.raises(ValueError, match="a pass that was interrupted"):
            model(random_ids(2, 1), past_key_values=cache)
        cache.reset()
        model(random_ids(2, 1), past_key_values=cache)

    def test_another_dtype(self):
        model = tiny_lm()
        cache = cached(model)
        with pytest.raises(ValueError, match="dtype torch.bfloat16, those of earlier passes"):
            model.bfloat16()(random_ids(2, 1), past_key_values=cache)

    def test_inference_mode_first(self, model):
        ids, cache, plain = random_ids(2, 12), ReformerHFCache(CONFIG), ReformerHFCache(CONFIG)
        with torch.inference_mode():
            model(ids[:, :8], past_key_values=cache)
        model(ids[:, :8], past_key_values=plain)
        with torch.no_grad():
            for place in range(8, 12):
                step = ids[:, place : place + 1]
                logits = model(step, past_key_values=cache).logits
                assert torch.equal(logits, model(step, past_key_values=plain).logits)

    def test_there_is_no_gradient_to_half_of_the_model(self, model):
        ids = random_ids(2, 5)
        assert not model(ids, labels=ids, use_cache=True).loss.requires_grad

    def test_a_refused_pass_leaves_the_cache_as_it_was(self, model):
        cache, ids = cached(model), random_ids(2, 3)
        for options in (
            {"attention_mask": torch.ones(2, 5, dtype=torch.int64)},
            {"position_ids": torch.tensor([[0, 1, 2]])},
            {"num_hashes": 3},
            {"seq_idx": torch.zeros(2, 3, dtype=torch.int64)},
        ):
            with pytest.raises(ValueError):
                model(ids, past_key_values=cache, **options)
        assert cache.get_seq_length() == 6
        expected = model(ids, past_key_values=cached(model)).logits
        assert torch.equal(model(ids, past_key_values=cache).logits, expected)


class TestRoom:
    """Checked before the first token is written; the last one written needs no position."""

    def test_a_prompt_and_what_is_written(self):
        check_room(CONFIG, None, None, prompt_length=90, max_length=96)
        with pytest.raises(ValueError, match="90 tokens and up to 8 are to be written.* needs 97 "):
            check_room(CONFIG, None, None, prompt_length=90, max_length=97)

    def test_padding_takes_up_no_position(self):
        mask = torch.zeros(2, 90, dtype=torch.int64)
        mask[0, 80:], mask[1, 60:] = 1, 1
        check_room(CONFIG, mask, None, prompt_length=90, max_length=156)
        with pytest.raises(ValueError, match="the prompt has 30 tokens.*this model has 96"):
            check_room(CONFIG, mask, None, prompt_length=90, max_length=157)

    def test_given_positions(self):
        positions = torch.arange(50, 60)[None]
        check_room(CONFIG, None, positions, prompt_length=10, max_length=46)
        with pytest.raises(ValueError, match="needs 97 positions"):
            check_room(CONFIG, None, positions, prompt_length=10, max_length=47)

    def test_without_positions_there_is_no_limit(self):
        config = tiny_config(is_decoder=True, position_embedding_type="none")
        check_room(config, None, None, prompt_length=10**6, max_length=10**7)
