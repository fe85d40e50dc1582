"""generate() and the text-generation pipeline against hand-written loops over whole prefixes."""

import pytest
import torch
from torch import Tensor
from transformers import DynamicCache, GenerationConfig, pipeline

from reformer_hf import ReformerHFForCausalLM
from reformer_hf.models.tokenization_reformer_hf import ReformerHFByteTokenizer
from tests.models.tiny import SCOPES, random_ids, tiny_lm

NEW = 5


@pytest.fixture(params=SCOPES)
def model(request) -> ReformerHFForCausalLM:
    """A model of either scope that never ends a text by itself."""
    return tiny_lm(attention_scope=request.param, eos_token_id=None).double()


def all_real(ids: Tensor) -> dict[str, Tensor]:
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def next_log_probabilities(model: ReformerHFForCausalLM, ids: Tensor) -> Tensor:
    with torch.no_grad():
        return model(ids).logits[:, -1].log_softmax(-1)


def greedy_loop(model: ReformerHFForCausalLM, ids: Tensor, steps: int = NEW) -> Tensor:
    for _ in range(steps):
        best = next_log_probabilities(model, ids).argmax(-1, keepdim=True)
        ids = torch.cat([ids, best], dim=1)
    return ids


def beam_loop(model: ReformerHFForCausalLM, prompt: Tensor, width: int, steps: int) -> list[Tensor]:
    """Beam search of one row without an end token: its hypotheses, best first."""
    beams = [(0.0, prompt)]
    for _ in range(steps):
        longer = []
        for score, ids in beams:
            scores = next_log_probabilities(model, ids[None])[0]
            for token, log_probability in enumerate(scores.tolist()):
                text = torch.cat([ids, torch.tensor([token])])
                longer.append((score + log_probability, text))
        beams = sorted(longer, key=lambda beam: -beam[0])[:width]
    return [ids for _, ids in beams]


@pytest.mark.parametrize("options", [{}, {"use_cache": True}, {"use_cache": False}])
def test_greedy(model, options):
    ids = random_ids(3, 6)
    actual = model.generate(**all_real(ids), max_new_tokens=NEW, do_sample=False, **options)
    assert torch.equal(actual, greedy_loop(model, ids))


def test_generation_in_training_mode_runs(model):
    ids = random_ids(1, 6)
    assert model.train().generate(**all_real(ids), max_new_tokens=3).shape == (1, 9)


def test_sampling_draws_from_the_right_distributions(model):
    ids = random_ids(2, 6)
    torch.manual_seed(3)
    options = {"do_sample": True, "top_k": 0, "max_new_tokens": NEW, "num_return_sequences": 2}
    actual = model.generate(**all_real(ids), **options)
    torch.manual_seed(3)
    expected = ids.repeat_interleave(2, dim=0)
    for _ in range(NEW):
        probabilities = next_log_probabilities(model, expected).exp()
        expected = torch.cat([expected, torch.multinomial(probabilities, 1)], dim=1)
    assert torch.equal(actual, expected)
    assert not torch.equal(actual[0], actual[1])


def test_beam_search(model):
    ids = random_ids(2, 5)
    options = {"num_beams": 3, "num_return_sequences": 2, "do_sample": False, "max_new_tokens": 4}
    actual = model.generate(**all_real(ids), **options)
    expected = [text for row in ids for text in beam_loop(model, row, 3, 4)[:2]]
    assert torch.equal(actual, torch.stack(expected))


def test_left_padded_rows_are_continued_as_if_alone(model):
    rows = [random_ids(length, seed=length) for length in (2, 9, 5)]
    batch, mask = torch.zeros(2, 3, 9, dtype=torch.long)
    for index, row in enumerate(rows):
        batch[index, 9 - len(row) :], mask[index, 9 - len(row) :] = row, 1
    options = {"attention_mask": mask, "max_new_tokens": NEW, "do_sample": False}
    expected = [greedy_loop(model, row[None])[0, len(row) :] for row in rows]
    actual = model.generate(batch, **options)[:, 9:]
    assert torch.equal(actual, torch.stack(expected))
    embedded = model.get_input_embeddings()(batch)
    assert torch.equal(model.generate(inputs_embeds=embedded, **options), actual)
    best = model.generate(batch, num_beams=2, **options)[:, 9:]
    alone = [beam_loop(model, row, 2, NEW)[0][len(row) :] for row in rows]
    assert torch.equal(best, torch.stack(alone))


@pytest.mark.parametrize("num_beams", [1, 3])
def test_embedded_prompts(model, num_beams):
    ids = random_ids(2, 6)
    embedded = model.get_input_embeddings()(ids)
    options = {"max_new_tokens": NEW, "do_sample": False, "num_beams": num_beams}
    expected = model.generate(**all_real(ids), **options)
    actual = model.generate(inputs_embeds=embedded, **options)
    assert torch.equal(actual, expected[:, 6:])
    both = model.generate(inputs_embeds=embedded, **all_real(ids), **options)
    assert torch.equal(both, expected)
    # Embeddings that belong to no token decide alone.
    other = model.generate(inputs_embeds=-3 * embedded, **options)
    assert not torch.equal(other, actual)


def test_the_end_token_ends_a_row_only():
    model = tiny_lm(eos_token_id=1).double()
    ids = random_ids(2, 6)
    endless = greedy_loop(model, ids, 20)
    end = int(endless[0, 9])
    settings = GenerationConfig(max_new_tokens=14, eos_token_id=end, pad_token_id=0)
    actual = model.generate(**all_real(ids), generation_config=settings)
    for row, text in zip(actual, endless, strict=True):
        hits = (text[6:] == end).nonzero().flatten().tolist()
        stop = 6 + hits[0] + 1 if hits else 20
        assert torch.equal(row[:stop], text[:20][:stop])
        assert not row[stop:].any()


def test_rounds_and_recorded_outputs_on_request(model):
    ids = random_ids(1, 6)
    output = model.generate(
        **all_real(ids),
        max_new_tokens=2,
        num_hashes=4,
        return_dict_in_generate=True,
        output_attentions=True,
        output_logits=True,
    )
    expected = model(ids, num_hashes=4).logits[:, -1]
    torch.testing.assert_close(output.logits[0].double(), expected, rtol=1e-5, atol=1e-5)
    assert output.attentions[0][1].probabilities.shape[2] == 4


def test_the_position_limit_is_a_clear_error(model):
    ids = random_ids(1, 90)
    options = {"do_sample": False, "pad_token_id": 0}
    assert model.generate(**all_real(ids), max_length=96, **options).shape == (1, 96)
    with pytest.raises(ValueError, match="position 96 is outside the 96 positions.*shorten"):
        model.generate(**all_real(ids), max_new_tokens=20, **options)


def test_what_needs_a_cache_is_refused(model):
    ids = random_ids(1, 6)
    for options in (
        {"past_key_values": DynamicCache()},
        {"assistant_model": model},
        {"prompt_lookup_num_tokens": 2},
    ):
        with pytest.raises((ValueError, RuntimeError), match=r"cache|past_key_values"):
            model.generate(**all_real(ids), max_new_tokens=3, **options)
    with pytest.raises(ValueError, match="temprature"):
        model.generate(**all_real(ids), max_new_tokens=3, temprature=1.0)


def test_nothing_is_printed(model, capfd):
    model.generate(**all_real(random_ids(2, 6)), max_new_tokens=3, num_hashes=3)
    assert capfd.readouterr().out == ""


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
    (text,) = writer(prompts[0], max_new_tokens=NEW, do_sample=False)
    assert text["generated_text"].startswith("Hello")
