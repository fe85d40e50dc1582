"""A SentencePiece vocabulary of one's own texts, which loses nothing of them."""

import io
import re
from collections.abc import Iterable
from pathlib import Path

from transformers.utils import logging

from reformer_hf.models.tokenization_reformer_hf import (
    EOS_TOKEN,
    PAD_TOKEN,
    UNK_TOKEN,
    ReformerHFTokenizer,
)

logger = logging.get_logger(__name__)

# The trainer leaves out what is longer than 4,192 bytes, or holds the block U+2585, which it keeps
# for itself. It finds a word by its different neighbours, of which a sentence's end is one: so
# sentences are short. The space at a cut is left out, since each sentence begins with one.
_SENTENCE = re.compile(r" ?([^\u2585]{1,100}(?= |\Z)|[^\u2585 ]{1,1000})")


def train_sentencepiece(texts: Iterable[str], vocab_size: int, path: Path) -> ReformerHFTokenizer:
    """Train a Unigram vocabulary with pad 0, unknown 1 and end of sequence 2.

    Decoded, the ids of a text are that text: spaces, line ends and the forms of characters stay,
    a character that the vocabulary lacks becomes its bytes, and names of special tokens are text.
    Only U+2581, SentencePiece's sign for a space, becomes a space.

    Args:
        texts: of any length and language.
        vocab_size: pieces; a small corpus gives fewer, which a warning says.
        path: for the model, a `spiece.model` file.

    Raises:
        ImportError: without the extra `sentencepiece`.
        ValueError: if `vocab_size` leaves no room for pieces, or the texts are empty.
    """
    try:
        import sentencepiece
    except ImportError as error:
        raise ImportError(
            "training a vocabulary needs sentencepiece: pip install 'reformer_hf[sentencepiece]', "
            "or --tokenizer_name bytes"
        ) from error
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=(part for text in texts for part in _SENTENCE.findall(text)),
            model_writer=model,
            vocab_size=vocab_size,
            hard_vocab_limit=False,
            character_coverage=1.0,
            byte_fallback=True,
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            pad_id=0,
            unk_id=1,
            eos_id=2,
            bos_id=-1,
            pad_piece=PAD_TOKEN,
            unk_piece=UNK_TOKEN,
            eos_piece=EOS_TOKEN,
            minloglevel=2,
        )
    except RuntimeError as error:
        raise ValueError(_explain(str(error), vocab_size)) from error
    path.write_bytes(model.getvalue())
    tokenizer = open_sentencepiece(path)
    if len(tokenizer) < vocab_size:
        logger.warning(f"vocab_size={vocab_size}: the texts give {len(tokenizer)} pieces")
    return tokenizer


def open_sentencepiece(path: Path) -> ReformerHFTokenizer:
    """Open what :func:`train_sentencepiece` wrote; names of special tokens in a text are text."""
    return ReformerHFTokenizer(vocab_file=path, split_special_tokens=True)


def _explain(cause: str, vocab_size: int) -> str:
    """Say what is wrong in place of the trainer's assertion."""
    if "sentences_.empty()" in cause or "all_chars_count" in cause:
        return (
            "the texts to train a vocabulary on are empty; give others, or --tokenizer_name bytes"
        )
    needed = re.search(r"smaller than required_chars\. \d+ vs (\d+)", cause)
    if needed:
        return (
            f"vocab_size={vocab_size}: 259 pieces are bytes and special tokens, and each character "
            f"of the texts is one: choose at least {needed[1]}"
        )
    return f"vocab_size={vocab_size}: {cause}; choose hundreds or thousands"
