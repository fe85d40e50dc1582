"""Batches: rows must not see each other, and padding must change nothing."""

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from tests.parity.defect_models import build_ours, build_stock, largest, random_ids

SCOPES = pytest.mark.parametrize("scope", ["band", "chunk"])

MODES = {
    "greedy": {"do_sample": False},
    "beams": {"do_sample": False, "num_beams": 3, "num_return_sequences": 2},
}


def pad(rows: list[Tensor], side: str, token: int = 0) -> dict[str, Tensor]:
    """One batch of rows of any lengths."""
    seq = max(map(len, rows))
    ids = torch.full((len(rows), seq), token)
    mask = torch.zeros(len(rows), seq, dtype=torch.long)
    for index, row in enumerate(rows):
        place = slice(seq - len(row), None) if side == "left" else slice(0, len(row))
        ids[index, place], mask[index, place] = row, 1
    return {"input_ids": ids, "attention_mask": mask}


def rows_of(*lengths: int) -> list[Tensor]:
    return [random_ids(1, length)[0] for length in lengths]


class TestRowsInGeneration:
    """A request in a batch must get the answer that it gets alone."""

    @pytest.mark.parametrize("mode", MODES)
    @SCOPES
    def test_each_row_generates_as_if_alone(self, mode, scope):
        model = build_ours(attention_scope=scope)
        rows, options = rows_of(20, 9, 17), {"max_new_tokens": 8, **MODES[mode]}
        batch = model.generate(**pad(rows, "left"), **options)[:, 20:].unflatten(0, (3, -1))
        for row, together in zip(rows, batch, strict=True):
            assert_close(model.generate(row[None], **options)[:, len(row) :], together)

    def test_other_rows_do_not_reach_a_row(self):
        model = build_ours()
        ids, other = random_ids(2, 25), random_ids(1, 25)
        swapped = torch.cat([other, ids[1:]])
        assert_close(model(swapped).logits[1], model(ids).logits[1])

    @SCOPES
    def test_row_0_does_not_move_row_1_of_a_cached_step(self, scope):
        model = build_ours(attention_scope=scope)
        ids, other = random_ids(2, 32), random_ids(1, 32)

        def step(prompts: Tensor) -> Tensor:
            cache = model(prompts[:, :-1], use_cache=True).past_key_values
            return model(prompts[:, -1:], past_key_values=cache).logits[-1]

        logits = step(ids)
        assert_close(step(torch.cat([other, ids[1:]])), logits)
        assert_close(step(ids[1:]), logits)

    def test_stock_rows_generate_otherwise_than_alone(self):
        model = build_stock()
        ids, options = random_ids(4, 24), {"max_new_tokens": 16, "do_sample": False}
        batch = model.generate(ids, **options)[:, 24:]
        alone = torch.cat([model.generate(row[None], **options)[:, 24:] for row in ids])
        agreement = (batch == alone).double().mean(dim=1).tolist()
        print(agreement)
        assert agreement[0] == 1.0
        assert max(agreement[1:]) < 1.0

    def test_stock_row_0_moves_row_1(self):
        model = build_stock()
        ids, other = random_ids(2, 32), random_ids(1, 32)

        def step(prompts: Tensor) -> Tensor:
            cache = model(prompts[:, :-1], use_cache=True).past_buckets_states
            return model(prompts[:, -1:], past_buckets_states=cache, use_cache=True).logits[1]

        logits = step(ids)
        moved = largest(step(torch.cat([other, ids[1:]])) - logits)
        print(f"{moved}, logit std {logits.std().item()}")
        assert moved > 0.1


class TestPadding:
    """The side and amount of padding must not change real tokens."""

    @pytest.mark.parametrize("side", ["left", "right"])
    @SCOPES
    def test_padding_changes_nothing(self, side, scope):
        model = build_ours(attention_scope=scope)
        rows = rows_of(44, 9, 25, 1)
        batch = pad(rows, side)
        logits = model(**batch).logits[batch["attention_mask"].bool()].split([44, 9, 25, 1])
        for row, padded in zip(rows, logits, strict=True):
            assert_close(padded, model(row[None]).logits[0])

    @pytest.mark.parametrize("side", ["left", "right"])
    @SCOPES
    def test_padding_does_not_train(self, side, scope):
        model = build_ours(attention_scope=scope)
        (row,) = rows_of(29)
        batch = {name: value[1:] for name, value in pad([torch.zeros(45), row], side).items()}
        labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
        alone = model(row[None], labels=row[None]).loss
        assert_close(model(**batch, labels=labels).loss, alone)

    @pytest.mark.parametrize("side", ["left", "right"])
    @SCOPES
    def test_content_of_padding_is_not_read(self, side, scope):
        model = build_ours(attention_scope=scope)
        rows = rows_of(44, 25)
        real = pad(rows, side)["attention_mask"].bool()
        logits = [model(**pad(rows, side, token)).logits[real] for token in (0, 7)]
        assert_close(*logits)

    def moved_by_padding(self, model: nn.Module, side: str) -> tuple[Tensor, Tensor]:
        """Logits of a row of 32 tokens, and of the same row padded to 64."""
        (row,) = rows_of(32)
        batch = {name: value[1:] for name, value in pad([torch.zeros(64), row], side).items()}
        alone = model(row[None]).logits[0]
        return alone, model(**batch).logits[batch["attention_mask"].bool()]

    def test_stock_right_padding_moves_real_tokens(self):
        alone, padded = self.moved_by_padding(build_stock(), "right")
        moved = int(((padded - alone).abs().amax(dim=-1) > 1e-3).sum())
        print(f"{moved} of 32 positions, up to {largest(padded - alone)}")
        assert moved > 0

    def test_stock_left_padding_moves_real_tokens(self):
        alone, padded = self.moved_by_padding(build_stock(), "left")
        agreement = (padded.argmax(-1) == alone.argmax(-1)).double().mean().item()
        print(f"argmax agreement {agreement}")
        assert agreement < 0.9

    def test_generation_respects_the_attention_mask(self):
        model = build_ours()
        rows, options = rows_of(20, 9), {"max_new_tokens": 12, "do_sample": False}
        texts = [model.generate(**pad(rows, "left", token), **options) for token in (0, 7)]
        assert_close(texts[0][:, 20:], texts[1][:, 20:])

    def test_stock_generation_drops_the_attention_mask(self):
        model = build_stock(attn_layers=["local"] * 4)
        rows, options = rows_of(20, 9), {"max_new_tokens": 12, "do_sample": False}
        texts = [model.generate(**pad(rows, "left", token), **options)[1, 20:] for token in (0, 7)]
        same = (texts[0] == texts[1]).double().mean().item()
        print(f"{same} of the tokens stay")
        assert same < 1.0
