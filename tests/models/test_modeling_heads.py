"""Masked language model, classes of tokens, answers: losses, refusals, published weights."""

import math

import pytest
import torch
from torch.nn.functional import cross_entropy
from torch.testing import assert_close
from transformers import ReformerForMaskedLM, ReformerForQuestionAnswering

from reformer_hf import (
    ReformerHFForCausalLM,
    ReformerHFForMaskedLM,
    ReformerHFForQuestionAnswering,
)
from tests.models.heads import HEADS, scores
from tests.models.tiny import (
    SCOPES,
    dropout_fields,
    loss_and_gradients,
    random_ids,
    tiny_config,
)
from tests.parity.published_models import TINY, build_stock, inject_rotations

IDS = random_ids(2, 13)
MLM, TOKENS, ANSWERS = (
    HEADS[name] for name in ("masked language model", "token classification", "question answering")
)


class TestMaskedLM:
    def test_the_loss_is_that_of_the_masked_places_themselves(self):
        labels = IDS.masked_fill(torch.rand(IDS.shape) < 0.7, -100)
        for chunk_size in (0, 1, 4, 100):
            model = MLM.build(chunk_size_lm_head=chunk_size).double()
            logits = model(IDS).logits.flatten(0, 1)
            summed = cross_entropy(logits, labels.flatten(), reduction="sum")
            for training in (False, True):
                model.train(training)
                model.config.redraw_rotations = False
                for items in (None, 7, torch.tensor(7)):
                    output = model(IDS, labels=labels, num_items_in_batch=items)
                    divisor = int((labels != -100).sum()) if items is None else 7
                    assert_close(output.loss.double(), summed / divisor, rtol=1e-5, atol=1e-6)
                    assert (output.logits is None) is (training and chunk_size > 0)

    @pytest.mark.parametrize("scope", SCOPES)
    def test_a_chunked_loss_has_the_gradients_of_a_whole_one(self, scope):
        results = []
        for chunk_size in (0, 5):
            fields = {"attention_scope": scope, **dropout_fields()}
            model = MLM.build(chunk_size_lm_head=chunk_size, **fields).double().train()
            # That of the last hidden state is drawn for each chunk.
            model.reformer.encoder.dropout.p = 0.0
            torch.manual_seed(3)
            results.append(loss_and_gradients(model, **MLM.batch(3, 13)))
        (_, whole), (_, chunked) = results
        assert len(whole) == len(list(model.parameters()))
        for name, gradient in whole.items():
            assert_close(chunked[name], gradient, rtol=1e-4, atol=1e-7)

    def test_no_chunk_holds_more_logits_than_asked_for(self):
        model = MLM.build(chunk_size_lm_head=4).train()
        shapes = []
        model.lm_head.register_forward_hook(lambda module, args, out: shapes.append(out.shape))
        model(IDS, labels=IDS).loss.backward()
        assert {shape[1] for shape in shapes} == {4, 1}
        assert len(shapes) == 2 * math.ceil(13 / 4)  # forward, and again in backward

    def test_every_place_sees_both_sides(self):
        model = MLM.build().double()
        for place in (0, 12):
            changed = IDS.clone()
            changed[:, place] = (changed[:, place] + 1 - 2) % 38 + 2
            moved = (model(changed).logits - model(IDS).logits).abs().amax(dim=(0, 2)) > 1e-9
            assert moved[place] and moved.sum() > 3

    def test_a_causal_configuration_is_refused(self):
        with pytest.raises(ValueError, match=r"is_decoder=True.*is_decoder to False"):
            ReformerHFForMaskedLM(tiny_config(is_decoder=True))
        assert ReformerHFForMaskedLM(tiny_config()).config.is_decoder is False
        with pytest.raises(ValueError, match="is_decoder=False"):
            ReformerHFForCausalLM(ReformerHFForMaskedLM(tiny_config()).config)

    def test_resizing_the_vocabulary_adds_a_mask_token(self, tmp_path):
        model = MLM.build()
        with torch.no_grad():
            before = model(IDS).logits
        model.resize_token_embeddings(41)
        assert model.lm_head.bias.shape == (41,) and model.config.vocab_size == 41
        assert_close(model(IDS).logits[..., :40], before)
        masked = IDS.clone()
        masked[:, 3] = 40
        model(masked, labels=IDS).loss.backward()
        model.save_pretrained(tmp_path)
        loaded = ReformerHFForMaskedLM.from_pretrained(tmp_path)
        assert torch.equal(loaded(masked).logits, model(masked).logits)


BAD_LABELS = {
    "too short": (IDS[:, :5], ["labels", "(2, 5)", "(2, 13)"]),
    "too high": (IDS + 38, ["labels", "-100"]),
    "another ignored label": (torch.full_like(IDS, -1), ["labels has -1", "-100"]),
    "floats": (IDS.float(), ["labels", "float32", "torch.int64"]),
}


@pytest.mark.parametrize("case", BAD_LABELS)
@pytest.mark.parametrize(("head", "limit"), [(MLM, "vocab_size=40"), (TOKENS, "num_labels=5")])
def test_bad_labels_of_tokens_are_refused(head, limit, case):
    labels, words = BAD_LABELS[case]
    with pytest.raises(ValueError) as raised:
        head.build()(IDS, labels=labels)
    assert all(word in str(raised.value) for word in words)
    assert limit in str(raised.value) or case in ("too short", "floats")


def test_the_loss_of_token_classification():
    model = TOKENS.build()
    labels = (IDS % 5).masked_fill(torch.rand(IDS.shape) < 0.3, -100)
    output = model(IDS, labels=labels)
    logits = output.logits.flatten(0, 1)
    assert_close(output.loss, cross_entropy(logits, labels.flatten()))
    summed = cross_entropy(logits, labels.flatten(), reduction="sum")
    assert_close(model(IDS, labels=labels, num_items_in_batch=50).loss, summed / 50)


class TestQuestionAnswering:
    def test_the_loss_is_the_mean_of_both_places(self):
        model = ANSWERS.build().double()
        starts, ends = torch.tensor([2, 0]), torch.tensor([4, 12])
        output = model(IDS, start_positions=starts, end_positions=ends[:, None])
        expected = cross_entropy(output.start_logits, starts)
        expected = (expected + cross_entropy(output.end_logits, ends)) / 2
        assert_close(output.loss, expected)

    def test_rows_without_an_answer_have_no_loss(self):
        model = ANSWERS.build().double()
        none = torch.tensor([-100, -100])
        starts, ends = torch.tensor([2, -100]), torch.tensor([4, -100])
        loss = model(IDS, start_positions=starts, end_positions=ends).loss
        alone = model(IDS[:1], start_positions=starts[:1], end_positions=ends[:1]).loss
        assert_close(loss, alone)
        model.zero_grad()
        loss = model(IDS, start_positions=none, end_positions=none).loss
        assert loss == 0
        loss.backward()
        assert not model.qa_outputs.weight.grad.any()

    def test_no_answer_is_in_the_padding(self):
        mask = (torch.arange(13) < torch.tensor([[13], [6]])).long()
        output = ANSWERS.build()(IDS, attention_mask=mask)
        for logits in (output.start_logits, output.end_logits):
            assert (logits[1, 6:] < -1e30).all() and logits[1, :6].abs().max() < 1e3
            assert logits.softmax(dim=-1)[1, 6:].sum() == 0

    @pytest.mark.parametrize(
        ("places", "words"),
        [
            (torch.tensor([3, 13]), ["13 in row 1", "13 places"]),
            (torch.tensor([3, -1]), ["-1 in row 1"]),
            (torch.tensor([3, 8]), ["8 in row 1"]),  # which is padding
            (torch.tensor([3]), ["(1,)", "(2,)"]),
            (torch.tensor([3.0, 4.0]), ["float32"]),
        ],
    )
    def test_bad_places_are_refused(self, places, words):
        model, good = ANSWERS.build(), torch.tensor([1, 2])
        mask = (torch.arange(13) < torch.tensor([[13], [6]])).long()
        for name, other in (("start_positions", "end_positions"), ("end_positions",) * 2):
            arguments = {"start_positions": good, "end_positions": good, name: places}
            with pytest.raises(ValueError) as raised:
                model(IDS, attention_mask=mask, **arguments)
            assert all(word in str(raised.value) for word in [name, *words]), other
        with pytest.raises(ValueError, match="both of start_positions and end_positions"):
            model(IDS, start_positions=good)


@pytest.mark.parametrize(
    ("stock_class", "own_class"),
    [
        (ReformerForMaskedLM, ReformerHFForMaskedLM),
        (ReformerForQuestionAnswering, ReformerHFForQuestionAnswering),
    ],
)
def test_published_weights_give_the_same_logits(stock_class, own_class, tmp_path):
    # transformers' bidirectional local layers wrap around, ours do not: here they see their own
    # chunk only.
    fields = {**TINY, "is_decoder": False, "local_num_chunks_before": 0}
    stock = build_stock(fields, torch.float64, stock_class)
    stock.save_pretrained(tmp_path)
    own, report = own_class.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    assert (own.config.attention_scope, own.config.is_decoder) == ("chunk", False)
    assert own.dtype == torch.float64
    inject_rotations(stock, own)
    ids = random_ids(2, 48)
    with torch.no_grad():
        expected, found = stock(ids), own(ids)
    assert_close(scores(found), scores(expected), rtol=0, atol=1e-9)
    assert scores(found).std() > 0.5
