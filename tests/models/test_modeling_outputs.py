"""What models return stands in the graph of the loss, and has the width that was asked for."""

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close
from transformers import AutoModel, pipeline

from reformer_hf import ReformerHFByteTokenizer, ReformerHFModel
from tests.models.heads import HEADS
from tests.models.seq2seq import FORMS, padded_source, random_labels, seq2seq_config, tiny_seq2seq
from tests.models.test_modeling_reversible import CallCounter
from tests.models.tiny import (
    dropout_fields,
    gradients,
    loss_and_gradients,
    random_ids,
    tiny_config,
    tiny_encoder,
    tiny_lm,
)

KINDS = ["local", "lsh", "full"]


@pytest.mark.parametrize("reversible", [True, False])
class TestHiddenStates:
    def test_each_gets_its_gradient(self, reversible):
        model = tiny_lm(attn_layers=KINDS, reversible=reversible).double().train()
        ids = random_ids(2, 13)
        torch.manual_seed(3)
        output = model(ids, labels=ids, output_hidden_states=True)
        assert output.hidden_states[-1].shape == (2, 13, 32)
        for state in output.hidden_states:
            state.retain_grad()
        output.loss.backward()
        # Of the first one half is what the embedded tokens get from each stream.
        by_embedded = output.hidden_states[0].grad.unflatten(-1, (2, -1)).sum(dim=-2)
        embeds = model.get_input_embeddings()(ids).detach().requires_grad_()
        torch.manual_seed(3)
        model(inputs_embeds=embeds, labels=ids).loss.backward()
        assert_close(by_embedded, embeds.grad)
        for state in output.hidden_states:
            assert state.grad.isfinite().all() and state.grad.any(dim=-1)[:, :-1].all()

    def test_asking_changes_neither_outputs_nor_gradients(self, reversible):
        model = tiny_lm(attn_layers=KINDS, reversible=reversible, **dropout_fields()).double()
        ids, results = random_ids(2, 13), []
        for asked in (False, True):
            torch.manual_seed(5)
            inputs = {"input_ids": ids, "labels": ids, "output_hidden_states": asked}
            results.append(loss_and_gradients(model.train(), **inputs))
        assert_close(results[0], results[1], rtol=1e-6, atol=1e-9)

    def test_layers_are_replayed_as_otherwise(self, reversible):
        model = tiny_lm(attn_layers=KINDS, reversible=reversible).train()
        counter, ids = CallCounter(model), random_ids(2, 13)
        model(ids, labels=ids, output_hidden_states=True).loss.backward()
        assert counter.take() == {2 if reversible else 1}

    @pytest.mark.parametrize("form", FORMS)
    def test_of_both_sides_of_an_encoder_decoder(self, reversible, form):
        model = tiny_seq2seq(decoder_form=form, reversible=reversible).train()
        output = model(**padded_source(), labels=random_labels(), output_hidden_states=True)
        states = [*output.encoder_hidden_states, *output.decoder_hidden_states]
        for state in states:
            state.retain_grad()
        output.loss.backward()
        assert len(states) == 8 and all(state.grad.any() for state in states)


def bytes_saved(model: nn.Module, **options: bool) -> int:
    """Bytes that autograd keeps of a forward pass besides parameters and returned states."""
    saved: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if not isinstance(tensor, nn.Parameter):
            saved[storage._cdata] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = model(random_ids(2, 32), **options)
    for state in output.hidden_states or ():
        saved.pop(state.untyped_storage()._cdata, None)
    return sum(saved.values())


def test_returned_states_do_not_make_layers_store_more():
    models = [tiny_lm(attn_layers=["local"] * depth).reformer for depth in (1, 4)]
    plain, asked = (
        [bytes_saved(model, output_hidden_states=wanted) for model in models]
        for wanted in (False, True)
    )
    assert plain[0] == plain[1] == asked[0] == asked[1]


def assert_in_the_graph(loss: Tensor, *logits: Tensor) -> None:
    """The loss has a gradient by the logits, which `retain_grad` shows, too."""
    found = torch.autograd.grad(loss, logits, retain_graph=True)
    for one in logits:
        one.retain_grad()
    loss.backward()
    for one, gradient in zip(logits, found, strict=True):
        assert gradient.any()
        assert torch.equal(one.grad, gradient)


class TestLogits:
    @pytest.mark.parametrize("name", HEADS)
    def test_of_a_task_head(self, name):
        model = HEADS[name].build()
        output = model(**HEADS[name].batch(2, 9))
        if "start_logits" in output:
            assert_in_the_graph(output.loss, output.start_logits, output.end_logits)
        else:
            assert_in_the_graph(output.loss, output.logits)

    @pytest.mark.parametrize("chunk_size", [0, 4])
    @pytest.mark.parametrize("training", [True, False])
    def test_of_causal_models(self, training, chunk_size):
        model, ids = tiny_lm(chunk_size_lm_head=chunk_size).train(training), random_ids(2, 13)
        shifted = {"input_ids": ids[:, :-1], "shift_labels": ids[:, 1:]}
        for inputs in ({"input_ids": ids, "labels": ids}, shifted):
            output = model(**inputs)
            if training and chunk_size:
                assert output.logits is None
            else:
                assert_in_the_graph(output.loss, output.logits)

    @pytest.mark.parametrize(
        ("form", "training", "chunk_size"),
        [("cross_attention", True, 0), ("packed", False, 4), ("packed", True, 4)],
    )
    def test_of_encoder_decoders(self, form, training, chunk_size):
        model = tiny_seq2seq(decoder_form=form, chunk_size_lm_head=chunk_size).train(training)
        output = model(**padded_source(), labels=random_labels())
        if training and chunk_size:
            assert output.logits is None
        else:
            assert_in_the_graph(output.loss, output.logits)

    @pytest.mark.parametrize("chunk_size", [0, 4])
    def test_are_computed_once(self, chunk_size):
        model, shapes = tiny_lm(chunk_size_lm_head=chunk_size), []
        model.lm_head.register_forward_hook(lambda *call: shapes.append(call[2].shape))
        model(random_ids(2, 13), labels=random_ids(2, 13)).loss.backward()
        assert shapes == [(2, 13, 40)]

    def test_the_gradient_of_a_chunked_loss_is_that_of_a_whole_one(self):
        found = []
        for chunk_size in (0, 4):
            model, ids = tiny_lm(chunk_size_lm_head=chunk_size), random_ids(2, 13)
            output = model(ids, labels=ids)
            found.append(torch.autograd.grad(output.loss, output.logits, retain_graph=True)[0])
            output.loss.backward()
            found.append(gradients(model))
        assert_close(found[:2], found[2:])


class TestMeanOfStreams:
    def test_states_of_the_bare_model(self):
        both, mean = tiny_encoder(), tiny_encoder(output_streams="mean")
        ids = random_ids(2, 13)
        expected = both(ids, output_hidden_states=True).hidden_states
        output = mean(ids, output_hidden_states=True)
        assert output.last_hidden_state is output.hidden_states[-1]
        for found, wide in zip(output.hidden_states, expected, strict=True):
            assert found.shape == (2, 13, mean.config.hidden_size)
            assert_close(found, (wide[..., :16] + wide[..., 16:]) / 2)
        assert_close(mean(ids).last_hidden_state, output.last_hidden_state)
        assert mean(ids).hidden_states is None

    def test_a_layer_behind_trains_the_model(self):
        model = tiny_encoder(output_streams="mean").train()
        behind = nn.Linear(model.config.hidden_size, 3)
        behind(model(random_ids(2, 13)).last_hidden_state).square().mean().backward()
        assert len(gradients(model)) == len(list(model.parameters()))

    @pytest.mark.parametrize("chunk_size", [0, 4])
    @pytest.mark.parametrize("training", [True, False])
    def test_heads_read_both(self, training, chunk_size):
        fields = {"redraw_rotations": False, "chunk_size_lm_head": chunk_size}
        both = tiny_lm(**fields).train(training)
        mean = tiny_lm(output_streams="mean", **fields).train(training)
        ids = random_ids(2, 13)
        for asked in (False, True):
            output = mean(ids, labels=ids, output_hidden_states=asked)
            assert_close(output.loss, both(ids, labels=ids).loss)
        assert [state.shape[-1] for state in output.hidden_states] == [16] * 3
        cached = mean(ids, use_cache=True, output_hidden_states=True)
        assert_close(cached.logits, both(ids, use_cache=True).logits)
        assert cached.hidden_states[0].shape == (2, 13, 16)

    @pytest.mark.parametrize("name", ["masked language model", "single label", "multiple choice"])
    def test_task_heads_read_both(self, name):
        head = HEADS[name]
        batch = head.batch(2, 9)
        output = head.build(output_streams="mean")(**batch, output_hidden_states=True)
        assert_close(output.loss, head.build()(**batch).loss)
        assert output.hidden_states[-1].shape[-1] == 16

    def test_it_is_saved_and_pipelines_follow_it(self, tmp_path):
        fields = {"vocab_size": 258, "output_streams": "mean"}
        tiny_lm(**fields).save_pretrained(tmp_path)
        model = AutoModel.from_pretrained(tmp_path)
        assert isinstance(model, ReformerHFModel) and model.config.output_streams == "mean"
        tokenizer = ReformerHFByteTokenizer()
        extract = pipeline("feature-extraction", model=model, tokenizer=tokenizer)
        assert torch.tensor(extract("some text")).shape[-1] == model.config.hidden_size
        model = AutoModel.from_pretrained(tmp_path, output_streams="both")
        extract = pipeline("feature-extraction", model=model, tokenizer=tokenizer)
        assert torch.tensor(extract("some text")).shape[-1] == 2 * model.config.hidden_size

    def test_what_is_refused(self):
        with pytest.raises(ValueError, match="output_streams='first': choose one of"):
            tiny_config(output_streams="first")
        with pytest.raises(ValueError, match="output_streams='mean' with is_encoder_decoder=True"):
            seq2seq_config(output_streams="mean")
