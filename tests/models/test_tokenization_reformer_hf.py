"""Byte and SentencePiece tokenizers: ids, exact round trips, padding, files."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoConfig, AutoTokenizer, PreTrainedTokenizerFast

from reformer_hf.models.configuration_reformer_hf import ReformerHFConfig
from reformer_hf.models.tokenization_reformer_hf import (
    ReformerHFByteTokenizer,
    ReformerHFTokenizer,
    register_tokenizers,
)
from tests.models.sentencepiece_files import CORPUS, train_sentencepiece

BYTE_TOKENIZER = ReformerHFByteTokenizer()

# Loads folders in a process without this package and prints what texts give there.
FOREIGN_PROCESS = """
import json, sys
from transformers import AutoTokenizer

def describe(folder):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    batch = tokenizer(json.loads(sys.argv[1]), padding=True)
    return [dict(batch), [tokenizer.decode(ids) for ids in batch["input_ids"]],
            tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.model_max_length]

descriptions = [describe(folder) for folder in sys.argv[2:]]
assert not any(name.startswith("reformer_hf") for name in sys.modules)
print(json.dumps(descriptions))
"""


@pytest.fixture(scope="module")
def sentencepiece_folder(tmp_path_factory) -> Path:
    """Only `spiece.model`, with `<unk>` 0, `<s>` 1, `</s>` 2 and no pad piece."""
    folder = tmp_path_factory.mktemp("sentencepiece")
    train_sentencepiece(folder)
    return folder


@pytest.fixture(scope="module")
def trained() -> ReformerHFTokenizer:
    return ReformerHFTokenizer.train_from_iterator(CORPUS, vocab_size=320, model_max_length=64)


# Bytes


@given(st.binary())
def test_arbitrary_bytes_round_trip(data):
    ids = BYTE_TOKENIZER.encode_bytes(data)
    assert ids == [byte + 2 for byte in data]
    assert BYTE_TOKENIZER.decode_bytes(ids) == data


@given(st.text())
def test_arbitrary_text_is_its_utf8_bytes_plus_two(text):
    ids = BYTE_TOKENIZER(text)["input_ids"]
    assert ids == [byte + 2 for byte in text.encode()]
    assert BYTE_TOKENIZER.decode(ids) == text


@pytest.mark.parametrize(
    "text", ["", "\0", " a  b ", "\r\n", "é", "e\u0301", "😀", "</s>", "<pad>x", "Ġ", "\U0010ffff"]
)
def test_text_that_tokenizers_like_to_change(text):
    ids = BYTE_TOKENIZER(text)["input_ids"]
    assert bytes(index - 2 for index in ids) == text.encode()
    assert BYTE_TOKENIZER.decode(ids) == text


def test_byte_vocabulary_is_that_of_enwik8():
    assert len(BYTE_TOKENIZER) == BYTE_TOKENIZER.vocab_size == 258
    assert (BYTE_TOKENIZER.pad_token_id, BYTE_TOKENIZER.eos_token_id) == (0, 1)
    assert BYTE_TOKENIZER.is_fast


def test_special_tokens_in_text_are_text_unless_asked():
    assert BYTE_TOKENIZER("a</s>")["input_ids"] == [99, 62, 49, 117, 64]
    assert BYTE_TOKENIZER("a</s>", split_special_tokens=False)["input_ids"] == [99, 1]
    assert BYTE_TOKENIZER.decode([99, 1, 0], skip_special_tokens=True) == "a"


def test_decode_bytes_leaves_out_padding_and_takes_tensors():
    assert BYTE_TOKENIZER.decode_bytes(torch.tensor([0, 0, 257, 2, 1])) == b"\xff\x00"


@pytest.mark.parametrize("index", [-100, 258])
def test_decode_bytes_names_an_id_out_of_range(index):
    with pytest.raises(ValueError, match=f"id {index} is not in 0 … 257"):
        BYTE_TOKENIZER.decode_bytes([5, index])


@pytest.mark.parametrize("text", ["\udc80", ["fine", "\udc80"]])
def test_text_without_utf8_form_points_to_the_bytes(text):
    with pytest.raises(ValueError, match="encode_bytes"):
        BYTE_TOKENIZER(text)


def test_bytes_that_are_not_utf8_decode_to_replacement_characters():
    assert BYTE_TOKENIZER.decode(BYTE_TOKENIZER.encode_bytes(b"a\xffb")) == "a\ufffdb"


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_on_either_side(side):
    batch = BYTE_TOKENIZER(["a", "bcd"], padding=True, padding_side=side, return_tensors="pt")
    short = {"left": [0, 0, 99], "right": [99, 0, 0]}[side]
    assert set(batch) == {"input_ids", "attention_mask"}
    assert batch["input_ids"].tolist() == [short, [100, 101, 102]]
    assert batch["attention_mask"].tolist() == [[int(i > 0) for i in short], [1, 1, 1]]


def test_padding_is_on_the_left_by_default():
    assert BYTE_TOKENIZER(["a", "bcd"], padding=True)["input_ids"][0] == [0, 0, 99]


def test_truncation_to_the_longest_input():
    tokenizer = ReformerHFByteTokenizer(model_max_length=3)
    assert tokenizer("abcd", truncation=True)["input_ids"] == [99, 100, 101]


def test_end_of_sequence_on_request():
    tokenizer = ReformerHFByteTokenizer(add_eos_token=True)
    assert tokenizer("a")["input_ids"] == [99, 1]


def test_foreign_vocabulary_is_refused(trained, tmp_path):
    trained.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="vocab of 320 tokens"):
        ReformerHFByteTokenizer.from_pretrained(tmp_path)


# SentencePiece


def test_pad_token_is_the_unknown_piece_where_there_is_no_other(sentencepiece_folder):
    tokenizer = ReformerHFTokenizer.from_pretrained(sentencepiece_folder)
    assert (tokenizer.pad_token, tokenizer.pad_token_id) == ("<unk>", 0)
    assert (tokenizer.unk_token_id, tokenizer.eos_token_id) == (0, 2)
    assert len(tokenizer) == 320
    batch = tokenizer(["a", "a 日 a b c"], padding=True)
    assert batch["attention_mask"][0][0] == 0
    assert 0 in batch["input_ids"][1] and set(batch["attention_mask"][1]) == {1}


def test_pad_token_of_the_vocabulary_comes_first(tmp_path):
    train_sentencepiece(tmp_path, pad_id=3, pad_piece="[PAD]")
    tokenizer = ReformerHFTokenizer.from_pretrained(tmp_path)
    assert (tokenizer.pad_token, tokenizer.pad_token_id) == ("[PAD]", 3)


def test_pad_token_can_be_chosen(sentencepiece_folder):
    tokenizer = ReformerHFTokenizer.from_pretrained(sentencepiece_folder, pad_token="<s>")
    assert (tokenizer.pad_token_id, len(tokenizer)) == (1, 320)


def test_vocabulary_without_padding_asks_for_a_pad_token():
    backend = PreTrainedTokenizerFast(vocab={"a": 0}, merges=[], eos_token=None, bos_token=None)
    with pytest.raises(ValueError, match="pad_token: .* Pass pad_token="):
        ReformerHFTokenizer(tokenizer_object=backend.backend_tokenizer)


def test_folder_without_a_vocabulary_points_to_the_byte_tokenizer(tmp_path):
    with pytest.raises(ValueError, match="no spiece.model .* ReformerHFByteTokenizer"):
        ReformerHFTokenizer.from_pretrained(tmp_path)


# Training


@pytest.mark.parametrize("text", ["  an  indented\n   line: ", "", " ", "end\n\n"])
def test_trained_tokenizer_keeps_every_space(trained, text):
    assert trained.decode(trained(text)["input_ids"]) == text


def test_trained_vocabulary(trained):
    assert len(trained) == 320
    assert (trained.pad_token_id, trained.unk_token_id, trained.eos_token_id) == (0, 1, 2)
    text = "".join(CORPUS)
    assert len(trained(text)["input_ids"]) < 0.6 * len(text)
    assert trained.model_max_length == 64


def test_vocabulary_smaller_than_the_alphabet_leaves_out_rare_characters():
    tokenizer = ReformerHFTokenizer.train_from_iterator(["aaaaab bbbc"], vocab_size=5)
    assert len(tokenizer) == 5
    assert tokenizer("abc")["input_ids"] == [*tokenizer("ab")["input_ids"], tokenizer.unk_token_id]


@pytest.mark.parametrize(
    ("texts", "vocab_size", "message"),
    [(["a"], 3, "vocab_size=3"), ([], 100, "texts"), (iter([""]), 100, "texts")],
)
def test_training_on_nothing(texts, vocab_size, message):
    with pytest.raises(ValueError, match=message):
        ReformerHFTokenizer.train_from_iterator(texts, vocab_size=vocab_size)


# Files


@pytest.fixture
def tokenizers(sentencepiece_folder, trained) -> dict:
    return {
        "byte": ReformerHFByteTokenizer(model_max_length=64),
        "sentencepiece": ReformerHFTokenizer.from_pretrained(
            sentencepiece_folder, model_max_length=64
        ),
        "trained": trained,
    }


def save_with_config(tokenizer, folder: Path) -> None:
    tokenizer.save_pretrained(folder)
    ReformerHFConfig().save_pretrained(folder)


@pytest.fixture(params=["byte", "sentencepiece", "trained"])
def saved(request, tokenizers, tmp_path):
    """A tokenizer, and a folder with it and a config."""
    save_with_config(tokenizers[request.param], tmp_path)
    return tokenizers[request.param], tmp_path


TEXTS = ["</s> def f(x):\n", "two  words 日"]


def description(tokenizer) -> list:
    batch = tokenizer(TEXTS, padding=True)
    assert set(batch) == {"input_ids", "attention_mask"}
    texts = [tokenizer.decode(ids) for ids in batch["input_ids"]]
    special = [tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.model_max_length]
    return [dict(batch), texts, *special]


def test_saved_tokenizers_load_without_this_package(tokenizers, tmp_path):
    folders = [tmp_path / name for name in tokenizers]
    for tokenizer, folder in zip(tokenizers.values(), folders, strict=True):
        save_with_config(tokenizer, folder)
    output = subprocess.run(
        [sys.executable, "-c", FOREIGN_PROCESS, json.dumps(TEXTS), *map(str, folders)],
        check=True,
        capture_output=True,
        text=True,
        cwd=tmp_path,
    ).stdout
    assert json.loads(output) == [description(tokenizer) for tokenizer in tokenizers.values()]


def test_saved_tokenizer_loads_with_auto_tokenizer_and_its_class(saved):
    tokenizer, folder = saved
    for loader in (AutoTokenizer, type(tokenizer)):
        again = loader.from_pretrained(folder)
        assert type(again) is type(tokenizer)
        assert description(again) == description(tokenizer)
    plain = PreTrainedTokenizerFast.from_pretrained(folder)  # as without this package
    assert description(plain) == description(tokenizer)


def test_saved_tokenizer_does_not_depend_on_what_it_was_used_for(saved):
    tokenizer, folder = saved
    before = (folder / "tokenizer.json").read_text()
    tokenizer(TEXTS, padding=True, truncation=True, max_length=7)
    tokenizer.save_pretrained(folder)
    assert (folder / "tokenizer.json").read_text() == before


def test_sentencepiece_is_the_registered_default(sentencepiece_folder, tmp_path):
    register_tokenizers(ReformerHFConfig)
    AutoConfig.register("reformer_hf", ReformerHFConfig, exist_ok=True)
    ReformerHFConfig().save_pretrained(tmp_path)
    model_file = (sentencepiece_folder / "spiece.model").read_bytes()
    (tmp_path / "spiece.model").write_bytes(model_file)
    assert type(AutoTokenizer.from_pretrained(tmp_path)) is ReformerHFTokenizer


def test_byte_tokenizer_can_be_named_by_a_folder_without_files_for_it(tmp_path):
    register_tokenizers(ReformerHFConfig)
    (tmp_path / "tokenizer_config.json").write_text(
        '{"tokenizer_class": "ReformerHFByteTokenizer"}'
    )
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert type(tokenizer) is ReformerHFByteTokenizer
    assert tokenizer("a")["input_ids"] == [99]


def test_a_mask_token_is_read_in_texts(tmp_path):
    tokenizer = ReformerHFByteTokenizer(mask_token="<mask>")
    assert (tokenizer.mask_token_id, len(tokenizer)) == (258, 259)
    assert tokenizer("é<mask>").input_ids == [*(byte + 2 for byte in "é".encode()), 258]
    ReformerHFConfig(vocab_size=259).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    for loaded in (
        AutoTokenizer.from_pretrained(tmp_path),
        ReformerHFByteTokenizer.from_pretrained(tmp_path),
    ):
        assert loaded.mask_token_id == 258
        assert loaded("a<mask>").input_ids == [99, 258]
    plain = ReformerHFByteTokenizer(mask_token="<mask>", split_special_tokens=True)
    assert len(plain("<mask>").input_ids) == 6
