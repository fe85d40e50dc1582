"""Tokenizers as other projects have them, small; they add special tokens, and spaces."""

from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import PreTrainedTokenizerFast

CORPUS = ["the cat and the dog said naïve things, 日本 🙂\n and more;\n\n  def f(x):\n"] * 5
SPECIAL = ["<unk>", "<s>", "</s>"]


def _add_special(tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    )


def byte_level(add_prefix_space: bool = False) -> PreTrainedTokenizerFast:
    """GPT-2's kind: words of bytes."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return _add_special(tokenizer)


def byte_level_with_space() -> PreTrainedTokenizerFast:
    """RoBERTa's kind: a space in front of the first word."""
    return byte_level(add_prefix_space=True)


def byte_fallback() -> PreTrainedTokenizerFast:
    """Llama's kind: SentencePiece pieces, bytes for the rest, a space in front of a text."""
    pieces = [*SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256))]
    words = ["▁", "▁▁", "▁the", "▁cat", "e", "t", "\n"]
    scored = [
        *((piece, -10.0) for piece in pieces),
        *((word, -float(len(words))) for word in words),
    ]
    tokenizer = Tokenizer(models.Unigram(scored, 0, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            *(decoders.Replace("▁", " "), decoders.ByteFallback()),
            *(decoders.Fuse(), decoders.Strip(" ", 1, 0)),
        ]
    )
    return _add_special(tokenizer)


def metaspace() -> PreTrainedTokenizerFast:
    """T5's kind: a space in front of a text that does not begin with one."""
    pieces = [*SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "▁the", "c", "at"]
    tokenizer = Tokenizer(
        models.Unigram(
            [(piece, -float(i)) for i, piece in enumerate(pieces)], 0, byte_fallback=True
        )
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()])
    return _add_special(tokenizer)


EXACT = [byte_level, byte_level_with_space, byte_fallback, metaspace]
"""Those whose tokens stand for all bytes of a text."""


def word_piece() -> PreTrainedTokenizerFast:
    """BERT's kind: lower case, no spaces."""
    words = ["[UNK]", "[CLS]", "[SEP]", "the", "cat", "##s", *"abcdefghijklmnopqrstuvwxyz"]
    vocabulary = {word: index for index, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        pad_token="[UNK]",
    )


def lower_case() -> PreTrainedTokenizerFast:
    """Bytes of a text that is changed first."""
    tokenizer = byte_level()
    tokenizer.backend_tokenizer.normalizer = normalizers.Lowercase()
    return tokenizer
