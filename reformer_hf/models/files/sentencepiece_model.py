"""Reads a SentencePiece model file into a backend of the tokenizers library."""

import re
from os import PathLike
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import BPE, Unigram

SPACE = "\u2581"
"""The character that stands for a space in pieces."""


def read_sentencepiece_model(path: str | PathLike) -> tuple[Tokenizer, dict[str, str]]:
    """Reads a BPE or Unigram model, with its normalisation, its pieces and their ids.

    Args:
        path: a `spiece.model` file.

    Returns:
        A tokenizer that gives the ids that sentencepiece gives (but the text after a special or
        user-defined symbol begins a new word), and the names of the special tokens: `unk_token`,
        and `eos_token` and `pad_token` where the model has them.

    Raises:
        ImportError: if sentencepiece or protobuf is not installed.
        ValueError: if the file is no SentencePiece model, or one of words or characters.
    """
    model = _parse(Path(path))
    training, pieces = model.trainer_spec, model.pieces
    if training.model_type == training.BPE:
        vocabulary = {piece.piece: index for index, piece in enumerate(pieces)}
        tokenizer = Tokenizer(
            BPE(
                vocab=vocabulary,
                merges=_merges(pieces),
                unk_token=training.unk_piece,
                fuse_unk=True,
                byte_fallback=training.byte_fallback,
            )
        )
    elif training.model_type == training.UNIGRAM:
        scored = [(piece.piece, piece.score) for piece in pieces]
        tokenizer = Tokenizer(
            Unigram(scored, unk_id=training.unk_id, byte_fallback=training.byte_fallback)
        )
    else:
        raise ValueError(
            f"{path}: a SentencePiece model of words or characters; "
            "train one with model_type 'bpe' or 'unigram'."
        )
    _set_text_processing(tokenizer, model)
    for piece in pieces:
        if piece.type in (piece.UNKNOWN, piece.CONTROL):
            tokenizer.add_special_tokens([AddedToken(piece.piece, normalized=False)])
        elif piece.type == piece.USER_DEFINED:
            tokenizer.add_tokens([AddedToken(piece.piece, normalized=False)])

    special_tokens = {"unk_token": training.unk_piece}
    if training.eos_id >= 0:
        special_tokens["eos_token"] = training.eos_piece
    if training.pad_id >= 0:
        special_tokens["pad_token"] = training.pad_piece
    return tokenizer, special_tokens


def match_as_written(
    token: str | AddedToken, special: bool, normalizer: normalizers.Normalizer | None
) -> AddedToken:
    """A token to add, without normalisation if that would put the space of a new word before it.

    The library looks for what normalisation makes of a token in what it makes of a text, and would
    find it nowhere.

    Args:
        token: as given to `add_tokens`.
        special: whether it is special, where it does not say so itself.
        normalizer: of the tokenizer.

    Returns:
        The token to add.
    """
    if isinstance(token, str):
        token = AddedToken(token, special=special, normalized=not special)
    if normalizer is None or not normalizer.normalize_str(token.content).startswith(SPACE):
        return token
    flags = {name: getattr(token, name) for name in ("single_word", "lstrip", "rstrip", "special")}
    return AddedToken(token.content, normalized=False, **flags)


def _parse(path: Path) -> Any:
    try:
        from google.protobuf.message import DecodeError
        from sentencepiece import sentencepiece_model_pb2
    except ImportError as error:
        raise ImportError(
            f"Reading {path} needs sentencepiece and protobuf: "
            "pip install 'reformer_hf[sentencepiece]'. A saved tokenizer.json needs neither."
        ) from error
    # protobuf makes the class at import.
    model = sentencepiece_model_pb2.ModelProto()  # pyright: ignore[reportAttributeAccessIssue]
    try:
        model.ParseFromString(path.read_bytes())
    except DecodeError as error:
        raise ValueError(f"{path}: not a SentencePiece model, or a damaged one.") from error
    if not model.pieces:
        raise ValueError(f"{path}: a SentencePiece model without pieces.")
    return model


def _merges(pieces: Any) -> list[tuple[str, str]]:
    """All pairs of pieces that make a piece, best score first.

    SentencePiece joins whichever neighbours make the piece of the best score; the tokenizers
    library applies the first merge of a list.
    """
    scores = {piece.piece: piece.score for piece in pieces if piece.type == piece.NORMAL}
    return [
        (whole[:cut], whole[cut:])
        for whole in sorted(scores, key=scores.__getitem__, reverse=True)
        for cut in range(1, len(whole))
        if whole[:cut] in scores and whole[cut:] in scores
    ]


def _names_in_text(pieces: Any) -> Regex:
    """The first character of a name such as `<0x41>` or `</s>`, which a text may hold.

    Cut off, it keeps the tokenizers library from taking the name for its piece.
    """
    kinds = (pieces[0].BYTE, pieces[0].CONTROL, pieces[0].UNKNOWN)
    rests: dict[str, list[str]] = {}
    for name in (piece.piece for piece in pieces if piece.type in kinds):
        rests.setdefault(name[0], []).append(re.escape(name[1:]))
    starts = (f"{re.escape(first)}(?={'|'.join(rest)})" for first, rest in rests.items())
    return Regex("|".join(starts))


def _set_text_processing(tokenizer: Tokenizer, model: Any) -> None:
    """Sets normalisation, the cut into words, and the way back."""
    normalization = model.normalizer_spec
    steps: list[normalizers.Normalizer] = []
    if normalization.precompiled_charsmap:
        steps.append(normalizers.Precompiled(normalization.precompiled_charsmap))
    if normalization.remove_extra_whitespaces:
        steps.append(normalizers.Replace(Regex(r"\A +| +\z"), ""))
        steps.append(normalizers.Replace(Regex(" {2,}"), " "))
    if normalization.add_dummy_prefix:
        steps.append(normalizers.Prepend(SPACE))
    tokenizer.normalizer = normalizers.Sequence(steps)

    # The prefix is in the text by then; Metaspace would leave it out before a space.
    words = pre_tokenizers.Metaspace(
        SPACE, prepend_scheme="never", split=model.trainer_spec.split_by_whitespace
    )
    names = pre_tokenizers.Split(_names_in_text(model.pieces), "merged_with_previous")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([names, words])
    metaspace = decoders.Metaspace(
        SPACE, prepend_scheme="always" if normalization.add_dummy_prefix else "never"
    )
    if model.trainer_spec.byte_fallback:
        tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), metaspace])
    else:
        tokenizer.decoder = metaspace
