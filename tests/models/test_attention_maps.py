"""Attention maps: their form, what they are good for, and how large they may be."""

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close
from transformers import Trainer, TrainingArguments, pipeline

from reformer_hf import (
    ReformerHFByteTokenizer,
    ReformerHFConfig,
    ReformerHFForCausalLM,
    ReformerHFModel,
)
from reformer_hf.models import attention_maps
from reformer_hf.ops.attention_map import AttentionMap
from tests.models.heads import HEADS
from tests.models.seq2seq import FORMS, padded_source, random_labels, tiny_seq2seq
from tests.models.tiny import (
    ALL_OPTIONS,
    SCOPES,
    dropout_fields,
    random_ids,
    tiny_config,
    tiny_lm,
)

KINDS = ["local", "lsh", "full", "full_shared_qk"]


def padded_rows() -> dict[str, Tensor]:
    """Two rows of 19 tokens, the second padded on the left."""
    mask = torch.ones(2, 19, dtype=torch.long)
    mask[1, :6] = 0
    return {"input_ids": random_ids(2, 19), "attention_mask": mask}


def test_maps_of_next_values_multiply_those_of_the_tokens_behind():
    model = tiny_lm(attn_layers=["lsh"], **ALL_OPTIONS).double()
    attention = model.reformer.encoder.layers[0].attention.self_attention
    found = []
    attention.value.register_forward_hook(lambda module, inputs, v: found.append(v))
    attention.register_forward_hook(lambda module, inputs, o: found.append(o[0]))
    (dense,) = model(random_ids(2, 19), output_attentions=True).attentions
    value, output = found
    nexts = torch.cat([value[:, 1:], torch.zeros_like(value[:, :1])], dim=1)
    heads = dense @ nexts.unflatten(-1, (2, 8)).transpose(1, 2)
    assert_close(output[:, 1:], heads.transpose(1, 2).flatten(2)[:, 1:])
    assert dense[:, :, 0, 0].eq(1).all() and output[:, 0].eq(0).all()


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_dense_maps_are_what_multiplies_the_values(scope, dtype):
    options = {**ALL_OPTIONS, "lsh_next_values": False} if scope == "band" else {}
    model = tiny_lm(attn_layers=KINDS, attention_scope=scope, **options).to(dtype)
    values, outputs = [], []
    for layer in model.reformer.encoder.layers:
        attention = layer.attention.self_attention
        attention.value.register_forward_hook(lambda module, inputs, v: values.append(v))
        attention.register_forward_hook(lambda module, inputs, o: outputs.append(o[0]))
    maps = model(**padded_rows(), output_attentions=True).attentions
    tolerance = {"rtol": 0, "atol": 1e-12 if dtype == torch.float64 else 1e-2}
    for dense, value, output in zip(maps, values, outputs, strict=True):
        assert dense.shape == (2, 2, 19, 19) and dense.dtype == dtype
        assert_close(dense.sum(-1), torch.ones(2, 2, 19, dtype=dtype), **tolerance)
        heads = dense @ value.unflatten(-1, (2, 8)).transpose(1, 2)
        assert torch.equal(heads.transpose(1, 2).flatten(2), output)


@pytest.mark.parametrize(
    ("scope", "fields"),
    [
        ("band", {}),
        ("chunk", {"deduplicate_rounds": True}),
        ("band", {"is_decoder": True, **ALL_OPTIONS}),
    ],
)
def test_both_forms_show_the_same_and_change_no_output(scope, fields):
    torch.manual_seed(0)
    config = tiny_config(attn_layers=KINDS, attention_scope=scope, **fields)
    model, rows = ReformerHFModel(config).double().eval(), padded_rows()
    plain = model(**rows)
    dense, sparse = (model(**rows, output_attentions=form) for form in (True, "sparse"))
    real = rows["attention_mask"].bool()
    for output in (dense, sparse):
        assert_close(output.last_hidden_state[real], plain.last_hidden_state[real])
    for matrix, attention_map in zip(dense.attentions, sparse.attentions, strict=True):
        assert isinstance(attention_map, AttentionMap)
        assert_close(attention_map.to_dense(), matrix)
    assert plain.attentions is None
    as_tuple = model(**rows, output_attentions=True, return_dict=False)
    assert_close(as_tuple[1], dense.attentions)


@pytest.mark.parametrize("fields", [{}, dropout_fields()])
def test_maps_get_gradients(fields):
    model = tiny_lm(attn_layers=KINDS, **fields).train()
    ids = random_ids(2, 19)
    output = model(ids, labels=ids, output_attentions=True)
    for dense in output.attentions:
        dense.retain_grad()
    output.loss.backward()
    for dense in output.attentions:
        assert dense.grad.shape == dense.shape and dense.grad.any()


def test_with_dropout_a_map_holds_what_was_kept():
    model = tiny_lm(attn_layers=["full"], **dropout_fields(0.5)).train()
    (dense,) = model(random_ids(1, 40), output_attentions=True).attentions
    kept = dense[dense > 0]
    assert 0.4 < len(kept) / (2 * 20 * 41) < 0.6
    assert (dense.sum(dim=-1) - 1).abs().max() > 0.1


@pytest.mark.parametrize("form", FORMS)
def test_all_maps_of_an_encoder_decoder_get_gradients(form):
    model = tiny_seq2seq(decoder_form=form).train()
    output = model(**padded_source(), labels=random_labels(), output_attentions=True)
    named = {
        "encoder": output.encoder_attentions,
        "decoder": output.decoder_attentions,
        "cross": output.cross_attentions,
    }
    lengths = {"encoder": (11, 11), "decoder": (6, 6), "cross": (6, 11)}
    for name, maps in named.items():
        assert [dense.shape for dense in maps] == [(3, 2, *lengths[name])] * 3
        for dense in maps:
            dense.retain_grad()
    output.loss.backward(retain_graph=True)
    if form == "packed":  # cut from maps of whole rows, which the outputs are made of
        assert not any(dense.grad for name in ("decoder", "cross") for dense in named.pop(name))
    assert all(dense.grad.any() for maps in named.values() for dense in maps)
    model.zero_grad()
    output.cross_attentions[-1].square().sum().backward()  # as what guides attention does
    assert model.get_encoder().get_input_embeddings().weight.grad.any()


def test_a_target_without_a_source_attends_to_nothing():
    model, batch = tiny_seq2seq(), padded_source()
    batch["attention_mask"][1] = 0
    output = model(**batch, labels=random_labels(), output_attentions=True)
    output.cross_attentions[0].retain_grad()
    output.loss.backward()
    assert not output.cross_attentions[0][1].any()
    assert output.cross_attentions[0].grad.isfinite().all()


@pytest.mark.parametrize("name", ["token classification", "question answering", "multiple choice"])
def test_trainer_predicts_with_maps(name, tmp_path):
    head = HEADS[name]
    model = head.build(output_attentions=True, output_hidden_states=True)
    batch = head.batch(6, 9)
    rows = [{key: value[row] for key, value in batch.items()} for row in range(6)]
    arguments = TrainingArguments(
        str(tmp_path), per_device_eval_batch_size=3, report_to="none", use_cpu=True
    )
    predictions = Trainer(model, arguments).predict(rows).predictions  # type: ignore[arg-type]
    shape = (6 * head.choices, 2, 9, 9)
    assert [dense.shape for dense in predictions[-1]] == [shape] * 2
    assert_close(predictions[-1][1].sum(-1), torch.ones(shape[:3]).numpy())


def test_trainer_trains_and_evaluates_with_maps(tmp_path):
    model = tiny_lm(output_attentions=True)
    rows = [{"input_ids": row, "labels": row} for row in random_ids(6, 9)]
    found = []
    arguments = TrainingArguments(
        str(tmp_path), max_steps=1, per_device_eval_batch_size=4, report_to="none", use_cpu=True
    )
    trainer = Trainer(
        model,
        arguments,
        train_dataset=rows,  # type: ignore[arg-type]
        eval_dataset=rows,  # type: ignore[arg-type]
        compute_metrics=lambda results: found.append(results.predictions) or {},
    )
    trainer.train()
    trainer.evaluate()
    logits, maps = found[0]
    assert logits.shape == (6, 9, 40) and maps[0].shape == (6, 2, 9, 9)


@pytest.mark.parametrize("form", [True, "sparse"])
def test_the_configuration_may_ask(form, tmp_path):
    model = ReformerHFForCausalLM(tiny_config(output_attentions=form))
    model.save_pretrained(tmp_path)
    again = ReformerHFForCausalLM.from_pretrained(tmp_path)
    again.config.output_attentions = form  # transformers would want eager attention
    for one in (model, again):
        attention_map = one(random_ids(1, 9)).attentions[0]
        assert isinstance(attention_map, AttentionMap if form == "sparse" else Tensor)
        assert one(random_ids(1, 9), output_attentions=False).attentions is None


def test_an_unknown_form_is_refused():
    wanted = "output_attentions='spares': give True for .*'sparse'"
    with pytest.raises(ValueError, match=wanted):
        tiny_lm()(random_ids(1, 9), output_attentions="spares")
    with pytest.raises(ValueError, match=wanted):
        tiny_config(output_attentions="spares")
    with pytest.raises(ValueError, match=wanted):
        tiny_config().output_attentions = "spares"


def test_maps_too_large_to_be_dense_are_refused_before_any_work():
    config = ReformerHFConfig(num_hidden_layers=4, max_position_embeddings=65536)
    model = ReformerHFForCausalLM(config)
    ids = torch.full((1, 10000), 7)
    wanted = "1 rows of 10000 tokens: 4 dense maps would take 6.0 GiB, more than 4; give fewer"
    with torch.device("meta"), pytest.raises(ValueError, match=wanted):
        model(ids, output_attentions=True)


def test_the_bound_counts_all_layers_keys_and_rows(monkeypatch):
    model, ids = tiny_lm(), random_ids(3, 10)  # 2 layers of 2 heads, float32
    monkeypatch.setattr(attention_maps, "MAX_DENSE_BYTES", 2 * 3 * 2 * 10 * 10 * 4)
    model(ids, output_attentions=True)
    with pytest.raises(ValueError, match="3 rows of 11 tokens: 2 dense maps .*'sparse'"):
        model(random_ids(3, 11), output_attentions=True)
    model(random_ids(3, 11), output_attentions="sparse")
    cache = model(ids, use_cache=True).past_key_values
    with pytest.raises(ValueError, match="3 rows of 9 tokens after 10: 2 dense maps"):
        model(random_ids(3, 9), past_key_values=cache, output_attentions=True)
    model(random_ids(3, 2), past_key_values=cache, output_attentions=True)
    pairs = tiny_seq2seq()  # its decoder has 3 maps of 6 x 6 and 3 of 6 x 11
    monkeypatch.setattr(attention_maps, "MAX_DENSE_BYTES", 3 * 3 * 2 * 11 * 11 * 4)
    inputs = {**padded_source(), "output_attentions": True}
    pairs(**inputs, labels=random_labels())
    with pytest.raises(ValueError, match="3 rows of 13 tokens: 6 dense maps"):
        pairs(**inputs, labels=random_ids(3, 13))


class TestGeneration:
    OPTIONS = {
        "max_new_tokens": 8,
        "eos_token_id": None,
        "do_sample": False,
        "output_attentions": True,
        "return_dict_in_generate": True,
    }

    @pytest.mark.parametrize(("scope", "use"), [("band", "assistant"), ("chunk", "lookup")])
    def test_drafts_change_no_map(self, scope, use):
        # In the chunk scope drafts move chunk borders, and may change the text.
        model = tiny_lm(attn_layers=KINDS, attention_scope=scope).double()
        ids = random_ids(1, 6).repeat(1, 3)
        expected = model.generate(ids, **self.OPTIONS)
        drafts = {"prompt_lookup_num_tokens": 3}
        if use == "assistant":
            drafts = {"assistant_model": tiny_lm(attn_layers=["local"]).double()}
        found = model.generate(ids, **drafts, **self.OPTIONS)
        assert scope == "chunk" or torch.equal(found.sequences, expected.sequences)
        assert len(found.attentions) == len(expected.attentions) == 8
        for mine, theirs in zip(found.attentions, expected.attentions, strict=True):
            assert [dense.shape for dense in mine] == [dense.shape for dense in theirs]
            if scope == "band":
                assert_close(mine, theirs)

    def test_sparse_maps_of_each_step(self):
        options = {**self.OPTIONS, "output_attentions": "sparse"}
        written = tiny_lm().generate(random_ids(2, 7), **options)
        assert isinstance(written.attentions[3][1], AttentionMap)
        assert written.attentions[3][1].to_dense(10).shape == (2, 2, 1, 10)
        with pytest.raises(ValueError, match="'sparse' with assisted decoding"):
            tiny_lm().generate(random_ids(1, 7), prompt_lookup_num_tokens=3, **options)

    @pytest.mark.parametrize("use_cache", [True, False])
    @pytest.mark.parametrize("form", FORMS)
    def test_beams_of_an_encoder_decoder(self, form, use_cache):
        options = {**self.OPTIONS, "num_beams": 2, "max_new_tokens": 3, "use_cache": use_cache}
        model = tiny_seq2seq(decoder_form=form)
        written = model.generate(**padded_source(), **options)
        assert [dense.shape for dense in written.encoder_attentions] == [(3, 2, 11, 11)] * 3
        new = 1 if use_cache else 3
        for maps, keys in ((written.decoder_attentions, 3), (written.cross_attentions, 11)):
            assert [dense.shape for dense in maps[-1]] == [(6, 2, new, keys)] * 3


def test_a_pipeline_of_a_model_that_returns_maps():
    head = HEADS["single label"]
    model = head.build(output_attentions=True, output_hidden_states=True, vocab_size=258)
    classify = pipeline("text-classification", model=model, tokenizer=ReformerHFByteTokenizer())
    assert set(classify("some text")[0]) == {"label", "score"}
