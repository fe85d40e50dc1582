import logging

import pytest
import torch
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from reformer_hf import ReformerHFByteTokenizer, ReformerHFTokenizer
from reformer_hf.training.data.documents import DocumentTokenizer
from reformer_hf.training.data.token_bytes import TokenBytes, token_bytes_or_warn, tokens_are_bytes
from tests.training.other_tokenizers import (
    EXACT,
    byte_level,
    byte_level_with_space,
    lower_case,
    metaspace,
    word_piece,
)

TEXTS = [
    "the cat",
    "  two spaces , and a comma .\n\n\ttab\r\n ",
    "naïve 日本 🙂 \ufffd \x00 e\u0301",
    "the end <|x|> <mask>",
    "a",
]


def own_words():
    return ReformerHFTokenizer.train_from_iterator(TEXTS, 200)


@pytest.mark.parametrize("make", [*EXACT, ReformerHFByteTokenizer, own_words])
@pytest.mark.parametrize("text", TEXTS)
def test_the_tokens_of_a_text_have_its_bytes(make, text):
    tokenizer = make()
    known = TokenBytes.of(tokenizer)
    (ids,) = DocumentTokenizer(tokenizer)([text], [True], [True])
    ids = torch.tensor(ids)
    if known.begin is not None:
        # These give " a" and "a" the same tokens.
        merged = make in (byte_level_with_space, metaspace) and text.startswith(" ")
        assert known.count(ids[1:], ids[:-1]) == len(text.encode()) - merged
    else:
        assert known.count(ids) == len(text.encode())
    # Wherever a row ends, also within a character.
    parts = [known.count(part, before) for part, before in zip(ids[1:], ids[:-1], strict=True)]
    assert sum(parts) == known.count(ids[1:], ids[:-1])
    assert known.keeps_text


def test_special_tokens_have_no_bytes_but_those_of_a_text_do():
    tokenizer = byte_level()
    tokenizer.add_special_tokens({"extra_special_tokens": ["<|user|>"]})
    known = TokenBytes.of(tokenizer)
    ids = tokenizer("a<|user|>", return_tensors="pt").input_ids[0]
    assert ids.tolist()[0] == tokenizer.bos_token_id and len(ids) == 4
    assert [known.count(index) for index in ids] == [0, 1, 8, 0]


def test_the_class_is_not_asked_for(tmp_path):
    tokenizer = ReformerHFByteTokenizer()
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    plain = PreTrainedTokenizerFast.from_pretrained(tmp_path)
    assert type(plain) is not type(tokenizer)
    every_byte = torch.arange(258)
    for each in (tokenizer, loaded, plain):
        known = TokenBytes.of(each)
        assert known.count(every_byte) == 256
        assert b"".join(known.contents) == bytes(range(256))


@pytest.mark.parametrize("make, says", [(word_piece, "no bits per byte"), (lower_case, "as it")])
def test_what_does_not_keep_the_text_is_said(make, says, caplog):
    logging.getLogger("transformers").propagate = True
    with caplog.at_level("WARNING"):
        known = token_bytes_or_warn(make())
    assert says in caplog.text
    assert (known is None) == (make is word_piece)


def test_tokens_are_bytes_whatever_the_class_is(tmp_path):
    tokenizer = ReformerHFByteTokenizer()
    tokenizer.save_pretrained(tmp_path)
    assert tokens_are_bytes(tokenizer) and tokens_are_bytes(AutoTokenizer.from_pretrained(tmp_path))
    assert not tokens_are_bytes(ReformerHFTokenizer.train_from_iterator(["a b c d"], 40))
