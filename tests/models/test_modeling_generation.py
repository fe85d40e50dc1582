"""generate() and the text-generation pipeline against plain loops over whole prefixes."""

import logging
from collections.abc import Iterator

import pytest
import torch
from torch.testing import assert_close
from transformers import GenerationConfig, pipeline

from reformer_hf import ReformerHFForCausalLM
from reformer_hf.models.tokenization_reformer_hf import ReformerHFByteTokenizer
from tests.models.generation_loops import (
    MODELS,
    NEW,
    all_real,
    beam_loop,
    build_model,
    cached_greedy_loop,
    greedy_loop,
    next_logits,
    pad_left,
    sample_loop,
    some_rows,
)
from tests.models.tiny import SCOPES, WITH_NGRAMS, random_ids, tiny_lm

MODES = {
    "greedy": {},
    "sampling": {"do_sample": True, "top_k": 0},
    "narrow sampling": {"do_sample": True, "temperature": 1.5, "top_p": 0.8, "top_k": 12},
    "several samples": {"do_sample": True, "num_return_sequences": 3},
    "beams": {"num_beams": 3, "num_return_sequences": 2, "length_penalty": 0.5},
    "sampled beams": {"num_beams": 3, "do_sample": True, "num_return_sequences": 3},
    "no repetition": {"repetition_penalty": 1.3, "no_repeat_ngram_size": 2},
    "an end": {"eos_token_id": list(range(2, 12)), "pad_token_id": 0, "min_new_tokens": 2},
    "beams with an end": {"eos_token_id": [2, 3, 4, 5], "pad_token_id": 0, "num_beams": 3},
    "guidance": {"guidance_scale": 1.7},
}


@pytest.fixture(params=MODELS)
def model(request) -> ReformerHFForCausalLM:
    return build_model(request.param)


@pytest.fixture(autouse=True)
def no_warnings() -> Iterator[None]:
    """Nothing here gives a warning, not even of the kind that is given once."""
    warnings: list[logging.LogRecord] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = warnings.append
    logging.Logger.warning_once.cache_clear()
    logging.getLogger("transformers").addHandler(handler)
    yield
    logging.getLogger("transformers").removeHandler(handler)
    assert not [record.getMessage() for record in warnings]


@pytest.mark.parametrize("options", [{}, {"use_cache": True}, {"use_cache": False}])
def test_greedy(model, options):
    ids = random_ids(3, 14)
    actual = model.generate(**all_real(ids), max_new_tokens=NEW, do_sample=False, **options)
    assert torch.equal(actual, greedy_loop(model, ids))


def test_greedy_in_the_chunk_scope_is_a_loop_of_cached_steps():
    model = build_model("chunk", attn_layers=["lsh", "local", "lsh"])
    ids = random_ids(2, 21)
    actual = model.generate(ids, max_new_tokens=20, do_sample=False)
    assert torch.equal(actual, cached_greedy_loop(model, ids, 20))


def test_sampling_draws_from_the_right_distributions(model):
    ids = random_ids(2, 14)
    torch.manual_seed(3)
    options = {"do_sample": True, "top_k": 0, "max_new_tokens": NEW, "num_return_sequences": 2}
    actual = model.generate(**all_real(ids), **options)
    torch.manual_seed(3)
    assert torch.equal(actual, sample_loop(model, ids.repeat_interleave(2, dim=0)))
    assert not torch.equal(actual[0], actual[1])


def test_beam_search(model):
    ids = random_ids(2, 9)
    options = {"num_beams": 3, "num_return_sequences": 2, "do_sample": False, "max_new_tokens": 6}
    records = {"return_dict_in_generate": True, "output_scores": True}
    actual = model.generate(**all_real(ids), **options, **records)
    expected = [beam for row in ids for beam in beam_loop(model, row, 3, 6)[:2]]
    assert torch.equal(actual.sequences, torch.stack([text for _, text in expected]))
    assert_close(actual.sequences_scores, torch.tensor([score for score, _ in expected]))


@pytest.mark.parametrize("mode", MODES)
def test_each_mode_writes_what_it_writes_without_a_cache(model, mode):
    options = {"do_sample": False, "max_new_tokens": NEW, **MODES[mode]}
    records = {"return_dict_in_generate": True, "output_scores": True, "output_logits": True}
    written = []
    for use_cache in (True, False):
        torch.manual_seed(5)
        batch = pad_left(some_rows(14, 3, 20))
        written.append(model.generate(**batch, use_cache=use_cache, **options, **records))
    cached, plain = written
    assert (cached.past_key_values is None, plain.past_key_values is None) == (False, True)
    assert torch.equal(cached.sequences, plain.sequences)
    for name in ("scores", "logits"):
        assert len(cached[name]) == len(plain[name]) > 0
        for actual, expected in zip(cached[name], plain[name], strict=True):
            assert_close(actual, expected)
    if "num_beams" in options:
        assert_close(cached.sequences_scores, plain.sequences_scores)
        assert torch.equal(cached.beam_indices, plain.beam_indices)


@pytest.mark.parametrize("num_beams", [1, 2])
def test_left_padded_rows_are_continued_as_if_alone(model, num_beams):
    rows = some_rows(2, 19, 5, 11)
    batch = pad_left(rows)
    options = {"max_new_tokens": NEW, "do_sample": False, "num_beams": num_beams}
    expected = [beam_loop(model, row, num_beams)[0][1][len(row) :] for row in rows]
    actual = model.generate(**batch, **options)[:, 19:]
    assert torch.equal(actual, torch.stack(expected))
    embedded = model.get_input_embeddings()(batch["input_ids"])
    mask = batch["attention_mask"]
    actual = model.generate(inputs_embeds=embedded, attention_mask=mask, **options)
    assert torch.equal(actual, torch.stack(expected))


@pytest.mark.parametrize("num_beams", [1, 3])
@pytest.mark.parametrize("use_cache", [True, False])
def test_embedded_prompts(model, num_beams, use_cache):
    ids = random_ids(2, 14)
    embedded = model.get_input_embeddings()(ids)
    options = {"max_new_tokens": NEW, "do_sample": False, "num_beams": num_beams}
    expected = model.generate(**all_real(ids), **options)
    options["use_cache"] = use_cache
    actual = model.generate(inputs_embeds=embedded, **options)
    assert torch.equal(actual, expected[:, 14:])
    both = model.generate(inputs_embeds=embedded, **all_real(ids), **options)
    assert torch.equal(both, expected)
    # Embeddings that belong to no token decide alone.
    other = model.generate(inputs_embeds=-3 * embedded, **options)
    assert not torch.equal(other, actual)


def test_the_end_token_ends_a_row_only(model):
    ids = random_ids(2, 6)
    endless = greedy_loop(model, ids, 14)
    end = int(endless[0, 9])
    settings = GenerationConfig(max_new_tokens=14, eos_token_id=end, pad_token_id=0)
    actual = model.generate(**all_real(ids), generation_config=settings)
    for row, text in zip(actual, endless, strict=True):
        hits = (text[6:] == end).nonzero().flatten().tolist()
        stop = 6 + hits[0] + 1 if hits else 20
        assert torch.equal(row[:stop], text[:20][:stop])
        assert not row[stop:].any()


@pytest.mark.parametrize("use_cache", [True, False])
def test_rounds_on_request(model, use_cache):
    ids = random_ids(2, 14)
    options = {"max_new_tokens": NEW, "do_sample": False, "use_cache": use_cache}
    actual = model.generate(**all_real(ids), num_hashes=4, **options)
    assert torch.equal(actual, greedy_loop(model, ids, num_hashes=4))


def test_training_mode_without_dropout_changes_nothing(model):
    ids = random_ids(2, 14)
    expected = greedy_loop(model, ids)
    options = {"max_new_tokens": NEW, "do_sample": False}
    model.train()
    for layer in model.reformer.encoder.layers:
        layer.feed_forward.eval()  # sparse ones draw in training
    assert torch.equal(model.generate(**all_real(ids), **options), expected)
    assert model.training


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("use_cache", [True, False])
def test_training_mode_applies_dropout(scope, use_cache):
    model = tiny_lm(attention_scope=scope, eos_token_id=None, hidden_dropout_prob=0.3).train()
    options = {"max_new_tokens": 20, "do_sample": False, "use_cache": use_cache}
    texts = [model.generate(random_ids(1, 6), **options) for _ in range(2)]
    assert texts[0].shape == (1, 26) and not torch.equal(*texts)


def test_logits_in_float32(model):
    model = model.float()
    batch = pad_left(some_rows(14, 3))
    records = {"return_dict_in_generate": True, "output_logits": True}
    written = model.generate(**batch, max_new_tokens=4, do_sample=False, **records)
    mask = torch.cat([batch["attention_mask"], torch.ones(2, 3, dtype=torch.long)], dim=1)
    expected = next_logits(model, written.sequences[:, :-1], attention_mask=mask)
    assert_close(written.logits[-1], expected, atol=1e-4, rtol=1e-4)


def test_nothing_is_printed(model, capfd):
    model.generate(**all_real(random_ids(2, 6)), max_new_tokens=3, num_hashes=3, num_beams=2)
    assert capfd.readouterr() == ("", "")


def test_the_pipeline_continues_each_prompt_as_if_alone():
    tokenizer = ReformerHFByteTokenizer()
    model = tiny_lm(vocab_size=tokenizer.vocab_size, eos_token_id=None).double()
    writer = pipeline("text-generation", model=model, tokenizer=tokenizer)
    prompts = ["Hello", "A rather longer prompt", "é"]
    options = {"max_new_tokens": NEW, "do_sample": False, "return_tensors": True}
    written = writer(prompts, batch_size=3, **options)
    for prompt, (output,) in zip(prompts, written, strict=True):
        ids = tokenizer(prompt, return_tensors="pt").input_ids
        expected = greedy_loop(model, ids)[0].tolist()
        assert output["generated_token_ids"][-len(expected) :] == expected
        (alone,) = writer(prompt, **options)
        assert alone["generated_token_ids"] == expected
    (text,) = writer(prompts[0], max_new_tokens=NEW, do_sample=False)
    assert text["generated_text"].startswith("Hello")


@pytest.mark.parametrize("beams", [1, 3])
def test_n_grams_are_those_of_the_own_row_and_beam(beams):
    model = tiny_lm(**{"eos_token_id": None, **WITH_NGRAMS}).double()
    rows = [random_ids(1, 5, seed=1), random_ids(1, 9, seed=2)]
    ids, mask = torch.zeros(2, 9, dtype=torch.long), torch.zeros(2, 9, dtype=torch.long)
    for row, tokens in enumerate(rows):
        ids[row, -tokens.shape[1] :], mask[row, -tokens.shape[1] :] = tokens[0], 1
    options = {"max_new_tokens": 8, "do_sample": False, "num_beams": beams}
    found = model.generate(input_ids=ids, attention_mask=mask, **options)
    for row, tokens in enumerate(rows):
        alone = model.generate(input_ids=tokens, **options, use_cache=False)
        assert torch.equal(found[row, 9:], alone[0, tokens.shape[1] :])
        assert len(alone[0, tokens.shape[1] :].unique()) > 2
