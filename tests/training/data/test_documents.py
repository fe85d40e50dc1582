import io
import random

import pytest
from datasets import Dataset

from reformer_hf import ReformerHFByteTokenizer
from reformer_hf.training.data import documents
from reformer_hf.training.data.documents import DocumentTokenizer, read_document
from reformer_hf.training.data.packing import tokenize_documents
from tests.training.other_tokenizers import EXACT, word_piece

WORDS = [
    "the",
    "cat",
    "naïve",
    "日本",
    "🙂",
    "x:",
    "dog;\n\n  def",
    "(f)\r\n",
    "\ttab",
    "and  more",
]


def long_text(words: int = 400) -> str:
    return " ".join(random.Random(0).choices(WORDS, k=words))


@pytest.fixture
def pieces(monkeypatch):
    """Reads a text as a file that is far longer than a piece."""
    monkeypatch.setattr(documents, "_PIECE", 64)

    def read(text, **options):
        return list(read_document(io.StringIO(text, newline=""), **options))

    return read


@pytest.mark.parametrize("make", [*EXACT, ReformerHFByteTokenizer, word_piece])
def test_pieces_give_the_tokens_of_the_whole_text(make, pieces):
    tokenizer, text = make(), long_text()
    found = pieces(text)
    assert len(found) > 10 and "".join(piece["text"] for piece in found) == text
    data = Dataset.from_list(found)
    ids = sum(tokenize_documents(data, tokenizer)["input_ids"], [])
    expected = tokenizer(text)["input_ids"]
    eos = tokenizer.eos_token_id
    if eos is not None and expected[-1] != eos:
        expected.append(eos)
    assert ids == expected
    for special in {tokenizer.bos_token_id, eos, tokenizer.cls_token_id} - {None}:
        assert ids.count(special) == 1
    stream = tokenize_documents(data.to_iterable_dataset(), tokenizer)
    assert sum((row["input_ids"] for row in stream), []) == expected


@pytest.mark.parametrize("make", EXACT)
def test_a_text_without_a_space_gets_none(make, pieces):
    """There words are cut, which gives other tokens, but the same bytes."""
    tokenizer, text = make(), "日本the" * 100
    found = pieces(text)
    assert len(found) > 3
    ids = sum(tokenize_documents(Dataset.from_list(found), tokenizer)["input_ids"], [])
    assert tokenizer.decode(ids, skip_special_tokens=True).strip() == text
    assert ids.count(tokenizer.bos_token_id) == ids.count(tokenizer.eos_token_id) == 1


@pytest.mark.parametrize("text", ["", "\n\n", "a", "a\n", "\n" * 200 + "a" + "\n" * 200])
@pytest.mark.parametrize("keep", [True, False])
def test_a_document_begins_and_ends_once_whatever_is_empty(text, keep, pieces):
    found = pieces(text, keep_linebreaks=keep)
    whole = text if keep else text.replace("\n", "")
    assert "".join(piece["text"] for piece in found) == whole
    assert all(piece["text"] for piece in found)
    count = len(found)
    assert [piece["begins_document"] for piece in found] == [True, *[False] * count][:count]
    assert [piece["ends_document"] for piece in found] == [*[False] * count, True][-count:][:count]


def test_pieces_are_cut_at_words_else_at_lines_else_anywhere(pieces):
    assert pieces("word " * 30)[0]["text"].endswith("word")
    assert pieces("line\n" * 30)[0]["text"].endswith("line\n")
    assert pieces("x" * 100)[0]["text"] == "x" * 64
    # Not in the space of an indented line.
    assert pieces("a b\n" + " " * 80)[0]["text"] == "a"


@pytest.mark.parametrize("make", EXACT)
def test_an_empty_document_has_no_token(make):
    assert DocumentTokenizer(make())(["", ""], [True, False], [True, True]) == [[], []]


def test_special_tokens_that_a_text_has_are_not_doubled():
    tokenizer = EXACT[0]()
    (ids,) = DocumentTokenizer(tokenizer)(["<s>a</s>"], [True], [True])
    assert ids == tokenizer("a")["input_ids"]
