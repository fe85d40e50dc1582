"""Tokenizers: bytes for `google/reformer-enwik8`, SentencePiece pieces for the other vocabularies.

Both are saved as `tokenizer.json`, so that `AutoTokenizer` loads them in a process without this
package, too. It then falls back to transformers' own class, with the same behaviour on text.
"""

from collections.abc import Iterable
from os import PathLike
from typing import Any, NoReturn, Self

from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers, trainers
from tokenizers.models import BPE
from transformers import AutoTokenizer, BatchEncoding, PreTrainedConfig, PreTrainedTokenizerFast

from reformer_hf.models.byte_vocabulary import (
    BYTE_VOCABULARY,
    EOS_TOKEN,
    FIRST_BYTE_ID,
    PAD_TOKEN,
    UNK_TOKEN,
    byte_decoder,
    has_own_special_token,
)
from reformer_hf.models.files.sentencepiece_model import match_as_written, read_sentencepiece_model


def register_tokenizers(config_class: type[PreTrainedConfig]) -> None:
    """Makes `AutoTokenizer` know both; the SentencePiece one is the default of `config_class`."""
    AutoTokenizer.register(
        config_class,
        slow_tokenizer_class=ReformerHFByteTokenizer,  # known by name only
        tokenizer_class=ReformerHFTokenizer,
        exist_ok=True,
    )


class _PortableTokenizer(PreTrainedTokenizerFast):
    """What both tokenizers share: their settings, and files that need no code of this package."""

    def __init__(self, **kwargs: Any) -> None:
        # generate() continues a row at its end. An argument, since class attributes are not saved.
        super().__init__(padding_side=kwargs.pop("padding_side", "left"), **kwargs)

    def _save_pretrained(
        self,
        save_directory: str | PathLike,
        file_names: tuple[str, ...],
        legacy_format: bool | None = None,
        filename_prefix: str | None = None,
    ) -> tuple[str, ...]:
        # The backend remembers these from the last call; a file should not.
        self.backend_tokenizer.no_padding()
        self.backend_tokenizer.no_truncation()
        return super()._save_pretrained(save_directory, file_names, legacy_format, filename_prefix)


class ReformerHFByteTokenizer(_PortableTokenizer):
    """UTF-8 bytes in the convention of `google/reformer-enwik8`: id = byte + 2, 0 pad, 1 eos.

    Needs no files. Text gives exactly its UTF-8 bytes, without normalisation, and no token is
    added. The names of padding and end of sequence are text like any other: `"</s>"` gives four
    ids, so add `eos_token_id` to the ids where a document ends.

    Further tokens are those that the caller asks for, here or with `add_tokens` or
    `add_special_tokens`: `ReformerHFByteTokenizer(mask_token="<mask>")` gives it the id 258.
    Special ones are written into texts, as by a chat template. So from the first of them on the
    names of all special tokens are read as such, `"</s>"`, too; `split_special_tokens=True`, as an
    argument of a call or set after they were added, takes them for text.

    A `str` cannot hold every byte string: bytes that are not UTF-8 go through
    :meth:`encode_bytes` and :meth:`decode_bytes`; `decode` shows them as U+FFFD.

    Args:
        vocab: the vocabulary of a saved tokenizer, which must be this one.
        merges: the merges of a saved tokenizer, of which there are none.
        split_special_tokens: whether the names of special tokens in a text are plain text; by
            default if there are none but padding and end of sequence.
        **kwargs: as for any tokenizer, for example `model_max_length`, `padding_side`.

    Raises:
        ValueError: if `vocab` or `merges` are not those of the enwik8 convention, or a token that
            is added is the symbol of another byte.
    """

    model = BPE

    def __init__(
        self,
        vocab: dict[str, int] | None = None,
        merges: list[tuple[str, str]] | None = None,
        split_special_tokens: bool | None = None,
        **kwargs: Any,
    ) -> None:
        recorded = kwargs.get("added_tokens_decoder")  # of a file, which has a value for both
        if split_special_tokens and recorded is not None and not has_own_special_token(recorded):
            split_special_tokens = None
        if merges or vocab not in (None, BYTE_VOCABULARY):
            raise ValueError(
                f"vocab of {len(vocab or ())} tokens and {len(merges or ())} merges: not the "
                f"{len(BYTE_VOCABULARY)} tokens of ReformerHFByteTokenizer. "
                "Load this tokenizer with AutoTokenizer or ReformerHFTokenizer."
            )
        self._tokenizer = Tokenizer(BPE(vocab=BYTE_VOCABULARY, merges=[]))
        self._tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(
            add_prefix_space=False, use_regex=False
        )
        self._tokenizer.decoder = byte_decoder([])
        super().__init__(
            pad_token=kwargs.pop("pad_token", PAD_TOKEN),
            eos_token=kwargs.pop("eos_token", EOS_TOKEN),
            split_special_tokens=True,
            **kwargs,
        )
        if split_special_tokens is not None:
            self.split_special_tokens = split_special_tokens

    @classmethod
    def from_pretrained(
        cls, *inputs: Any, split_special_tokens: bool | None = None, **kwargs: Any
    ) -> Any:
        """Load a tokenizer; see `PreTrainedTokenizerBase`, and the class for the argument."""
        tokenizer = super().from_pretrained(*inputs, **kwargs)
        if split_special_tokens is not None:
            tokenizer.split_special_tokens = split_special_tokens
        return tokenizer

    def _add_tokens(self, new_tokens: list[str | AddedToken], special_tokens: bool = False) -> int:
        for token in map(str, new_tokens):
            if not token.isascii() and token in BYTE_VOCABULARY:
                raise ValueError(
                    f"token {token!r} stands for byte {BYTE_VOCABULARY[token] - FIRST_BYTE_ID} in "
                    "the vocabulary, so it cannot be a token of its own: add a longer one"
                )
        added = super()._add_tokens(new_tokens, special_tokens)
        if has_own_special_token(self.added_tokens_decoder):
            self.split_special_tokens = False
        self._tokenizer.decoder = byte_decoder(self.get_added_vocab())
        return added

    def train_new_from_iterator(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Refused: bytes have no vocabulary to train.

        Raises:
            ValueError: always.
        """
        raise ValueError(
            "ReformerHFByteTokenizer has the 256 bytes for a vocabulary, and none to train: use "
            "ReformerHFTokenizer.train_from_iterator(texts, vocab_size)"
        )

    def _encode_plus(self, text: Any, *args: Any, **kwargs: Any) -> BatchEncoding:
        try:
            return super()._encode_plus(text, *args, **kwargs)
        except TypeError as error:
            raise ValueError(
                "text: not a string, or one with half a surrogate pair, which has no UTF-8 form. "
                "Give data that is not UTF-8 to encode_bytes()."
            ) from error

    @staticmethod
    def encode_bytes(data: bytes) -> list[int]:
        """Returns one id per byte of `data`, which need not be UTF-8."""
        return [byte + FIRST_BYTE_ID for byte in data]

    @staticmethod
    def decode_bytes(ids: Iterable[int]) -> bytes:
        """The inverse of :meth:`encode_bytes`.

        Args:
            ids: token ids: a list, an array or a tensor of one axis. Padding and end of sequence
                are left out.

        Returns:
            The bytes, exactly.

        Raises:
            ValueError: if an id is negative or above 257.
        """
        ids = [int(index) for index in ids]
        for index in ids:
            if not 0 <= index < len(BYTE_VOCABULARY):
                raise ValueError(
                    f"id {index} is not in 0 … {len(BYTE_VOCABULARY) - 1}: "
                    "pass ids of ReformerHFByteTokenizer, without label masks such as -100."
                )
        return bytes(index - FIRST_BYTE_ID for index in ids if index >= FIRST_BYTE_ID)


class ReformerHFTokenizer(_PortableTokenizer):
    """Pieces of a SentencePiece model (`spiece.model`) or of any `tokenizer.json`.

    There is always a pad token, and the vocabulary never grows to get one. It is the vocabulary's
    own pad piece; where there is none, as in `google/reformer-crime-and-punishment`, it is the
    unknown piece: every SentencePiece model has one, and in that checkpoint it is the one that
    `config.pad_token_id = 0` names, so that all code that looks for padding by id agrees. The
    attention mask comes from lengths, so an unknown character of a text is not masked; a data
    collator that masks labels by the pad token does not train on unknown characters.

    As with sentencepiece itself no token is added to a text. Unlike there, `"</s>"` in a text is
    the special token (pass `split_special_tokens=True` to read it as text).

    Args:
        vocab_file: SentencePiece model, BPE or Unigram; needs the `sentencepiece` extra.
        tokenizer_file: `tokenizer.json`, preferred if both are given.
        **kwargs: as for any tokenizer, for example `pad_token`, `model_max_length`, or
            `tokenizer_object`, a backend tokenizer instead of a file.

    Raises:
        ImportError: if `vocab_file` is read without sentencepiece and protobuf.
        ValueError: if there is no file, `vocab_file` is not a SentencePiece model, or no token
            can serve as padding.
    """

    vocab_files_names = {"vocab_file": "spiece.model", "tokenizer_file": "tokenizer.json"}

    def __init__(
        self,
        vocab_file: str | PathLike | None = None,
        tokenizer_file: str | PathLike | None = None,
        **kwargs: Any,
    ) -> None:
        tokenizer_object = kwargs.pop("tokenizer_object", None)
        if tokenizer_object is None and tokenizer_file is not None:
            tokenizer_object = Tokenizer.from_file(str(tokenizer_file))
        elif tokenizer_object is None and vocab_file is not None:
            tokenizer_object, special_tokens = read_sentencepiece_model(vocab_file)
            kwargs = {**special_tokens, **kwargs}
        elif tokenizer_object is None:
            raise ValueError(
                f"{kwargs.get('name_or_path', 'ReformerHFTokenizer')}: no spiece.model and no "
                "tokenizer.json. Add one; for bytes, use ReformerHFByteTokenizer, which needs none."
            )
        vocabulary = tokenizer_object.get_vocab()
        for name, token in (
            ("unk_token", UNK_TOKEN),
            ("eos_token", EOS_TOKEN),
            ("pad_token", PAD_TOKEN),
        ):
            if kwargs.get(name) is None:
                kwargs[name] = token if token in vocabulary else None
        kwargs["pad_token"] = kwargs["pad_token"] or kwargs["unk_token"]
        if kwargs["pad_token"] is None:
            raise ValueError(
                f"pad_token: the vocabulary has neither {PAD_TOKEN} nor {UNK_TOKEN}. "
                "Pass pad_token= with a token that no text contains."
            )
        super().__init__(tokenizer_object=tokenizer_object, **kwargs)

    def _add_tokens(self, new_tokens: list[str | AddedToken], special_tokens: bool = False) -> int:
        normalizer = self.backend_tokenizer.normalizer
        new_tokens = [match_as_written(token, special_tokens, normalizer) for token in new_tokens]
        return super()._add_tokens(new_tokens, special_tokens)

    @classmethod
    def convert_to_native_format(cls, **kwargs: Any) -> dict[str, Any]:
        """Leaves the files of a folder to the constructor, which reads them whole."""
        return kwargs

    @classmethod
    def train_from_iterator(
        cls, texts: Iterable[str], vocab_size: int, show_progress: bool = False, **kwargs: Any
    ) -> Self:
        """Trains a BPE vocabulary of the SentencePiece kind: words carry their space as "▁".

        Nothing is normalised and no space is put in front, so ids decode to the text again,
        except for characters too rare to get an id.

        Args:
            texts: the training text, in pieces of any size.
            vocab_size: the largest number of tokens, with `<pad>` 0, `<unk>` 1 and `</s>` 2.
                A small corpus may give fewer.
            show_progress: whether to show a progress bar.
            **kwargs: as for the constructor.

        Returns:
            The trained tokenizer.

        Raises:
            ValueError: if `vocab_size` leaves no room for characters, or the texts hold none.
        """
        special_tokens = [PAD_TOKEN, UNK_TOKEN, EOS_TOKEN]
        characters = vocab_size - len(special_tokens)
        if characters < 1:
            raise ValueError(
                f"vocab_size={vocab_size}: {len(special_tokens)} ids are special tokens; "
                "choose more, usually hundreds or thousands."
            )
        tokenizer = Tokenizer(BPE(unk_token=UNK_TOKEN, fuse_unk=False))
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
        tokenizer.decoder = decoders.Metaspace(prepend_scheme="never")
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=special_tokens,
            limit_alphabet=characters,
            show_progress=show_progress,
        )
        tokenizer.train_from_iterator(texts, trainer)
        if tokenizer.get_vocab_size() == len(special_tokens):
            raise ValueError("texts: no characters to train on; pass an iterable of strings.")
        return cls(tokenizer_object=tokenizer, **kwargs)
