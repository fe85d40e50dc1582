"""The encoder-decoder without its head: states, Auto classes, checkpoints, resizing."""

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch.testing import assert_close
from transformers import AutoModel, AutoModelForSeq2SeqLM, pipeline
from transformers.modeling_outputs import Seq2SeqModelOutput

from reformer_hf import ReformerHFByteTokenizer, ReformerHFEncoderDecoderModel
from tests.models.seq2seq import FORMS, padded_source, random_labels, seq2seq_config, tiny_seq2seq
from tests.models.tiny import random_ids, tiny_config

BOTH = [
    (form, shared, tied) for form in FORMS for shared in (True, False) for tied in (True, False)
]


def variant(form: str, shared: bool, tied: bool, seed: int = 0):
    fields = {"share_encoder_decoder_embeddings": shared, "tie_word_embeddings": tied}
    return tiny_seq2seq(seed, decoder_form=form, **fields)


@pytest.mark.parametrize(("form", "shared", "tied"), BOTH)
def test_the_bare_model_and_the_one_with_a_head_load_each_others_checkpoints(
    form, shared, tied, tmp_path
):
    model, batch = variant(form, shared, tied), padded_source()
    batch["decoder_input_ids"] = random_labels()
    expected = model(**batch)
    model.save_pretrained(tmp_path / "whole")
    bare, report = AutoModel.from_pretrained(tmp_path / "whole", output_loading_info=True)
    assert type(bare) is type(model.base_model) is ReformerHFEncoderDecoderModel
    assert not any(report.values())
    output = bare(**batch)
    assert isinstance(output, Seq2SeqModelOutput)
    assert torch.equal(model.lm_head(output.last_hidden_state), expected.logits)
    assert torch.equal(output.encoder_last_hidden_state, expected.encoder_last_hidden_state)

    bare.save_pretrained(tmp_path / "bare")
    again, report = AutoModelForSeq2SeqLM.from_pretrained(
        tmp_path / "bare", output_loading_info=True
    )
    head = {"lm_head.bias"} if tied else {"lm_head.bias", "lm_head.decoder.weight"}
    assert {name: keys for name, keys in report.items() if keys} == {"missing_keys": head}
    assert torch.equal(again.base_model(**batch).last_hidden_state, output.last_hidden_state)


@pytest.mark.parametrize("form", FORMS)
def test_checkpoints_of_before_the_base_model_load_unchanged(form, tmp_path):
    model, batch = tiny_seq2seq(decoder_form=form), padded_source()
    model.save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    old = {name.removeprefix("reformer."): weight for name, weight in load_file(file).items()}
    assert "encoder.embeddings.word_embeddings.weight" in old
    save_file(old, file, metadata={"format": "pt"})
    expected = model(**batch, labels=random_labels()).logits
    for auto_class in (AutoModelForSeq2SeqLM, AutoModel):
        loaded, report = auto_class.from_pretrained(tmp_path, output_loading_info=True)
        assert not any(report.values())
        words = loaded.get_input_embeddings().weight
        assert torch.equal(words, model.get_input_embeddings().weight)
    resumed = tiny_seq2seq(seed=1, decoder_form=form)
    resumed.load_state_dict(old)  # as a Trainer does
    assert torch.equal(resumed(**batch, labels=random_labels()).logits, expected)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
@pytest.mark.filterwarnings("error:Found missing adapter keys")
@pytest.mark.parametrize("form", FORMS)
def test_adapters_of_before_the_base_model_load(form, tmp_path):
    batch = {**padded_source(), "labels": random_labels()}
    config = LoraConfig(r=2, target_modules=["query", "value"], init_lora_weights=False)
    model = get_peft_model(tiny_seq2seq(decoder_form=form), config).eval()
    model.save_pretrained(tmp_path)
    for strip in ("", "reformer."):  # as they are saved now, and as they were
        file = tmp_path / "adapter_model.safetensors"
        names = {name: name.replace(f"model.{strip}", "model.") for name in load_file(file)}
        old = {names[name]: weight for name, weight in load_file(file).items()}
        save_file(old, file, metadata={"format": "pt"})
        loaded = PeftModel.from_pretrained(tiny_seq2seq(decoder_form=form), tmp_path).eval()
        assert torch.equal(loaded(**batch).logits, model(**batch).logits)


def test_auto_model_of_a_configuration():
    assert type(AutoModel.from_config(seq2seq_config())) is ReformerHFEncoderDecoderModel
    with pytest.raises(ValueError, match="is_encoder_decoder=False: ReformerHFEncoderDecoderModel"):
        ReformerHFEncoderDecoderModel(tiny_config())


def test_parts_by_the_names_of_transformers():
    model = tiny_seq2seq()
    base = model.base_model
    assert (model.base_model_prefix, model.reformer) == ("reformer", base)
    assert model.get_encoder() is base.get_encoder() is base.encoder
    assert model.get_decoder() is base.get_decoder() is base.decoder
    assert model.get_input_embeddings() is base.get_input_embeddings()
    assert base.get_output_embeddings() is None


@pytest.mark.parametrize("form", FORMS)
def test_without_a_target_the_decoder_reads_the_source_shifted_right(form):
    model = tiny_seq2seq(decoder_form=form).base_model.double()
    batch = padded_source()
    states = model(**batch).last_hidden_state
    for row in range(3):
        real = batch["attention_mask"][row].bool()
        source = batch["input_ids"][row][real][None]
        target = torch.cat([torch.tensor([[2]]), source[:, :-1]], dim=1)
        alone = model(source, decoder_input_ids=target).last_hidden_state
        assert_close(states[row, real], alone[0])
    with pytest.raises(ValueError, match="decoder_start_token_id=None"):
        tiny_seq2seq(decoder_start_token_id=None).base_model(**batch)


def test_feature_extraction(tmp_path):
    tiny_seq2seq(vocab_size=258).save_pretrained(tmp_path)
    ReformerHFByteTokenizer().save_pretrained(tmp_path)
    extract = pipeline("feature-extraction", model=str(tmp_path), return_tensors=True)
    (alone,), (_, padded) = extract(["hi"]), extract(["hello", "hi"], batch_size=2)
    assert_close(padded[:, -2:], alone)


def test_encoder_outputs_in_every_form():
    model, batch = tiny_seq2seq(), {**padded_source(), "labels": random_labels()}
    expected = model(**batch, output_hidden_states=True)
    source = batch.pop("input_ids")
    encoded = model.get_encoder()(source, batch["attention_mask"], output_hidden_states=True)
    for given in (encoded, encoded.to_tuple(), list(encoded.to_tuple())):
        output = model(encoder_outputs=given, **batch)
        assert torch.equal(output.logits, expected.logits)
        assert len(output.encoder_hidden_states) == len(expected.encoder_hidden_states)
        as_tuple = model(encoder_outputs=given, **batch, return_dict=False)
        assert torch.equal(as_tuple[1], expected.logits)
    with pytest.raises(ValueError, match="encoder_outputs holds NoneType"):
        model(encoder_outputs=(), **batch)


@pytest.mark.parametrize(("form", "shared", "tied"), BOTH)
@pytest.mark.parametrize("size", [45, 30])
def test_all_of_a_resized_model_knows_its_vocabulary(form, shared, tied, size, tmp_path):
    model = variant(form, shared, tied)
    words = model.resize_token_embeddings(size)
    assert words is model.get_input_embeddings() and words.num_embeddings == size
    parts = [model, model.base_model, model.get_encoder(), model.get_decoder()]
    assert {part.config.vocab_size for part in parts} == {size}
    source, labels = torch.tensor([[size - 1, 5, 6]]), torch.tensor([[size - 1, 7]])
    logits = model(source, labels=labels).logits
    assert logits.shape == (1, 2, size) and logits.isfinite().all()
    with pytest.raises(ValueError, match=f"input_ids has ids .* vocab_size={size}"):
        model(source + 1, labels=labels)
    model.generate(source, max_new_tokens=2)
    model.save_pretrained(tmp_path)
    again = AutoModelForSeq2SeqLM.from_pretrained(tmp_path)
    assert torch.equal(again(source, labels=labels).logits, logits)


def test_resizing_the_bare_model():
    model = tiny_seq2seq(share_encoder_decoder_embeddings=False).base_model
    assert model.resize_token_embeddings(43, pad_to_multiple_of=8).num_embeddings == 48
    ids = random_ids(1, 5, low=40, high=48)
    assert model(ids, decoder_input_ids=ids).last_hidden_state.isfinite().all()


def test_a_start_token_outside_a_shrunk_vocabulary_is_named():
    model = tiny_seq2seq(decoder_start_token_id=35)
    model.resize_token_embeddings(30)
    with pytest.raises(ValueError, match="decoder_input_ids has ids .* vocab_size=30"):
        model(random_ids(1, 5, high=30), labels=random_ids(1, 4, high=30))


@pytest.mark.parametrize("form", FORMS)
def test_hidden_states_are_those_of_the_target(form):
    model = tiny_seq2seq(decoder_form=form)
    output = model(**padded_source(), labels=random_labels(), output_hidden_states=True)
    assert [state.shape for state in output.decoder_hidden_states] == [(3, 6, 32)] * 4
    assert torch.equal(model.lm_head(output.decoder_hidden_states[-1]), output.logits)


@pytest.mark.parametrize("form", FORMS)
def test_attentions_are_those_of_the_target_to_itself_and_to_the_source(form):
    model, batch = tiny_seq2seq(decoder_form=form).double(), padded_source()
    target = {"decoder_input_ids": random_labels()}
    whole, sparse = (model(**batch, **target, output_attentions=kind) for kind in (True, "sparse"))
    assert [found.shape for found in whole.encoder_attentions] == [(3, 2, 11, 11)] * 3
    assert [found.shape for found in whole.decoder_attentions] == [(3, 2, 6, 6)] * 3
    assert [found.shape for found in whole.cross_attentions] == [(3, 2, 6, 11)] * 3
    padding = (batch["attention_mask"] == 0)[:, None, None].expand(3, 2, 6, 11)
    cache = None
    steps = []
    for place in range(6):
        now = {"decoder_input_ids": target["decoder_input_ids"][:, place : place + 1]}
        step = model(**batch, **now, past_key_values=cache, use_cache=True, output_attentions=True)
        cache = step.past_key_values
        steps.append(step)
    for layer in range(3):
        own, read = whole.decoder_attentions[layer], whole.cross_attentions[layer]
        assert not read[padding].any() and not own.triu(1).any()
        if form == "packed":
            assert_close((own.sum(-1) + read.sum(-1)), torch.ones_like(own[..., 0]))
        assert_close(sparse.decoder_attentions[layer].to_dense(), own)
        assert_close(sparse.cross_attentions[layer], read)
        for place, step in enumerate(steps):
            assert_close(step.decoder_attentions[layer][:, :, 0], own[:, :, place, : place + 1])
            assert_close(step.cross_attentions[layer][:, :, 0], read[:, :, place])


def test_the_cache_tells_that_the_source_is_in_it():
    model = tiny_seq2seq()
    cache = model(**padded_source(), labels=random_labels(), use_cache=True).past_key_values
    assert cache.is_updated == {0: True, 1: True, 2: True}
    assert cache.self_attention_cache.get_seq_length() == 6
    assert cache.cross_attention_cache.get_seq_length() == 11


def test_is_decoder_says_nothing_of_an_encoder_decoder():
    batch = {**padded_source(), "labels": random_labels()}
    assert torch.equal(
        tiny_seq2seq(is_decoder=True)(**batch).logits, tiny_seq2seq()(**batch).logits
    )
