"""The reader of `spiece.model` files gives the ids and texts of sentencepiece itself."""

import sys

import pytest

from reformer_hf.models.tokenization_reformer_hf import ReformerHFTokenizer
from tests.models.sentencepiece_files import CORPUS, train_sentencepiece


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"model_type": "unigram"},
        {"byte_fallback": True, "vocab_size": 500},
        {"remove_extra_whitespaces": False, "normalization_rule_name": "identity"},
        {"add_dummy_prefix": False},
        {"pad_id": 3},
    ],
    ids=lambda options: ",".join(options) or "default",
)
def test_ids_are_those_of_sentencepiece(options, tmp_path):
    processor = train_sentencepiece(tmp_path, **options)
    tokenizer = ReformerHFTokenizer.from_pretrained(tmp_path)
    assert len(tokenizer) == processor.get_piece_size()
    edge_cases = [
        "",
        " ",
        "<0x41> and </s> or <unk>",
        "  two  spaces ",
        "tab\tnewline\n",
        "ﬁ ligature é",
        "日本",
        "aaaaaaa",
    ]
    for text in [*CORPUS, *edge_cases]:
        ids = processor.encode(text)
        assert tokenizer(text, split_special_tokens=True)["input_ids"] == ids, text
        assert tokenizer.decode(ids) == processor.decode(ids).replace(" ⁇ ", "<unk>")


def test_user_defined_symbol_is_one_id(tmp_path):
    processor = train_sentencepiece(tmp_path, user_defined_symbols=["<sep>"])
    tokenizer = ReformerHFTokenizer.from_pretrained(tmp_path)
    index = processor.piece_to_id("<sep>")
    assert tokenizer("a<sep>")["input_ids"] == processor.encode("a<sep>")
    assert tokenizer.decode([index], skip_special_tokens=True) == "<sep>"


def test_reading_sentencepiece_names_the_extra(tmp_path, monkeypatch):
    train_sentencepiece(tmp_path)
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    with pytest.raises(ImportError, match=r"pip install 'reformer_hf\[sentencepiece\]'"):
        ReformerHFTokenizer.from_pretrained(tmp_path)


@pytest.mark.parametrize("content", [b"", b"not a model", b"\x0a\xff\xff\xff"])
def test_damaged_sentencepiece_file(content, tmp_path):
    (tmp_path / "spiece.model").write_bytes(content)
    with pytest.raises(ValueError, match="spiece.model: "):
        ReformerHFTokenizer.from_pretrained(tmp_path)


def test_word_models_are_refused(tmp_path):
    train_sentencepiece(tmp_path, model_type="word", vocab_size=50)
    with pytest.raises(ValueError, match="'bpe' or 'unigram'"):
        ReformerHFTokenizer.from_pretrained(tmp_path)
