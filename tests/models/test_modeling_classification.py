"""Classes of rows and choices: pooling, kinds of problems, refusals, published weights."""

import logging

import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, mse_loss
from torch.testing import assert_close
from transformers import ReformerForSequenceClassification

from reformer_hf import ReformerHFForSequenceClassification
from reformer_hf.models import labels as labels_module
from tests.models.heads import CHOICES, HEADS
from tests.models.tiny import SCOPES, random_ids
from tests.parity.published_models import TINY, build_stock, inject_rotations

IDS = random_ids(3, 13)
MASK = torch.tensor([[1] * 13, [0] * 4 + [1] * 9, [1] * 7 + [0] * 6])
SINGLE, SEVERAL, REGRESSION, CHOICE = (
    HEADS[name] for name in ("single label", "several labels", "regression", "multiple choice")
)


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("causal", [False, True])
def test_causal_models_read_the_last_real_token_others_the_mean(causal, scope):
    model = SINGLE.build(is_decoder=causal, attention_scope=scope).double()
    hidden = model.reformer(IDS, attention_mask=MASK).last_hidden_state
    if causal:
        pooled = torch.stack([hidden[0, 12], hidden[1, 12], hidden[2, 6]])
    else:
        rows = zip(hidden, MASK.bool(), strict=True)
        pooled = torch.stack([row[real].mean(dim=0) for row, real in rows])
    expected = model.classifier(pooled)
    assert_close(model(IDS, attention_mask=MASK).logits, expected)
    head = model.classifier
    assert_close(expected, head.out_proj(torch.tanh(head.dense(pooled))))


def test_the_mean_of_many_tokens_in_low_precision():
    model = SINGLE.build(hidden_size=16, position_embedding_type="none").bfloat16()
    ids = random_ids(1, 5000)
    pooled = []
    model.classifier.register_forward_pre_hook(lambda module, args: pooled.append(args[0]))
    with torch.no_grad():
        hidden = model.reformer(ids).last_hidden_state
        model(ids)
    assert pooled[0].dtype == torch.bfloat16
    # As near to the mean as the dtype can be.
    assert_close(pooled[0], hidden.double().mean(dim=1).bfloat16(), rtol=2**-8, atol=1e-6)


class TestProblemTypes:
    @pytest.mark.parametrize("items", [None, 7, torch.tensor(7)])
    def test_losses(self, items):
        classes = torch.tensor([2, -100, 0])
        model = SINGLE.build()
        output = model(IDS, labels=classes, num_items_in_batch=items)
        summed = cross_entropy(output.logits, classes, reduction="sum")
        assert_close(output.loss, summed / (items or 2))

        several = torch.tensor([[1.0, 0, 0], [1, 1, 0], [0, 0.5, 0]])
        model = SEVERAL.build()
        output = model(IDS, labels=several, num_items_in_batch=items)
        summed = binary_cross_entropy_with_logits(output.logits, several, reduction="sum")
        assert_close(output.loss, summed / (items or 9))
        certain = (several > 0).float()
        expected = binary_cross_entropy_with_logits(output.logits, certain)
        for labels in (certain, certain.long(), certain.bool()):
            assert_close(model(IDS, labels=labels).loss, expected)

        numbers = torch.tensor([1.5, -3.0, 0.0])
        for count, labels in ((1, numbers), (1, numbers[:, None]), (2, torch.randn(3, 2))):
            model = REGRESSION.build(num_labels=count)
            output = model(IDS, labels=labels, num_items_in_batch=items)
            summed = mse_loss(output.logits, labels.view(3, count), reduction="sum")
            assert_close(output.loss, summed / (items or 3 * count))

    @pytest.mark.parametrize(
        ("count", "labels", "kind"),
        [
            (4, torch.tensor([0, 3, 1]), "single_label_classification"),
            (4, torch.rand(3, 4).round(), "multi_label_classification"),
            (4, torch.rand(3, 4) > 0.5, "multi_label_classification"),
            (1, torch.randn(3), "regression"),
            (1, torch.tensor([2, 5, 9]), "regression"),
        ],
    )
    def test_the_labels_tell_where_the_configuration_does_not(self, count, labels, kind):
        expected = SINGLE.build(num_labels=count, problem_type=kind)(IDS, labels=labels).loss
        model = SINGLE.build(num_labels=count)
        assert_close(model(IDS, labels=labels).loss, expected)
        assert model.config.problem_type is None

    def test_what_pipelines_could_not_know_is_said(self, monkeypatch):
        said = []
        monkeypatch.setattr(labels_module.logger, "warning_once", said.append)
        SINGLE.build(num_labels=3)(IDS, labels=torch.tensor([0, 1, 2]))
        SEVERAL.build()(IDS, labels=torch.zeros(3, 3))
        assert not said
        SEVERAL.build(problem_type=None)(IDS, labels=torch.zeros(3, 3))
        REGRESSION.build(problem_type=None)(IDS, labels=torch.zeros(3))
        assert "'multi_label_classification'" in said[0] and "'regression'" in said[1]
        assert len(said) == 2 and isinstance(labels_module.logger, logging.Logger)


BAD_LABELS = {
    "class too high": (SINGLE, torch.tensor([0, 4, 1]), ["labels has 4", "num_labels=4", "0 to 3"]),
    "class too low": (SINGLE, torch.tensor([0, -1, 1]), ["labels has -1", "-100"]),
    "one per token": (SINGLE, torch.zeros(3, 13).long(), ["(3, 13)", "(3,)"]),
    "other rows": (SINGLE, torch.tensor([0, 1]), ["(2,)", "(3,)"]),
    "classes as floats": (
        SINGLE,
        torch.tensor([0.0, 1.0, 2.0]),
        ["(3,)", "(3, 4)", "multi_label_classification", "problem_type"],
    ),
    "too few at a time": (SEVERAL, torch.zeros(3, 2), ["(3, 2)", "(3, 3)", "num_labels=3"]),
    "one of several": (SEVERAL, torch.tensor([0, 1, 2]), ["(3,)", "(3, 3)"]),
    "no probability": (SEVERAL, torch.full((3, 3), 2.0), ["labels has 2.0", "regression"]),
    "not a number": (SEVERAL, torch.full((3, 3), torch.nan), ["labels has nan"]),
    "several numbers": (REGRESSION, torch.zeros(3, 2), ["(3, 2)", "(3,)", "num_labels=1"]),
    "no such choice": (CHOICE, torch.tensor([0, 3, 1]), ["labels has 3", "choices=3"]),
    "choices as floats": (CHOICE, torch.zeros(3), ["float32"]),
    "choice per row": (CHOICE, torch.zeros(9).long(), ["(9,)", "(3,)"]),
}


@pytest.mark.parametrize("case", BAD_LABELS)
def test_bad_labels_are_refused(case):
    head, labels, words = BAD_LABELS[case]
    with pytest.raises(ValueError) as raised:
        head.build()(head.ids(3, 13), labels=labels)
    assert all(word in str(raised.value) for word in words), str(raised.value)


class TestMultipleChoice:
    def test_each_choice_is_scored_as_a_row(self):
        model, ids = CHOICE.build().double(), CHOICE.ids(2, 9)
        labels = torch.tensor([2, 0])
        output = model(ids, labels=labels[:, None])
        assert output.logits.shape == (2, CHOICES)
        for question in range(2):
            for choice in range(CHOICES):
                alone = model(ids[question : question + 1, choice : choice + 1]).logits
                assert_close(output.logits[question, choice], alone[0, 0])
        assert_close(output.loss, cross_entropy(output.logits, labels))

    def test_wrong_shapes_are_refused(self):
        model, ids = CHOICE.build(), CHOICE.ids(2, 9)
        with pytest.raises(ValueError, match=r"input has shape \(6, 9\)"):
            model(ids.flatten(0, 1))
        for name, wrong in (
            ("attention_mask", torch.ones(2, 9).long()),
            ("position_ids", torch.zeros(2, 2, 9).long()),
        ):
            with pytest.raises(ValueError, match=f"{name} has shape"):
                model(ids, **{name: wrong})
        with pytest.raises(ValueError, match="inputs_embeds has shape"):
            model(inputs_embeds=torch.zeros(2, 3, 9))


def test_published_weights_give_the_head_s_logits(tmp_path):
    fields = {**TINY, "is_decoder": False, "local_num_chunks_before": 0, "num_labels": 5}
    stock = build_stock(fields, torch.float64, ReformerForSequenceClassification)
    stock.save_pretrained(tmp_path)
    own, report = ReformerHFForSequenceClassification.from_pretrained(
        tmp_path, output_loading_info=True
    )
    assert not report["missing_keys"] and not report["unexpected_keys"]
    inject_rotations(stock, own)
    ids = random_ids(2, 48)
    with torch.no_grad():
        # transformers reads the first token, whatever the model.
        found = own.classifier(own.reformer(ids).last_hidden_state[:, 0])
        assert_close(found, stock(ids).logits, rtol=0, atol=1e-9)


def test_a_document_of_16k_tokens_is_classified_in_one_piece():
    """Which of two tokens fills a stretch in the middle, far from both ends."""
    model = SINGLE.build(
        num_labels=2,
        attn_layers=["lsh", "local"],
        axial_pos_shape=[128, 128],
        lsh_attn_chunk_length=32,
        local_attn_chunk_length=32,
        num_hashes=1,
        num_buckets=64,
        initializer_range=0.1,
        axial_norm_std=0.02,
    ).train()
    ids = random_ids(1, 16384, high=30).repeat(2, 1)
    ids[0, 6000:10000], ids[1, 6000:10000] = 35, 36
    labels = torch.tensor([0, 1])
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    losses = []
    for _ in range(6):
        optimizer.zero_grad()
        loss = model(ids, labels=labels).loss
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0], losses
    assert model.eval()(ids).logits.argmax(dim=-1).tolist() == [0, 1]
