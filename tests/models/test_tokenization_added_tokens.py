"""Tokens that are added to the byte tokenizer: ids, texts, chat templates, files."""

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import normalizers
from transformers import AddedToken, AutoTokenizer, PreTrainedTokenizerFast, TextStreamer

from reformer_hf import ReformerHFByteTokenizer, ReformerHFConfig, ReformerHFTokenizer
from tests.models.sentencepiece_files import train_sentencepiece
from tests.models.tiny import tiny_lm

START, END = "<|im_start|>", "<|im_end|>"
TEXT = f"é{START}</s>日{END}"


def by_constructor() -> ReformerHFByteTokenizer:
    return ReformerHFByteTokenizer(extra_special_tokens=[START, END])


def by_add_special_tokens() -> ReformerHFByteTokenizer:
    tokenizer = ReformerHFByteTokenizer()
    tokenizer.add_special_tokens({"extra_special_tokens": [START, END]})
    return tokenizer


def by_name() -> ReformerHFByteTokenizer:
    tokenizer = ReformerHFByteTokenizer()
    tokenizer.add_special_tokens({"bos_token": START, "sep_token": END})
    return tokenizer


def by_add_tokens() -> ReformerHFByteTokenizer:
    tokenizer = ReformerHFByteTokenizer()
    tokenizer.add_tokens([AddedToken(START, special=True)])
    tokenizer.add_tokens([END], special_tokens=True)
    return tokenizer


ADDED = [by_constructor, by_add_special_tokens, by_name, by_add_tokens]


def saved_and_loaded(tokenizer, folder: Path) -> list:
    """The tokenizer, and what each loader makes of its files, the last as without this package."""
    tokenizer.save_pretrained(folder)
    ReformerHFConfig(vocab_size=len(tokenizer)).save_pretrained(folder)
    loaders = (AutoTokenizer, ReformerHFByteTokenizer, PreTrainedTokenizerFast)
    return [tokenizer, *(loader.from_pretrained(folder) for loader in loaders)]


@pytest.mark.parametrize("add", ADDED)
def test_special_tokens_are_one_id_behind_the_bytes(add, tmp_path):
    for tokenizer in saved_and_loaded(add(), tmp_path):
        assert (len(tokenizer), tokenizer.vocab_size) == (260, 258)
        assert tokenizer.convert_tokens_to_ids([START, END]) == [258, 259]
        ids = tokenizer(TEXT).input_ids
        assert ids == [197, 171, 258, 1, 232, 153, 167, 259]
        assert tokenizer.decode(ids) == TEXT
        assert tokenizer.decode(ids, skip_special_tokens=True) == "é日"
        assert tokenizer.convert_tokens_to_ids(tokenizer.tokenize(TEXT)) == ids
        assert tokenizer.convert_tokens_to_string(tokenizer.tokenize(TEXT)) == TEXT
        offsets = tokenizer(TEXT, return_offsets_mapping=True).offset_mapping
        assert "".join(TEXT[slice(*pair)] for pair in dict.fromkeys(offsets)) == TEXT
        as_text = tokenizer(TEXT, split_special_tokens=True).input_ids
        assert as_text == [byte + 2 for byte in TEXT.encode()]


def test_split_special_tokens_that_is_given_is_kept(tmp_path):
    tokenizer = ReformerHFByteTokenizer(extra_special_tokens=[END], split_special_tokens=True)
    for loaded in saved_and_loaded(tokenizer, tmp_path):
        assert loaded(END).input_ids == [byte + 2 for byte in END.encode()]
    assert ReformerHFByteTokenizer(split_special_tokens=False)("</s>").input_ids == [1]


def test_tokens_added_to_a_loaded_tokenizer(tmp_path):
    ReformerHFByteTokenizer(model_max_length=9, padding_side="right").save_pretrained(tmp_path)
    ReformerHFConfig().save_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert tokenizer(END).input_ids == [byte + 2 for byte in END.encode()]
    tokenizer.add_special_tokens({"sep_token": END})
    assert tokenizer(END).input_ids == [258]
    assert (tokenizer.model_max_length, tokenizer.padding_side) == (9, "right")


def test_tokens_named_while_loading(tmp_path):
    ReformerHFByteTokenizer().save_pretrained(tmp_path)
    for loader in (AutoTokenizer, ReformerHFByteTokenizer):
        assert loader.from_pretrained(tmp_path, sep_token=END)(END).input_ids == [258]
        options = {"sep_token": END, "split_special_tokens": True}
        assert len(loader.from_pretrained(tmp_path, **options)(END).input_ids) == len(END)


def test_an_end_that_is_added_is_added_by_a_loaded_tokenizer(tmp_path):
    for tokenizer in saved_and_loaded(ReformerHFByteTokenizer(add_eos_token=True), tmp_path):
        assert tokenizer("a").input_ids == [99, 1]


def test_plain_tokens_leave_special_ones_text(tmp_path):
    tokenizer = ReformerHFByteTokenizer()
    tokenizer.add_tokens(["hello", "日本"])
    for loaded in saved_and_loaded(tokenizer, tmp_path):
        assert loaded("hello 日本</s>").input_ids == [258, 34, 259, 62, 49, 117, 64]
        assert loaded.decode([258, 259], skip_special_tokens=True) == "hello日本"


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=2, max_size=6))
def test_any_added_token_decodes_to_itself(token):
    tokenizer = ReformerHFByteTokenizer()
    tokenizer.add_tokens([token])
    text = f"{token} ï {token}"
    assert tokenizer.decode(tokenizer(text).input_ids) == text


def test_a_token_of_byte_symbols_decodes_everywhere(tmp_path):
    tokenizer = ReformerHFByteTokenizer(extra_special_tokens=["naïve"])
    for loaded in saved_and_loaded(tokenizer, tmp_path):
        assert loaded.decode(loaded("a naïve ï").input_ids) == "a naïve ï"


@pytest.mark.parametrize(("token", "byte"), [("é", 233), ("Ġ", 32)])
def test_the_symbol_of_another_byte_is_no_token(token, byte):
    with pytest.raises(ValueError, match=f"token '{token}' stands for byte {byte}"):
        ReformerHFByteTokenizer().add_tokens([token])


TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }} {% if m['role'] == 'assistant' %}"
    "{% generation %}{{ m['content'] }}<|im_end|>{% endgeneration %}"
    "{% else %}{{ m['content'] }}<|im_end|>{% endif %}{% endfor %}"
)


@pytest.mark.parametrize("add", ADDED[:2])
def test_chat_template(add, tmp_path):
    tokenizer = add()
    tokenizer.chat_template = TEMPLATE
    messages = [{"role": "user", "content": "é"}, {"role": "assistant", "content": "日"}]
    for loaded in saved_and_loaded(tokenizer, tmp_path):
        batch = loaded.apply_chat_template(
            messages, tokenize=True, return_dict=True, return_assistant_tokens_mask=True
        )
        ids, mask = batch["input_ids"], batch["assistant_masks"]
        assert [index for index in ids if index > 257] == [258, 259, 258, 259]
        answer = [index for index, written in zip(ids, mask, strict=True) if written]
        assert answer == [*(byte + 2 for byte in "日".encode()), 259]


def test_a_model_resized_to_the_tokenizer_reads_its_tokens():
    tokenizer, model = by_constructor(), tiny_lm(vocab_size=258)
    model.resize_token_embeddings(len(tokenizer))
    assert model(**tokenizer(TEXT, return_tensors="pt")).logits.shape[-1] == 260


def test_streaming_waits_for_whole_characters(capsys):
    tokenizer = by_constructor()
    streamer = TextStreamer(tokenizer, skip_special_tokens=True)
    for index in tokenizer("é日 ü\nß 😀<|im_end|>").input_ids:
        streamer.put(torch.tensor([index]))
    streamer.end()
    assert capsys.readouterr().out == "é日 ü\nß 😀\n"


def test_long_texts_in_several_rows_and_words_and_pairs():
    tokenizer = ReformerHFByteTokenizer()
    options = {"truncation": True, "max_length": 3}
    rows = tokenizer("abcdef", stride=1, return_overflowing_tokens=True, **options)
    assert tokenizer.batch_decode(rows.input_ids) == ["abc", "cde", "ef"]
    assert rows.overflow_to_sample_mapping == [0, 0, 0]
    left = ReformerHFByteTokenizer(truncation_side="left")
    assert left.decode(left("abcdef", **options).input_ids) == "def"
    words = tokenizer(["ab", "é"], is_split_into_words=True)
    assert words.word_ids() == [0, 0, 1, 1]
    pair = tokenizer("ab", "c")
    assert pair.keys() == {"input_ids", "attention_mask"}
    assert pair.sequence_ids() == [0, 0, 1]


def test_bytes_have_no_vocabulary_to_train():
    with pytest.raises(ValueError, match=r"ReformerHFTokenizer\.train_from_iterator"):
        ReformerHFByteTokenizer().train_new_from_iterator(["a"], 300)


# Pieces


@pytest.fixture(scope="module")
def pieces(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("pieces")
    train_sentencepiece(folder)
    return folder


@pytest.mark.parametrize(
    "token", ["NEW", AddedToken("NEW"), AddedToken("NEW", normalized=True), "new word", "日"]
)
def test_tokens_added_to_pieces_are_found_in_texts(pieces, token, tmp_path):
    """Normalisation puts a space before a word, and would put one before the token."""
    tokenizer, text = ReformerHFTokenizer.from_pretrained(pieces), f"a {token} b"
    assert tokenizer.add_tokens([token]) == 1
    tokenizer.save_pretrained(tmp_path)
    ReformerHFConfig().save_pretrained(tmp_path)
    loaded = [loader.from_pretrained(tmp_path) for loader in (AutoTokenizer, ReformerHFTokenizer)]
    for one in [tokenizer, *loaded, PreTrainedTokenizerFast.from_pretrained(tmp_path)]:
        assert 320 in one(text).input_ids
        assert one.convert_ids_to_tokens(320) == str(token)


def test_special_tokens_added_to_pieces(pieces):
    tokenizer = ReformerHFTokenizer.from_pretrained(pieces, extra_special_tokens=[START])
    tokenizer.add_special_tokens({"sep_token": END})
    ids = tokenizer(f"{START}a{END}").input_ids
    assert (ids[0], ids[-1]) == (320, 321)
    assert tokenizer.decode(ids, skip_special_tokens=True) == "a"


def test_a_normalizer_that_changes_letters_serves_added_tokens():
    tokenizer = ReformerHFTokenizer.train_from_iterator(["a b"], 300)
    tokenizer.backend_tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.add_tokens(["NEW"])
    assert tokenizer("new NeW").input_ids.count(len(tokenizer) - 1) == 2
