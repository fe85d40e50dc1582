"""The encoder-decoder: what it computes, whom padding may concern, what it refuses."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from reformer_hf import ReformerHFForCausalLM, ReformerHFForConditionalGeneration, ReformerHFModel
from tests.models.seq2seq import (
    FORMS,
    KINDS,
    padded_source,
    random_labels,
    seq2seq_config,
    tiny_seq2seq,
)
from tests.models.tiny import (
    ALL_OPTIONS,
    SPARSE_PROJECTIONS,
    loss_and_gradients,
    random_ids,
    tiny_config,
)


@pytest.mark.parametrize("options", [{}, {**ALL_OPTIONS, **SPARSE_PROJECTIONS}])
@pytest.mark.parametrize("form", FORMS)
def test_each_row_is_computed_as_if_alone(form, options):
    """Neither padding on either side nor the other rows change anything."""
    layers = {"encoder_attn_layers": KINDS, "decoder_attn_layers": KINDS}
    model = tiny_seq2seq(decoder_form=form, **layers, **options)
    model.double()
    batch, labels = padded_source(), random_labels()
    together = model(**batch, labels=labels)
    losses = []
    for row in range(3):
        source = batch["input_ids"][row][batch["attention_mask"][row].bool()][None]
        alone = model(source, labels=labels[row : row + 1])
        assert_close(alone.logits, together.logits[row : row + 1])
        losses.append(alone.loss)
    assert_close(torch.stack(losses).mean(), together.loss)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_of_the_target_changes_nothing(form, side):
    model = tiny_seq2seq(decoder_form=form, **ALL_OPTIONS).double()
    batch, labels = padded_source(), random_labels()
    expected = model(**batch, labels=labels).logits
    padding = torch.full((3, 2), -100)
    padded = torch.cat([padding, labels] if side == "left" else [labels, padding], dim=1)
    found = model(**batch, labels=padded)
    real = slice(2, None) if side == "left" else slice(0, 6)
    assert_close(found.logits[:, real], expected)
    assert_close(found.loss, model(**batch, labels=labels).loss)
    ids = model.prepare_decoder_input_ids_from_labels(padded)  # as a collator does
    again = model(**batch, labels=padded, decoder_input_ids=ids)
    assert_close(again.logits[:, real], expected)
    mask = (padded != -100).long()
    again = model(**batch, decoder_input_ids=ids, decoder_attention_mask=mask)
    assert_close(again.logits[:, real], expected)


@pytest.mark.parametrize("form", FORMS)
def test_the_decoder_is_causal_and_reads_the_whole_source(form):
    model = tiny_seq2seq(decoder_form=form, decoder_attn_layers=["full", "local"]).double()
    embedded = model.get_input_embeddings()(random_ids(1, 9, low=3)).detach().requires_grad_()
    ids = random_ids(1, 6, low=3, seed=1)
    target = model.get_input_embeddings()(ids).detach().requires_grad_()
    logits = model(inputs_embeds=embedded, decoder_inputs_embeds=target).logits
    by_source, by_target = torch.autograd.grad(logits[0, 2].sum(), (embedded, target))
    assert (by_source.abs().sum(dim=-1) > 0).all()
    assert (by_target[0].abs().sum(dim=-1) > 0).tolist() == [True] * 3 + [False] * 3


def test_the_encoder_looks_both_ways():
    model = tiny_seq2seq(encoder_attn_layers=["local"])
    ids = random_ids(1, 9, low=3)
    other = ids.clone()
    other[0, 4] += 1 if ids[0, 4] < 39 else -1
    states = [model.get_encoder()(x).last_hidden_state for x in (ids, other)]
    moved = (states[0] != states[1]).any(dim=-1)[0].tolist()
    assert moved[3] and moved[5]


def test_a_tied_output_reads_the_mean_of_both_streams():
    model = tiny_seq2seq(tie_word_embeddings=True)
    output = model(**padded_source(), labels=random_labels(), output_hidden_states=True)
    left, right = output.decoder_hidden_states[-1].chunk(2, dim=-1)
    words = model.get_input_embeddings().weight
    assert_close(output.logits, (left + right) / 2 @ words.T + model.lm_head.bias)


def test_cross_attention_gives_nothing_of_a_source_of_padding():
    model = tiny_seq2seq().double()
    batch, labels = padded_source(), random_labels()
    batch["attention_mask"][1] = 0
    output = model(**batch, labels=labels, output_attentions=True)
    assert output.logits.isfinite().all()
    assert not output.cross_attentions[0][1].any()
    others = output.cross_attentions[0][[0, 2]].sum(dim=-1)
    assert_close(others, torch.ones_like(others))


def test_labels_are_what_the_decoder_reads_next():
    model = tiny_seq2seq()
    labels = torch.tensor([[5, 6, 1], [7, 1, -100], [-100, 8, 1], [-100, -100, -100]])
    expected = [[2, 5, 6], [2, 7, 1], [0, 2, 8], [2, 0, 0]]
    assert model.prepare_decoder_input_ids_from_labels(labels).tolist() == expected


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("training", [True, False])
def test_chunked_loss_equals_the_whole_one(form, training):
    batch, labels = padded_source(), random_labels().index_fill(1, torch.tensor([5]), -100)
    results = []
    for chunk_size in (0, 2):
        model = tiny_seq2seq(decoder_form=form, chunk_size_lm_head=chunk_size).train(training)
        results.append(loss_and_gradients(model, **batch, labels=labels, num_items_in_batch=7))
        output = model(**batch, labels=labels)
        assert (output.logits is None) == (training and chunk_size > 0)
    (loss, found), (chunked_loss, chunked) = results
    assert_close(chunked_loss, loss)
    for name, gradient in found.items():
        assert_close(chunked[name], gradient, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("tied", [True, False])
def test_embeddings_are_shared_as_the_configuration_says(form, shared, tied, tmp_path):
    fields = {"share_encoder_decoder_embeddings": shared, "tie_word_embeddings": tied}
    model = tiny_seq2seq(decoder_form=form, **fields)
    words = [module for module in model.modules() if isinstance(module, nn.Embedding)]
    assert len(words) == (1 if shared else 2)
    assert (model.get_output_embeddings().weight is words[-1].weight) == tied
    batch, labels = padded_source(), random_labels()
    expected = model(**batch, labels=labels)
    model.save_pretrained(tmp_path)
    again = ReformerHFForConditionalGeneration.from_pretrained(tmp_path)
    assert torch.equal(again(**batch, labels=labels).logits, expected.logits)
    again.resize_token_embeddings(45, mean_resizing=False)
    logits = again(**batch, labels=labels).logits
    assert_close(logits[..., :40], expected.logits)
    assert logits.shape[-1] == 45


def test_hidden_states_and_maps_of_both_sides():
    model = tiny_seq2seq()
    output = model(
        **padded_source(),
        labels=random_labels(),
        output_hidden_states=True,
        output_attentions=True,
    )
    assert len(output.encoder_hidden_states) == len(output.decoder_hidden_states) == 4
    assert output.decoder_hidden_states[1].shape == (3, 6, 32)
    assert len(output.encoder_attentions) == len(output.decoder_attentions) == 3
    assert [x.shape for x in output.cross_attentions] == [(3, 2, 6, 11)] * 3
    assert torch.equal(output.encoder_last_hidden_state, output.encoder_hidden_states[-1])


def test_attention_implementation_reaches_both_sides():
    model, batch = tiny_seq2seq(encoder_attn_layers=KINDS, decoder_attn_layers=KINDS), {}
    batch = {**padded_source(), "labels": random_labels()}
    expected = model(**batch).logits
    model.set_attn_implementation("eager")
    assert model.reformer.encoder.config._attn_implementation == "eager"
    assert model.reformer.decoder.config._attn_implementation == "eager"
    assert_close(model(**batch).logits, expected)
    model.set_attn_implementation("blockwise")
    assert model.reformer.encoder.config._attn_implementation == "blockwise"
    assert model.reformer.decoder.config._attn_implementation == "blockwise"
    assert torch.equal(model(**batch).logits, expected)


SOURCE = random_ids(1, 5, low=3)
LABELS = random_ids(1, 4, low=3)
BAD_INPUTS = [
    ({"input_ids": random_ids(1, 97), "labels": LABELS}, "position 96 is outside the 96"),
    ({"input_ids": SOURCE, "labels": random_ids(1, 97)}, "position 96 is outside the 96"),
    ({"input_ids": SOURCE, "labels": LABELS + 40}, r"labels has \d+, but vocab_size=40"),
    ({"input_ids": SOURCE, "labels": LABELS[0]}, "labels has shape"),
    ({"input_ids": SOURCE, "labels": LABELS.float()}, "labels has dtype torch.float32"),
    ({"input_ids": SOURCE}, "give labels, decoder_input_ids or decoder_inputs_embeds"),
    ({"labels": LABELS}, "exactly one of input_ids and inputs_embeds"),
    ({"input_ids": SOURCE + 40, "labels": LABELS}, "input_ids has ids from"),
    ({"input_ids": SOURCE, "decoder_input_ids": LABELS + 40}, "decoder_input_ids has ids from"),
    ({"input_ids": SOURCE, "decoder_input_ids": LABELS[0]}, "decoder_input_ids has shape"),
    (
        {"input_ids": SOURCE, "labels": LABELS, "decoder_input_ids": LABELS[:, 1:]},
        "labels has shape",
    ),
    (
        {"input_ids": SOURCE, "labels": LABELS, "attention_mask": torch.ones(1, 4)},
        r"attention_mask has shape \(1, 4\), the input has \(1, 5\)",
    ),
    (
        {"input_ids": SOURCE, "labels": LABELS, "decoder_attention_mask": torch.ones(1, 5)},
        r"attention_mask has shape \(1, 5\)",
    ),
    ({"input_ids": SOURCE, "labels": LABELS.expand(2, -1)}, "source has 1 rows, the target 2"),
    ({"encoder_outputs": (SOURCE,), "labels": LABELS}, r"encoder_outputs holds \(1, 5\)"),
    (
        {
            "encoder_outputs": (torch.zeros(1, 5, 32),),
            "labels": LABELS,
            "attention_mask": torch.ones(1, 4),
        },
        r"attention_mask has shape \(1, 4\), the source has \(1, 5\)",
    ),
]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("inputs", "message"), BAD_INPUTS)
def test_bad_input_is_refused(form, inputs, message):
    with pytest.raises(ValueError, match=message):
        tiny_seq2seq(decoder_form=form)(**inputs)


def test_what_is_missing_or_unknown_is_named():
    model = tiny_seq2seq(decoder_start_token_id=None)
    with pytest.raises(ValueError, match="decoder_start_token_id=None: the decoder must read"):
        model(SOURCE, labels=LABELS)
    with pytest.raises(ValueError, match="decoder_start_token_id"):
        model.generate(SOURCE, max_new_tokens=2)
    with pytest.raises(TypeError, match="unexpected keyword argument 'seqidx'"):
        tiny_seq2seq()(SOURCE, labels=LABELS, seqidx=1)
    same = tiny_seq2seq(decoder_start_token_id=0)
    with pytest.raises(ValueError, match="labels are padded on the left, with pad_token_id=0"):
        same(SOURCE, labels=torch.tensor([[-100, 5]]))


def test_the_class_fits_the_configuration():
    for kind in (ReformerHFModel, ReformerHFForCausalLM):
        with pytest.raises(ValueError, match="is_encoder_decoder=True: only ReformerHFForCond"):
            kind(seq2seq_config())
    with pytest.raises(ValueError, match="is_encoder_decoder=False"):
        ReformerHFForConditionalGeneration(tiny_config())
