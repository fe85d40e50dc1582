"""`generate()` of the encoder-decoder: with a cache as without, whatever the padding."""

import pytest
import torch
from torch.testing import assert_close
from transformers import DynamicCache, EncoderDecoderCache

from reformer_hf import ReformerHFForConditionalGeneration
from reformer_hf.models.cache_reformer_hf import ReformerHFCache
from tests.models.seq2seq import FORMS, KINDS, padded_source, random_labels, tiny_seq2seq
from tests.models.tiny import ALL_OPTIONS, SPARSE_PROJECTIONS, WITH_SRU, random_ids

ALL_KINDS = {"encoder_attn_layers": KINDS, "decoder_attn_layers": KINDS}


def model_of(form: str, **fields) -> ReformerHFForConditionalGeneration:
    """In float64, and without an end of sequence, so that long targets are compared."""
    model = tiny_seq2seq(decoder_form=form, **fields).double()
    model.generation_config.eos_token_id = None
    return model


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("padding", [0, 2])
@pytest.mark.parametrize("splits", [[6], [1] * 6, [2, 1, 3]])
def test_cached_passes_equal_one_without(form, padding, splits):
    """Of any sizes, with the source padded on both sides and the target on the left."""
    options = {**ALL_KINDS, **ALL_OPTIONS, **SPARSE_PROJECTIONS, **WITH_SRU}
    model, source = model_of(form, **options), padded_source()
    ids = random_labels()
    ids[1, :padding] = 0  # padding before the start token
    ids[:, padding] = 2
    mask = torch.ones_like(ids)
    mask[1, :padding] = 0
    expected = model(**source, decoder_input_ids=ids).logits
    encoded = model.get_encoder()(**source)
    cache, begin, parts = None, 0, []
    for size in splits:
        output = model(
            encoder_outputs=encoded,
            attention_mask=source["attention_mask"],
            decoder_input_ids=ids[:, begin : begin + size],
            decoder_attention_mask=mask[:, : begin + size],
            past_key_values=cache,
            use_cache=True,
        )
        cache, begin = output.past_key_values, begin + size
        assert not output.logits.requires_grad
        assert cache.get_seq_length() == begin
        parts.append(output.logits)
    found = torch.cat(parts, dim=1)
    assert_close(found[mask.bool()], expected[mask.bool()])


MODES = {
    "greedy": {},
    "sampling": {"do_sample": True, "top_k": 5},
    "beams": {"num_beams": 3, "num_return_sequences": 2, "length_penalty": 2.0},
    "beam sampling": {"num_beams": 2, "do_sample": True},
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("mode", MODES)
def test_each_mode_writes_what_it_writes_without_a_cache(form, mode):
    model, written = model_of(form, **ALL_KINDS), []
    for use_cache in (True, False):
        torch.manual_seed(5)
        options = {**MODES[mode], "max_new_tokens": 10, "use_cache": use_cache}
        written.append(model.generate(**padded_source(), **options))
    assert torch.equal(*written)
    assert len(written[0].unique(dim=0)) >= 3


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("num_beams", [1, 3])
def test_each_row_is_continued_as_if_alone(form, num_beams):
    model, batch = model_of(form, **ALL_KINDS), padded_source()
    options = {"max_new_tokens": 8, "num_beams": num_beams}
    together = model.generate(**batch, **options)
    for row in range(3):
        source = batch["input_ids"][row][batch["attention_mask"][row].bool()][None]
        assert torch.equal(model.generate(source, **options), together[row : row + 1])


def test_length_penalty_prefers_longer_targets():
    ends = list(range(5, 20))
    model, lengths = tiny_seq2seq(eos_token_id=ends), []
    for penalty in (-5.0, 5.0):
        options = {"num_beams": 4, "max_new_tokens": 12, "length_penalty": penalty}
        written = model.generate(**padded_source(), **options)[:, 1:]
        ended = torch.isin(written, torch.tensor(ends)).long().cumsum(dim=1)
        lengths.append(int((ended == 0).sum()))
    assert lengths[0] < lengths[1]


@pytest.mark.parametrize("form", FORMS)
def test_the_source_is_encoded_and_projected_once(form):
    model, calls = model_of(form), {}
    watched = {"encoder": model.reformer.encoder}
    if form == "packed":
        watched["bridge"] = model.reformer.enc_to_dec_proj
    else:
        attention = model.reformer.decoder.encoder.layers[1].cross_attention.cross_attention
        watched |= {"key": attention.key, "value": attention.value}
    for name, module in watched.items():
        calls[name] = 0

        def count(*_, name=name) -> None:
            calls[name] += 1

        module.register_forward_hook(count)
    model.generate(**padded_source(), max_new_tokens=6, num_beams=2)
    assert set(calls.values()) == {1}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "options",
    [
        {"prompt_lookup_num_tokens": 2},
        {"cache_implementation": "offloaded"},
        {"num_hashes": 3},
    ],
    ids=lambda options: next(iter(options)),
)
def test_other_ways_to_generate(form, options):
    """A prompt for the decoder, which lookup finds again; each way writes what greedy does."""
    model = model_of(form, **ALL_KINDS)
    source, prompt = random_ids(1, 9, low=3), torch.tensor([[2, 5, 6, 5, 6, 5]])
    rounds = {"num_hashes": 3} if "num_hashes" in options else {}
    expected = model.generate(
        source, decoder_input_ids=prompt, max_new_tokens=6, use_cache=False, **rounds
    )
    found = model.generate(source, decoder_input_ids=prompt, max_new_tokens=6, **options)
    assert torch.equal(found, expected)


@pytest.mark.parametrize("form", FORMS)
def test_an_assistant_drafts(form):
    model, assistant = model_of(form, **ALL_KINDS), model_of(form, seed=1)
    source = random_ids(1, 9, low=3)
    expected = model.generate(source, max_new_tokens=8)
    assert torch.equal(
        model.generate(source, max_new_tokens=8, assistant_model=assistant), expected
    )


@pytest.mark.parametrize("form", FORMS)
def test_padded_prompts_of_the_decoder(form):
    model, batch = model_of(form, **ALL_KINDS), padded_source()
    prompt = torch.tensor([[0, 2, 7], [2, 8, 9], [0, 2, 5]])
    mask = torch.tensor([[0, 1, 1], [1, 1, 1], [0, 1, 1]])
    together = model.generate(
        **batch, decoder_input_ids=prompt, decoder_attention_mask=mask, max_new_tokens=5
    )
    for row in range(3):
        source = batch["input_ids"][row][batch["attention_mask"][row].bool()][None]
        alone = prompt[row][mask[row].bool()][None]
        written = model.generate(source, decoder_input_ids=alone, max_new_tokens=5)
        assert torch.equal(written[0, -5:], together[row, -5:])


def test_a_cache_of_transformers_own_making_serves_too():
    model, source = model_of("cross_attention"), padded_source()
    expected = model.generate(**source, max_new_tokens=4)
    cache = EncoderDecoderCache(ReformerHFCache(model.config), DynamicCache())
    assert torch.equal(model.generate(**source, max_new_tokens=4, past_key_values=cache), expected)
    assert cache.get_seq_length() == 4
    cache.reset()
    assert torch.equal(model.generate(**source, max_new_tokens=4, past_key_values=cache), expected)


def test_the_packed_cache_counts_and_takes_back_target_tokens():
    model, source = model_of("packed"), padded_source()
    ids = random_labels()
    expected = model(**source, decoder_input_ids=ids).logits
    cache = model(**source, decoder_input_ids=ids[:, :4], use_cache=True).past_key_values
    assert cache.get_seq_length() == 4
    cache.activate_past_recording()
    model(**source, decoder_input_ids=ids[:, :2], past_key_values=cache)
    cache.crop(-2)
    with pytest.raises(ValueError, match=r"crop\(-5\): the target has 4 tokens"):
        cache.crop(-5)
    found = model(**source, decoder_input_ids=ids[:, 4:], past_key_values=cache).logits
    assert_close(found, expected[:, 4:])
    cache.reset()
    assert cache.get_seq_length() == 0
    found = model(**source, decoder_input_ids=ids, past_key_values=cache).logits
    assert_close(found, expected)


def test_what_is_recorded():
    model = model_of("cross_attention")
    output = model.generate(
        **padded_source(),
        max_new_tokens=3,
        return_dict_in_generate=True,
        output_scores=True,
        output_attentions=True,
        output_hidden_states=True,
    )
    assert len(output.scores) == len(output.cross_attentions) == 3
    assert output.cross_attentions[2][1].shape == (3, 2, 1, 11)
    assert len(output.encoder_hidden_states) == 4


@pytest.mark.parametrize("form", FORMS)
def test_what_cannot_be_is_refused_before_the_first_token(form):
    model = model_of(form)
    with pytest.raises(ValueError, match="target may have 98 tokens.* has 96 positions"):
        model.generate(random_ids(1, 5), max_new_tokens=97)
    with pytest.raises(ValueError, match="position 96 is outside the 96 positions"):
        model.generate(random_ids(1, 97), max_new_tokens=2)
    with pytest.raises(ValueError, match="cache_implementation='static'"):
        model.generate(random_ids(1, 5), max_new_tokens=2, cache_implementation="static")
    with pytest.raises(ValueError, match="prefill_chunk_size=2 with an encoder-decoder"):
        model.generate(random_ids(1, 5), max_new_tokens=2, prefill_chunk_size=2)
    with pytest.raises(ValueError, match=f"DynamicCache, but decoder_form='{form}' needs a"):
        model(random_ids(1, 5), labels=random_ids(1, 3), past_key_values=DynamicCache())
    with pytest.raises(ValueError, match=r"attention_mask has shape \(1, 7\)"):
        model(
            random_ids(1, 5),
            decoder_input_ids=random_ids(1, 3),
            decoder_attention_mask=torch.ones(1, 7),
            use_cache=True,
        )


@pytest.mark.parametrize("form", FORMS)
def test_encoder_outputs_in_every_form_which_stay_as_they_are(form):
    model, source = model_of(form), padded_source()
    options = {"num_beams": 2, "max_new_tokens": 4, "attention_mask": source["attention_mask"]}
    expected = model.generate(source["input_ids"], **options)
    encoded = model.get_encoder()(**source)
    for given in (encoded, encoded, encoded.to_tuple(), list(encoded.to_tuple())):
        assert torch.equal(model.generate(encoder_outputs=given, **options), expected)
