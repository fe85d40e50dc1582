"""A vocabulary of one's own texts: nothing is lost of them, whatever their length."""

import random
import sys

import pytest
from transformers import AutoTokenizer

from reformer_hf.training.data.vocabulary import train_sentencepiece


def document(words, seed):
    """Words of six letters, which only a vocabulary that saw them has as pieces."""
    draw = random.Random(seed)
    known = ["".join(random.Random(word).choices("abcdefgh", k=6)) for word in range(40)]
    return " ".join(draw.choices(known, k=words))


@pytest.fixture
def path(tmp_path):
    return tmp_path / "spiece.model"


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    texts = [f"Die Datei {index} <kann> nicht geöffnet werden.\n" for index in range(300)]
    return train_sentencepiece(texts, 400, tmp_path_factory.mktemp("pieces") / "spiece.model")


def test_a_trained_vocabulary_has_its_special_tokens(tokenizer):
    assert len(tokenizer) <= 400
    assert (tokenizer.pad_token_id, tokenizer.unk_token_id, tokenizer.eos_token_id) == (0, 1, 2)
    sentence = "Die Datei nicht geöffnet werden."
    assert len(tokenizer(sentence).input_ids) < len(sentence)


@pytest.mark.parametrize(
    "text",
    [
        *("Die 中 Datei", " two  spaces  ", "a\tb\r\nc\n", "\n", "", " "),
        *("ﬁ ＡＢＣ x² ½ ™ …", "e\u0301 é", "a\u00a0b\u200bc\u3000d\ufeff", "\ufffd \x00 \x01"),
        *("</s> a </s> <unk><pad>", "<0x41> <0xC3>", "<</s>", "▅ 😀"),
    ],
)
def test_decoded_ids_are_the_text(tokenizer, tmp_path, text):
    tokenizer.save_pretrained(tmp_path)
    for each in (tokenizer, AutoTokenizer.from_pretrained(tmp_path)):
        ids = each(text, add_special_tokens=False).input_ids
        assert not set(ids) & {0, 1, 2}
        assert each.decode(ids, skip_special_tokens=True) == text


@pytest.mark.parametrize("separator", [" ", "\n", ".\n", ""])
def test_long_texts_are_learnt_as_short_ones(path, separator):
    """The trainer's limit is 4,192 bytes."""
    texts = [document(20, seed) for seed in range(85)]
    if not separator:
        texts = [text.replace(" ", "") for text in texts]
    short, probe = texts[:80], separator.join(texts[80:])
    known = len(train_sentencepiece(short, 400, path)(probe).input_ids)
    assert known < len(probe) / 4
    long = separator.join(short)
    for texts in ([long], ["hag", long], [f"{long} ▅ {long}"]):
        tokenizer = train_sentencepiece(texts, 400, path)
        assert len(tokenizer(probe).input_ids) <= 1.05 * known
        assert tokenizer.decode(tokenizer(long).input_ids) == long


def test_a_corpus_that_gives_fewer_pieces_is_remarked_on(path, monkeypatch):
    notes = []
    monkeypatch.setattr("reformer_hf.training.data.vocabulary.logger.warning", notes.append)
    tokenizer = train_sentencepiece(["ab ab ab"], 5000, path)
    assert notes == [f"vocab_size=5000: the texts give {len(tokenizer)} pieces"]


@pytest.mark.parametrize(
    ("texts", "vocab_size", "message"),
    [
        (["abc"], 20, "vocab_size=20: 259 pieces .* choose at least 263"),
        (["abc"], 262, "choose at least 263"),
        (["abc"], 0, "vocab_size=0: .*choose hundreds"),
        (["abc"], 2, "vocab_size=2: .*choose hundreds"),
        ([], 400, "the texts to train a vocabulary on are empty"),
        (["", "▅"], 400, "the texts to train a vocabulary on are empty"),
    ],
)
def test_what_cannot_be_trained_is_named(path, texts, vocab_size, message):
    with pytest.raises(ValueError, match=message):
        train_sentencepiece(texts, vocab_size, path)
    assert not path.exists()


def test_the_smallest_vocabulary_that_the_message_names_is_enough(path):
    assert len(train_sentencepiece(["abc"], 263, path)) == 263


def test_a_missing_extra_is_named(path, monkeypatch):
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    with pytest.raises(ImportError, match=r"reformer_hf\[sentencepiece\]"):
        train_sentencepiece(["text"], 400, path)
