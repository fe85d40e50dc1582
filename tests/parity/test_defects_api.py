"""What a model says, accepts and changes: its head, configuration, arguments and outputs."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close
from transformers import AutoTokenizer, ReformerConfig, ReformerTokenizer

from reformer_hf.models.tokenization_reformer_hf import ReformerHFByteTokenizer
from tests.parity.defect_models import LENGTH, build_ours, build_stock, largest, random_ids

THREE_AXES = {"axial_pos_shape": [4, 4, 4], "axial_pos_embds_dim": [8, 8, 16]}
CHUNK_SIZES = pytest.mark.parametrize("field", ["chunk_size_feed_forward", "chunk_size_lm_head"])


class TestHeadBias:
    """A head's bias belongs to the logits."""

    def moved(self, model: nn.Module) -> float:
        ids = random_ids(2, LENGTH)
        before = model(ids).logits
        with torch.no_grad():
            model.lm_head.bias += 5
        return largest(model(ids).logits - before)

    def test_head_bias_moves_logits(self):
        assert self.moved(build_ours()) == pytest.approx(5)

    def test_stock_head_bias_is_dead(self):
        moved = self.moved(build_stock())
        print(f"bias + 5 moves logits by {moved}")
        assert moved == 0


class TestByteTokenizer:
    """A tokenizer for bytes, with a pad token."""

    def test_every_byte_string_round_trips(self, tmp_path):
        ReformerHFByteTokenizer().save_pretrained(tmp_path)
        tokenizer = AutoTokenizer.from_pretrained(tmp_path)
        text = bytes(range(128)).decode() + "żółw 🐢\r\n "
        ids = tokenizer(text)["input_ids"]
        assert ids == [byte + 2 for byte in text.encode()]
        assert tokenizer.decode(ids) == text
        data = bytes(range(256))
        assert ReformerHFByteTokenizer.decode_bytes(range(258)) == data
        assert (tokenizer.pad_token_id, tokenizer.eos_token_id, len(tokenizer)) == (0, 1, 258)
        assert tokenizer(["a", "bcd"], padding=True)["input_ids"] == [[0, 0, 99], [100, 101, 102]]

    def test_stock_has_no_byte_tokenizer(self, tmp_path):
        # As google/reformer-enwik8: a configuration, weights, no vocabulary.
        ReformerConfig(vocab_size=258).save_pretrained(tmp_path)
        tokenizer = AutoTokenizer.from_pretrained(tmp_path)
        print(f"a tokenizer of {len(tokenizer)} tokens")
        assert isinstance(tokenizer, ReformerTokenizer)
        assert len(tokenizer) == 2
        assert tokenizer.pad_token is None
        with pytest.raises(Exception, match="not found in the vocabulary"):
            tokenizer("hello")


class TestConfiguration:
    """Rows 16 and 20: nothing is written into it, and nothing in it is ignored."""

    def test_forward_leaves_the_configuration(self):
        model = build_ours(num_buckets=None)
        before = model.config.to_dict()
        model(random_ids(1, 16))
        model.train()(random_ids(1, 60)).logits.sum().backward()
        assert model.config.to_dict() == before
        assert model.config.num_buckets is not None

    def test_stock_first_batch_fixes_the_buckets(self):
        model = build_stock(num_buckets=None)
        model(random_ids(1, 16))
        first = model.config.num_buckets
        model(random_ids(1, LENGTH))
        fresh = build_stock(num_buckets=None)
        fresh(random_ids(1, LENGTH))
        found = model.config.num_buckets, fresh.config.num_buckets
        print(f"{found[0]} at {LENGTH} tokens after 16, else {found[1]}")
        assert found[0] == first != found[1]

    def test_tied_embeddings_are_refused(self):
        with pytest.raises(ValueError, match="tie_word_embeddings=True"):
            build_ours(tie_word_embeddings=True)

    def test_stock_ignores_tied_embeddings(self):
        model = build_stock(tie_word_embeddings=True)
        assert model.config.tie_word_embeddings
        assert model.get_input_embeddings().weight is not model.get_output_embeddings().weight


class TestAttentionMaps:
    """Attention that can be read: who attends to whom."""

    @pytest.mark.parametrize("scope", ["band", "chunk"])
    def test_attention_map_names_the_keys(self, scope):
        model, ids = build_ours(attention_scope=scope), random_ids(2, 45)
        values, outputs = [], []
        for layer in model.reformer.encoder.layers:
            attention = layer.attention.self_attention
            attention.value.register_forward_hook(lambda module, inputs, v: values.append(v))
            attention.register_forward_hook(lambda module, inputs, o: outputs.append(o[0]))
        for index, dense in enumerate(model(ids, output_attentions=True).attentions):
            assert_close(dense.sum(dim=-1), torch.ones(2, 2, 45, dtype=torch.float64))
            assert_close(dense, dense.tril())
            value = values[index].unflatten(-1, (2, 16)).transpose(1, 2)
            assert_close((dense @ value).transpose(1, 2).flatten(2), outputs[index])

    def test_stock_attention_is_sorted_without_indices(self):
        outputs = build_stock()(random_ids(2, LENGTH), output_attentions=True)
        print(str(tuple(outputs.attentions[1].shape)))
        # (batch, heads, rounds * chunks, chunk, window), in the order of the buckets.
        assert outputs.attentions[1].shape == (2, 2, 16, 8, 16)
        assert set(outputs) == {"logits", "past_buckets_states", "attentions"}


class TestArguments:
    """Each argument works or is refused."""

    @pytest.mark.parametrize("seq", [61, 64])
    def test_position_ids_at_any_length(self, seq):
        model, ids = build_ours(), random_ids(2, seq)
        places = torch.arange(seq).expand(2, -1)
        assert_close(model(ids, position_ids=places).logits, model(ids).logits)

    def test_stock_position_ids_crash_at_odd_lengths(self):
        with pytest.raises(RuntimeError, match="inconsistent with step sign"):
            build_stock()(random_ids(2, 61), position_ids=torch.arange(61).expand(2, -1))

    def test_misspelt_argument_is_refused(self):
        ids = random_ids(2, LENGTH)
        with pytest.raises(TypeError, match="atention_mask"):
            build_ours()(ids, atention_mask=torch.ones_like(ids))

    def test_stock_swallows_misspelt_arguments(self):
        ids = random_ids(2, LENGTH)
        model = build_stock()
        assert_close(model(ids, atention_mask=torch.zeros_like(ids)).logits, model(ids).logits)

    CHUNK_SIZES = pytest.mark.parametrize(
        "field", ["chunk_size_feed_forward", "chunk_size_lm_head"]
    )

    @CHUNK_SIZES
    def test_chunk_size_need_not_divide_the_length(self, field):
        ids = random_ids(2, LENGTH)
        chunked = build_ours(**{field: 5})(ids, labels=ids)
        whole = build_ours()(ids, labels=ids)
        # transformers' loss is float32 whatever the logits are.
        assert_close(chunked.loss.float(), whole.loss.float())
        assert_close(chunked.logits, whole.logits)

    @CHUNK_SIZES
    def test_stock_chunk_size_must_divide_the_length(self, field):
        with pytest.raises(ValueError, match="multiple of the chunk size"):
            build_stock(**{field: 5})(random_ids(2, LENGTH))

    def test_three_axes_of_positions(self):
        model, ids = build_ours(**THREE_AXES, redraw_rotations=False), random_ids(2, LENGTH)
        assert_close(model.eval()(ids[:, :37]).logits, model.train()(ids).logits[:, :37])

    def test_stock_three_axes_train_but_do_not_run(self):
        model, ids = build_stock(**THREE_AXES), random_ids(2, LENGTH)
        model.train()(ids)
        with pytest.raises(ValueError, match="too many values to unpack"):
            model.eval()(ids)
