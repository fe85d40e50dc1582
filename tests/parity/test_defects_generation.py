"""Generation and causality: one text, one answer, whatever comes later."""

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close
from transformers import DynamicCache

from reformer_hf.nn.reversible import Decision
from tests.parity.defect_models import (
    LENGTH,
    LOCAL_ONLY,
    build_ours,
    build_stock,
    random_ids,
)

GREEDY = {"do_sample": False, "max_new_tokens": 16}


class TestCausality:
    """Later tokens must not reach earlier positions."""

    def moved_before(self, model: nn.Module, place: int) -> Tensor:
        """How far each earlier position moves when the tokens from `place` on change."""
        ids = random_ids(2, LENGTH)
        other = torch.cat([ids[:, :place], random_ids(2, LENGTH - place)], dim=1)
        moved = (model(other).logits - model(ids).logits)[:, :place]
        return moved.detach().abs().amax(dim=-1).flatten()

    @pytest.mark.parametrize("place", [1, 24, 45])
    def test_later_tokens_change_nothing(self, place):
        assert self.moved_before(build_ours(), place).max() < 1e-12

    @pytest.mark.parametrize("seq", [1, 8, 17, 40])
    def test_prefix_alone_has_the_same_logits(self, seq):
        model, ids = build_ours(), random_ids(2, LENGTH)
        assert_close(model(ids[:, :seq]).logits, model(ids).logits[:, :seq])

    def test_stock_later_tokens_move_earlier_positions(self):
        moved = self.moved_before(build_stock(), 40)
        count = int((moved > 1e-3).sum())
        print(f"{count} of {len(moved)} positions, up to {moved.max()}")
        assert count > len(moved) / 2
        assert self.moved_before(build_stock(**LOCAL_ONLY), 40).max() < 1e-5


class TestCache:
    """What `generate` writes must be what the uncached model says."""

    def test_cached_generation_equals_recomputation(self):
        model, ids = build_ours(), random_ids(2, 11)
        written = model.generate(ids, use_cache=True, **GREEDY)
        for seq in range(11, written.shape[1]):
            assert_close(written[:, seq], model(written[:, :seq]).logits[:, -1].argmax(-1))
        assert_close(model.generate(ids, use_cache=False, **GREEDY), written)

    def agreement(self, model: nn.Module) -> float:
        """Tokens that cached and uncached generation have in common."""
        ids = random_ids(4, 24)
        texts = [
            torch.cat([model.generate(row[None], use_cache=cached, **GREEDY) for row in ids])
            for cached in (True, False)
        ]
        return (texts[0] == texts[1])[:, 24:].double().mean().item()

    def test_stock_cached_generation_differs(self):
        agreement = self.agreement(build_stock())
        print(f"{agreement} of the tokens agree")
        assert agreement < 0.9
        assert self.agreement(build_stock(**LOCAL_ONLY)) == 1.0

    def test_continues_from_its_cache(self):
        model, ids = build_ours(), random_ids(1, 20)
        first = model.generate(ids, return_dict_in_generate=True, **GREEDY)
        longer = torch.cat([first.sequences, ids[:, :2]], dim=1)
        cached = model.generate(longer, past_key_values=first.past_key_values, **GREEDY)
        assert_close(cached, model.generate(longer, use_cache=False, **GREEDY))

    def test_cache_of_another_model_is_refused(self):
        model, ids = build_ours(), random_ids(1, 20)
        with pytest.raises(ValueError, match="past_key_values"):
            model(ids, past_key_values=DynamicCache())
        with pytest.raises(ValueError, match="past_key_values"):
            model.generate(ids, past_key_values=DynamicCache(), **GREEDY)

    def test_stock_cannot_continue_from_its_cache(self):
        model, ids = build_stock(), random_ids(1, 20)
        first = model.generate(ids, return_dict_in_generate=True, **GREEDY)
        longer = torch.cat([first.sequences, ids[:, :2]], dim=1)
        with pytest.raises(AttributeError):
            model.generate(longer, past_key_values=first.past_key_values, **GREEDY)
        with pytest.raises(AttributeError):
            model.generate(ids, past_key_values=DynamicCache(), **GREEDY)


class TestRotations:
    """Rotations are private and stay the same outside training."""

    def texts(self, model: nn.Module, do_sample: bool) -> int:
        """Distinct texts of the same prompt from six seeds."""
        ids, texts = random_ids(1, 20), set()
        for seed in range(6):
            torch.manual_seed(seed)
            text = model.generate(ids, do_sample=do_sample, max_new_tokens=12)
            texts.add(tuple(text[0].tolist()))
        return len(texts)

    def test_greedy_text_does_not_depend_on_the_seed(self):
        assert self.texts(build_ours(hash_seed=None), do_sample=False) == 1

    def test_stock_greedy_text_depends_on_the_seed(self):
        distinct = self.texts(build_stock(hash_seed=None), do_sample=False)
        print(f"{distinct} texts from 6 seeds")
        assert distinct > 1

    def test_sampled_text_depends_on_the_seed(self):
        assert self.texts(build_ours(hash_seed=0), do_sample=True) == 6

    def test_stock_hash_seed_fixes_sampling(self):
        distinct = self.texts(build_stock(hash_seed=0), do_sample=True)
        print(f"{distinct} text from 6 seeds")
        assert distinct == 1

    @pytest.mark.parametrize("hash_seed", [None, 5])
    def test_forward_leaves_the_generator(self, hash_seed):
        model, ids = build_ours(hash_seed=hash_seed), random_ids(2, LENGTH)
        before = torch.get_rng_state()
        model(ids)
        assert torch.equal(torch.get_rng_state(), before)

    @pytest.mark.parametrize("hash_seed", [None, 5])
    def test_stock_forward_moves_the_generator(self, hash_seed):
        model, ids = build_stock(hash_seed=hash_seed), random_ids(2, LENGTH)
        before = torch.get_rng_state()
        model(ids)
        assert not torch.equal(torch.get_rng_state(), before)

    def test_tokens_keep_their_buckets(self):
        model, ids = build_ours(hash_seed=None, num_buckets=32), random_ids(2, LENGTH)
        buckets = []
        for seq in (LENGTH, 40):
            decisions = [Decision() for _ in model.config.attn_layers]
            model(ids[:, :seq], hash_decisions=decisions)
            buckets.append([cell.recall(lambda: None) for cell in decisions])
        for layer, kind in enumerate(model.config.attn_layers):
            if kind == "lsh":
                assert torch.equal(buckets[0][layer][..., :40], buckets[1][layer])

    def test_stock_redraws_rotations_at_each_step(self):
        model = build_stock(hash_seed=None, num_buckets=32)
        attention = model.reformer.encoder.layers[1].attention.self_attention
        vectors = torch.randn(4, 2, LENGTH, 16)
        first, second = (attention._hash_vectors(vectors, 2, None) for _ in range(2))
        agreement = (first == second).double().mean().item()
        print(f"{agreement} of the vectors keep their bucket")
        assert agreement < 0.2


class TestModes:
    """Generation from embeddings, assisted and prompt-lookup decoding."""

    def test_generates_from_embeddings(self):
        model, ids = build_ours(), random_ids(2, 20)
        embedded = model.get_input_embeddings()(ids)
        assert_close(
            model.generate(inputs_embeds=embedded, **GREEDY), model.generate(ids, **GREEDY)[:, 20:]
        )

    def test_stock_does_not_generate_from_embeddings(self):
        model = build_stock()
        embedded = model.get_input_embeddings()(random_ids(2, 20))
        with pytest.raises(ValueError, match="inputs_embeds"):
            model.generate(inputs_embeds=embedded, **GREEDY)

    def speculations(self, assistant: nn.Module) -> tuple[dict, dict]:
        """Arguments for assisted and for prompt-lookup decoding."""
        return {"assistant_model": assistant}, {"prompt_lookup_num_tokens": 3}

    def test_speculation_writes_the_same(self):
        model, ids = build_ours(), random_ids(1, 20)
        expected = model.generate(ids, use_cache=False, **GREEDY)
        for options in self.speculations(build_ours()):
            assert_close(model.generate(ids, **options, **GREEDY), expected)

    def test_stock_speculation_fails(self):
        for options in self.speculations(build_stock()):
            with pytest.raises(RuntimeError, match="requires a cache"):
                build_stock().generate(random_ids(1, 20), **options, **GREEDY)

    def test_generation_prints_nothing(self, capsys):
        build_ours().generate(random_ids(1, 20), **GREEDY)
        assert capsys.readouterr().out == ""

    def test_stock_generation_prints_warnings(self, capsys):
        build_stock().generate(random_ids(1, 20), **GREEDY)
        lines = capsys.readouterr().out.count("\n")
        print(f"{lines} lines for 16 tokens")
        assert lines > 16
