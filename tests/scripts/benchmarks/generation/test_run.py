"""One run of the generation benchmark: the models behind their interface, times and bytes."""

import pytest
import torch

from scripts.benchmarks.common.peers import VARIANTS, FullAttention, StockReformer, build
from scripts.benchmarks.generation import run as one_run
from scripts.benchmarks.generation.run import measure
from tests.scripts.benchmarks.generation.tiny_runs import tiny_run
from tests.scripts.benchmarks.tiny import SHAPE


class TestMeasurement:
    @pytest.mark.parametrize("variant", VARIANTS)
    @torch.no_grad()
    def test_the_cache_is_read(self, variant):
        """A step after a prefill gives what a pass over all tokens gives."""
        ids = torch.randint(1, 20, (1, 32))
        subject = build(variant, SHAPE, prefill_tokens=16)
        whole = subject.prefill(ids)
        assert subject.cached_tokens() == 32
        subject.reset()
        subject.prefill(ids[:, :31])
        stepped = subject.forward(ids[:, 31:])
        assert subject.cached_tokens() == 32
        if variant in ("band", "gpt2"):  # the others' steps are defined otherwise
            torch.testing.assert_close(stepped, whole, rtol=1e-4, atol=1e-5)
        else:
            assert stepped.shape == whole.shape

    @pytest.mark.parametrize("peer", [StockReformer, FullAttention])
    @torch.no_grad()
    def test_random_states_have_the_form_of_a_prefill(self, peer):
        ids = torch.randint(1, 20, (2, 64))
        prefilled, random = peer(SHAPE), peer(SHAPE)
        prefilled.prefill(ids)
        random.fill_randomly(2, 64)
        assert random.cached_tokens() == prefilled.cached_tokens() == 64
        assert random.cache_bytes() == prefilled.cache_bytes()
        assert random.forward(ids[:, :1]).isfinite().all()

    @torch.no_grad()
    def test_random_buckets_are_those_of_their_round(self):
        prefilled, random = StockReformer(SHAPE), StockReformer(SHAPE)
        prefilled.prefill(torch.randint(1, 20, (2, 64)))
        random.fill_randomly(2, 64)
        expected, found = prefilled.cache.buckets_cache[1], random.cache.buckets_cache[1]
        assert found.shape == expected.shape and found.dtype == expected.dtype
        for index, ids in enumerate([{0, 1, 2, 3}, {4, 5, 6, 7}]):
            assert set(expected[:, :, index].unique().tolist()) <= ids
            assert set(found[:, :, index].unique().tolist()) == ids

    def test_slow_steps_end_early(self):
        assert (
            measure(*tiny_run(variant="gpt2", steps=50, max_seconds_per_run=0.0), SHAPE)["steps"]
            == 3
        )

    def test_a_cache_of_another_length_is_an_error(self, monkeypatch):
        monkeypatch.setattr(FullAttention, "cached_tokens", lambda self: 66)
        with pytest.raises(RuntimeError, match="66 tokens, not 67"):
            measure(*tiny_run(variant="gpt2"), SHAPE)

    def test_logits_that_are_not_finite_are_an_error(self, monkeypatch):
        subject = build("gpt2", SHAPE, prefill_tokens=16)
        with torch.no_grad():
            subject.model.lm_head.weight.fill_(torch.nan)
        monkeypatch.setattr(one_run, "build", lambda *_: subject)
        with pytest.raises(RuntimeError, match="not finite"):
            measure(*tiny_run(variant="gpt2"), SHAPE)
