"""What else generate() offers: speculation, streams, stops, records and loops of one's own."""

import time
from threading import Thread

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close
from transformers import (
    MaxLengthCriteria,
    StoppingCriteria,
    StoppingCriteriaList,
    TextIteratorStreamer,
    TextStreamer,
)
from transformers.generation.streamers import BaseStreamer

from reformer_hf import ReformerHFCache, ReformerHFForCausalLM
from reformer_hf.models.tokenization_reformer_hf import ReformerHFByteTokenizer
from tests.models.generation_loops import (
    MODELS,
    NEW,
    all_real,
    build_model,
    greedy_loop,
    pad_left,
    some_rows,
)
from tests.models.tiny import random_ids

GREEDY = {"do_sample": False, "max_new_tokens": NEW}


@pytest.fixture(params=MODELS)
def model(request) -> ReformerHFForCausalLM:
    return build_model(request.param)


class Recorder(BaseStreamer):
    """Keeps what is streamed."""

    def __init__(self):
        self.pieces: list[Tensor] = []
        self.ended = False

    def put(self, value):
        self.pieces.append(value.flatten())

    def end(self):
        self.ended = True


class TestSpeculation:
    LONG = {"do_sample": False, "max_new_tokens": 30}

    def assistant(self, name: str) -> ReformerHFForCausalLM:
        """A smaller model of the same scope, whose drafts are often wrong."""
        scope = MODELS[name].get("attention_scope", "band")
        fields = {"attn_layers": ["local", "lsh"], "hidden_size": 8, "axial_pos_embds_dim": [4, 4]}
        return build_model(name, **{**fields, "attention_scope": scope, "seed": 3})

    @pytest.fixture
    def removed(self, monkeypatch) -> list[int]:
        """Counts tokens that were taken back."""
        counts, crop = [], ReformerHFCache.crop

        def counting(cache, tokens_to_remove):
            counts.append(-tokens_to_remove)
            crop(cache, tokens_to_remove)

        monkeypatch.setattr(ReformerHFCache, "crop", counting)
        return counts

    @pytest.mark.parametrize("schedule", ["constant", "heuristic"])
    @pytest.mark.parametrize("name", MODELS)
    def test_an_assistant_does_not_change_the_text(self, name, schedule, removed):
        model, assistant = build_model(name), self.assistant(name)
        assistant.generation_config.num_assistant_tokens = 4
        assistant.generation_config.num_assistant_tokens_schedule = schedule
        assistant.generation_config.assistant_confidence_threshold = 0.0
        ids = random_ids(1, 14)
        written = model.generate(ids, assistant_model=assistant, **self.LONG)
        assert torch.equal(written, greedy_loop(model, ids, 30))
        assert sum(removed) > 0

    @pytest.mark.parametrize("name", MODELS)
    def test_a_model_that_agrees_with_itself_needs_few_passes(self, name):
        model, same, passes = build_model(name), build_model(name), []
        same.generation_config.num_assistant_tokens = 5
        same.generation_config.num_assistant_tokens_schedule = "constant"
        same.generation_config.assistant_confidence_threshold = 0.0
        ids = random_ids(1, 14)
        model.register_forward_hook(lambda *_: passes.append(1))
        written = model.generate(ids, assistant_model=same, **self.LONG)
        assert len(passes) <= 6  # each writes the draft's 5 tokens and one
        assert torch.equal(written, greedy_loop(model, ids, 30))

    @pytest.mark.parametrize("use", ["assistant", "lookup"])
    def test_sampling_from_the_only_token_is_greedy(self, use):
        model = build_model("band")
        ids = random_ids(1, 14).repeat(1, 2)
        options = {"prompt_lookup_num_tokens": 3}
        if use == "assistant":
            options = {"assistant_model": self.assistant("band")}
        written = model.generate(ids, do_sample=True, top_k=1, max_new_tokens=20, **options)
        assert torch.equal(written, greedy_loop(model, ids, 20))

    def test_sampling_with_an_assistant_is_reproducible(self, model):
        ids, texts = random_ids(1, 14), []
        options = {"assistant_model": self.assistant("band"), "max_new_tokens": 20}
        for seed in (1, 1, 2):
            torch.manual_seed(seed)
            texts.append(model.generate(ids, do_sample=True, top_k=0, **options))
        assert torch.equal(texts[0], texts[1]) and not torch.equal(texts[0], texts[2])

    def test_prompt_lookup_does_not_change_the_text(self, model, removed):
        ids = random_ids(1, 10).repeat(1, 3)
        written = model.generate(ids, prompt_lookup_num_tokens=4, **self.LONG)
        assert torch.equal(written, greedy_loop(model, ids, 30))
        assert sum(removed) > 0

    def test_scores_and_a_stream(self):
        model = build_model("band")
        ids, stream = random_ids(1, 10).repeat(1, 2), Recorder()
        records = {"return_dict_in_generate": True, "output_scores": True}
        options = {"assistant_model": self.assistant("band"), "streamer": stream}
        written = model.generate(ids, **options, **records, **self.LONG)
        plain = model.generate(ids, **records, **self.LONG)
        assert_close(torch.stack(written.scores), torch.stack(plain.scores))
        assert torch.equal(torch.cat(stream.pieces), plain.sequences[0]) and stream.ended

    def test_up_to_the_last_position(self):
        model, ids = build_model("band"), random_ids(1, 80)
        options = {"do_sample": False, "max_length": 97}
        expected = greedy_loop(model, ids, 17)
        written = model.generate(ids, assistant_model=self.assistant("band"), **options)
        assert torch.equal(written, expected)


class TestStreams:
    TOKENIZER = ReformerHFByteTokenizer()

    def prompt(self, name: str) -> tuple[ReformerHFForCausalLM, Tensor, str]:
        """A byte-level model, a prompt and its greedy continuation."""
        model = build_model(name, vocab_size=self.TOKENIZER.vocab_size)
        ids = self.TOKENIZER("Hello", return_tensors="pt").input_ids
        text = greedy_loop(model, ids)[0, ids.shape[1] :]
        return model, ids, self.TOKENIZER.decode(text, skip_special_tokens=True)

    @pytest.mark.parametrize("name", MODELS)
    def test_token_by_token(self, name):
        model, ids, _ = self.prompt(name)
        stream = Recorder()
        written = model.generate(ids, streamer=stream, **GREEDY)
        assert [len(piece) for piece in stream.pieces] == [ids.shape[1]] + [1] * NEW
        assert torch.equal(torch.cat(stream.pieces), written[0]) and stream.ended

    @pytest.mark.parametrize("name", MODELS)
    def test_text_to_the_screen(self, name, capsys):
        model, ids, text = self.prompt(name)
        options = {"skip_prompt": True, "skip_special_tokens": True}
        model.generate(ids, streamer=TextStreamer(self.TOKENIZER, **options), **GREEDY)
        assert capsys.readouterr().out == text + "\n"

    @pytest.mark.parametrize("name", MODELS)
    def test_text_to_another_thread(self, name):
        model, ids, text = self.prompt(name)
        options = {"skip_prompt": True, "skip_special_tokens": True, "timeout": 60}
        stream = TextIteratorStreamer(self.TOKENIZER, **options)
        thread = Thread(target=model.generate, args=(ids,), kwargs={"streamer": stream, **GREEDY})
        thread.start()
        assert "".join(stream) == text
        thread.join()


class Mark(StoppingCriteria):
    """Ends each row at one of these tokens."""

    def __init__(self, tokens: Tensor):
        self.tokens = tokens

    def __call__(self, input_ids, scores, **kwargs):
        return torch.isin(input_ids[:, -1], self.tokens)


class TestStops:
    def test_a_string(self):
        tokenizer = ReformerHFByteTokenizer()
        model = build_model("band", vocab_size=tokenizer.vocab_size)
        ids = tokenizer("Hello", return_tensors="pt").input_ids
        no_text = [*range(2 + 32), *range(2 + 127, tokenizer.vocab_size)]
        options = {"max_new_tokens": 20, "suppress_tokens": no_text}
        endless = model.generate(ids, do_sample=False, **options)
        stop = tokenizer.decode(endless[0, 12:14])
        text = tokenizer.decode(endless[0])
        options |= {"stop_strings": [stop], "tokenizer": tokenizer}
        written = tokenizer.decode(model.generate(ids, do_sample=False, **options)[0])
        assert written == text[: text.index(stop, 5) + len(stop)] and len(written) < len(text)

    def test_criteria_of_ones_own(self, model):
        batch = pad_left(some_rows(14, 3, 20))
        endless = model.generate(**batch, do_sample=False, max_new_tokens=20)[:, 20:]
        tokens = endless[:, 4].unique()
        criteria = StoppingCriteriaList([Mark(tokens)])
        options = {"max_new_tokens": 20, "stopping_criteria": criteria}
        written = model.generate(**batch, do_sample=False, **options)[:, 20:]
        hits = torch.isin(endless, tokens).long().argmax(dim=1)
        assert written.shape[1] == hits.max() + 1
        assert torch.equal(written[0, : hits[0] + 1], endless[0, : hits[0] + 1])

    def test_a_length(self, model):
        ids = random_ids(1, 14)
        criteria = StoppingCriteriaList([MaxLengthCriteria(17)])
        written = model.generate(ids, do_sample=False, max_length=30, stopping_criteria=criteria)
        assert torch.equal(written, greedy_loop(model, ids, 3))

    def test_a_time(self, model):
        model.register_forward_hook(lambda *_: time.sleep(0.06))
        written = model.generate(random_ids(1, 14), max_time=0.1, **GREEDY)
        assert 14 < written.shape[1] <= 16


class TestRecords:
    @pytest.mark.parametrize("lengths", [(18,), (18, 5)])
    def test_of_each_step(self, model, lengths):
        batch = pad_left(some_rows(*lengths))
        records = {"output_attentions": True, "output_hidden_states": True}
        written = model.generate(**batch, **records, **GREEDY, return_dict_in_generate=True)
        assert len(written.attentions) == len(written.hidden_states) == NEW
        mask = batch["attention_mask"]
        for step in range(NEW):
            seq, new = 18 + step, 1 if step else 18
            with torch.no_grad():
                ids = written.sequences[:, :seq]
                expected = model(ids, attention_mask=mask, use_cache=False, **records)
            mask = torch.cat([mask, torch.ones_like(mask[:, :1])], dim=1)
            for mine, theirs in zip(
                written.hidden_states[step], expected.hidden_states, strict=True
            ):
                assert mine.shape[1] == new
                assert_close(mine[:, -1], theirs[:, -1])
            for mine, theirs in zip(written.attentions[step], expected.attentions, strict=True):
                assert mine.shape == (len(ids), 2, new, seq)
                assert_close(mine.sum(dim=-1), torch.ones(len(ids), 2, new).double())
                assert_close(mine[:, :, -1], theirs[:, :, -1])

    @pytest.mark.parametrize("mode", [{"num_beams": 2}, {"num_return_sequences": 2}])
    def test_with_several_texts_per_prompt(self, model, mode):
        records = {"output_attentions": True, "output_hidden_states": True}
        options = {**mode, **records, "do_sample": True, "max_new_tokens": 3}
        written = model.generate(random_ids(2, 9), **options, return_dict_in_generate=True)
        assert written.attentions[1][0].shape == (4, 2, 1, 10)
        assert written.hidden_states[2][0].shape[:2] == (4, 1)


def test_a_loop_of_ones_own(model):
    def loop(model, input_ids, logits_processor, stopping_criteria, generation_config, **kwargs):
        assert len(logits_processor) == 0 and len(stopping_criteria) == 1
        for step in range(generation_config.max_new_tokens):
            inputs = model.prepare_inputs_for_generation(
                input_ids, next_sequence_length=1 if step else None, **kwargs
            )
            outputs = model(**inputs)
            kwargs = model._update_model_kwargs_for_generation(outputs, kwargs)
            input_ids = torch.cat([input_ids, outputs.logits[:, -1:].argmax(-1)], dim=1)
        assert isinstance(kwargs["past_key_values"], ReformerHFCache)
        return input_ids

    ids = random_ids(2, 14)
    written = model.generate(**all_real(ids), custom_generate=loop, **GREEDY)
    assert torch.equal(written, greedy_loop(model, ids))
