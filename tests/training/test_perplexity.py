"""Windows that overlap: each token scored once, with its context; bits per token and per byte."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import processors
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizer

from reformer_hf import ReformerHFByteTokenizer, ReformerHFTokenizer
from reformer_hf.training.data.token_bytes import TokenBytes
from reformer_hf.training.perplexity import (
    Piece,
    overlapping_windows,
    score_documents,
    tokenize_pieces,
)
from tests.models.tiny import SCOPES, random_ids, tiny_lm
from tests.training.other_tokenizers import EXACT, byte_level, word_piece


def pieces_of(*documents: list[list[int]]) -> list[Piece]:
    """Documents given as lists of pieces; a byte per token."""
    found = []
    for document in documents:
        for index, ids in enumerate(document):
            size = len(ids) - (index == 0)
            last = index == len(document) - 1
            found.append(Piece(np.array(ids, np.int64), size, 0, last))
    return found


SIZES = st.integers(2, 9).flatmap(
    lambda context: st.tuples(st.just(context), st.integers(1, context - 1))
)
DOCUMENTS = st.lists(st.lists(st.integers(0, 7), min_size=1, max_size=4), max_size=4)


@given(sizes=SIZES, documents=DOCUMENTS)
def test_each_token_but_the_first_is_scored_once_with_its_context(sizes, documents):
    context, stride = sizes
    start, expected, given_documents = 0, [], []
    for lengths in documents:
        numbers = list(range(start, start + sum(lengths)))  # each token another number
        cuts = np.cumsum([0, *lengths])
        given_documents.append([numbers[a:b] for a, b in zip(cuts[:-1], cuts[1:], strict=True)])
        expected += [(number, number - numbers[0]) for number in numbers[1:]]
        start += len(numbers) + 1
    found = []
    for window in overlapping_windows(pieces_of(*given_documents), context, stride):
        assert 1 <= window.scored < len(window.ids) <= context
        assert (np.diff(window.ids) == 1).all()  # of one document, without gaps
        places = range(len(window.ids) - window.scored, len(window.ids))
        found += [(int(window.ids[place]), place) for place in places]
    assert [number for number, _ in found] == [number for number, _ in expected]
    for (_, place), (_, before) in zip(found, expected, strict=True):
        assert place >= min(before, context - stride)


def log_probabilities(model, ids: list[int], context: int, stride: int) -> list[float]:
    """Of all tokens but the first, each from the window that scores it, in the plainest way."""
    found = []
    for place in range(1, len(ids)):
        window = 0
        while window * stride + context <= place:
            window += 1
        begin = window * stride
        logits = model(torch.tensor([ids[begin:place]])).logits[0, -1]
        found.append(float(logits.log_softmax(-1)[ids[place]]))
    return found


@pytest.mark.parametrize("stride", [1, 5, 8])
@pytest.mark.parametrize("chunk_size", [0, 3])
def test_scores_equal_those_of_each_token_by_itself(chunk_size, stride):
    model = tiny_lm(chunk_size_lm_head=chunk_size).train()
    documents = [random_ids(length, seed=length).tolist() for length in (23, 1, 4, 9)]
    with torch.no_grad():
        model.eval()
        expected = sum((log_probabilities(model, ids, 9, stride) for ids in documents), [])
        model.train()
    cut = [[ids[:7], ids[7:]] if len(ids) > 7 else [ids] for ids in documents]
    results = []
    for batch_size in (1, 3):
        score = score_documents(model, pieces_of(*cut), 9, stride, batch_size)
        assert model.training
        assert (score.tokens_scored, score.documents) == (22 + 0 + 3 + 8, 4)
        assert score.bytes_scored == score.tokens_scored
        bits = -sum(expected) / math.log(2)
        assert score.bits_per_token == pytest.approx(bits / len(expected), rel=1e-5)
        assert score.bits_per_byte == score.bits_per_token
        assert math.log2(score.perplexity) == pytest.approx(score.bits_per_token)
        results.append(score.windows)
    assert results[0] == results[1]


def test_more_context_is_used():
    model = tiny_lm()
    ids = random_ids(60).tolist()
    few, many = (score_documents(model, pieces_of([ids]), *sizes) for sizes in ((8, 7), (60, 1)))
    assert many.windows == 1 and few.windows == math.ceil((60 - 1) / 7)
    whole = model(torch.tensor([ids]), labels=torch.tensor([ids])).loss
    assert many.bits_per_token == pytest.approx(whole.item() / math.log(2), rel=1e-5)
    assert few.bits_per_token != pytest.approx(many.bits_per_token, rel=1e-3)


def test_other_causal_models_can_be_scored():
    torch.manual_seed(0)
    model = GPT2LMHeadModel(
        GPT2Config(vocab_size=40, n_positions=32, n_embd=8, n_layer=1, n_head=2)
    )
    ids = random_ids(20).tolist()
    score = score_documents(model, pieces_of([ids]), 20, 10)
    loss = model.eval()(torch.tensor([ids]), labels=torch.tensor([ids])).loss
    assert score.bits_per_token == pytest.approx(loss.item() / math.log(2), rel=1e-5)


class TestBytes:
    def test_of_byte_tokens(self):
        texts = [("é", False), ("𝄞a", True), ("", False), ("bc", True)]
        pieces = list(tokenize_pieces(texts, ReformerHFByteTokenizer()))
        assert [len(piece.ids) for piece in pieces] == [2, 5, 0, 2]
        assert [piece.bytes for piece in pieces] == [1, 5, 0, 1]  # less the first of a document
        assert [piece.ends_document for piece in pieces] == [False, True, False, True]

    def test_of_pieces_of_sentencepiece(self):
        tokenizer = ReformerHFTokenizer.train_from_iterator(["éa éa éa éa"], 12)
        text = "éa éa?"
        (piece,) = tokenize_pieces([(text, True)], tokenizer)
        first = tokenizer.decode(piece.ids[:1])
        assert len(piece.ids) < len(text)
        assert piece.bytes == len(text.encode()) - len(first.encode())
        assert piece.unknown == 1  # the question mark

    @pytest.mark.parametrize("make", EXACT)
    def test_of_documents_that_begin_with_a_token_of_their_own(self, make):
        """Then all of their bytes are predicted, in however many pieces they come."""
        tokenizer, texts = make(), [("the cat", False), (" 日本", True), ("", True), ("é", True)]
        pieces = list(tokenize_pieces(texts, tokenizer))
        assert [piece.bytes for piece in pieces] == [len(text.encode()) for text, _ in texts]
        ids = [*pieces[0].ids, *pieces[1].ids, tokenizer.eos_token_id]
        assert ids == tokenizer("the cat 日本")["input_ids"]
        assert len(pieces[2].ids) == 0 and pieces[3].ids[0] == tokenizer.bos_token_id

    @pytest.mark.parametrize("text", ["日本", " the cat", "é"])
    def test_of_a_first_token_that_is_a_part_of_a_character(self, text):
        tokenizer = byte_level()
        tokenizer.backend_tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
        (piece,) = tokenize_pieces([(text, True)], tokenizer)
        first = TokenBytes.of(tokenizer).contents[piece.ids[0]]
        assert text.encode().startswith(first)
        assert piece.bytes == len(text.encode()) - len(first)

    def test_of_the_text_itself_where_tokens_stand_for_none(self):
        (piece,) = tokenize_pieces([("The  Cats", True)], word_piece())
        assert len(piece.ids) == 1 + 3 and piece.bytes == 9

    def test_all_bits_are_charged_to_the_bytes(self):
        model = tiny_lm(vocab_size=259)
        pieces = list(tokenize_pieces([("naïve 𝄞", True)], ReformerHFByteTokenizer()))
        doubled = [piece._replace(bytes=2 * piece.bytes, unknown=3) for piece in pieces]
        score, half = (score_documents(model, given, 8, 4) for given in (pieces, doubled))
        assert half.bits_per_byte == pytest.approx(score.bits_per_byte / 2)
        assert half.bits_per_token == score.bits_per_token and half.unknown_tokens == 3


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize(
    ("context", "stride", "words"),
    [
        (97, 8, ["context_length=97", "at most 96"]),
        (1, 1, ["context_length=1", "at least 2"]),
        (8, 8, ["stride=8", "from 1 to 7"]),
        (8, 0, ["stride=0"]),
    ],
)
def test_sizes_that_do_not_fit_are_refused(context, stride, words, scope):
    with pytest.raises(ValueError) as raised:
        score_documents(tiny_lm(attention_scope=scope), [], context, stride)
    assert all(word in str(raised.value) for word in words)


def test_a_perplexity_beyond_all_numbers_is_none():
    model = tiny_lm()
    model.lm_head.bias.data[3] = 2000.0
    score = score_documents(model, pieces_of([[5, 6, 7]]), 8, 4)
    assert score.perplexity is None and score.bits_per_byte > 2000


def test_tokens_without_bytes_have_no_bits_per_byte():
    pieces = [Piece(np.array([5, 6], np.int64), 0, 0, True)]
    assert score_documents(tiny_lm(), pieces, 8, 4).bits_per_byte is None


def test_a_tokenizer_that_is_not_fast_is_refused():
    class Slow(PreTrainedTokenizer):
        def __init__(self):
            pass

    with pytest.raises(ValueError, match="Slow does not say which characters a token has"):
        list(tokenize_pieces([("a", True)], Slow()))


def test_nothing_to_score_is_an_error():
    with pytest.raises(ValueError, match="nothing to score"):
        score_documents(tiny_lm(), pieces_of([[3]], [[]]), 8, 4)
