"""The vocabulary of bytes: a token for each, and what tokens that are added behind them need."""

from collections.abc import Iterable, Mapping

from tokenizers import AddedToken, decoders

PAD_TOKEN, UNK_TOKEN, EOS_TOKEN = "<pad>", "<unk>", "</s>"
"""Names of the special tokens where a vocabulary does not say otherwise."""

FIRST_BYTE_ID = 2
"""Id of byte 0 in the enwik8 convention; the ids below are padding and end of sequence."""


def _byte_symbols() -> list[str]:
    """The character that stands for each byte in byte-level BPE: itself where it is printable."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    substitutes = iter(range(0x100, 0x200))
    return [chr(byte if byte in printable else next(substitutes)) for byte in range(256)]


BYTE_SYMBOLS = _byte_symbols()

BYTE_VOCABULARY = {
    token: index for index, token in enumerate([PAD_TOKEN, EOS_TOKEN, *BYTE_SYMBOLS])
}
"""Token to id: `<pad>` 0, `</s>` 1, byte b at b + 2."""


def has_own_special_token(added: Mapping[int, AddedToken]) -> bool:
    """Whether special tokens were added behind the bytes."""
    return any(index >= len(BYTE_VOCABULARY) and token.special for index, token in added.items())


def byte_decoder(added: Iterable[str]) -> decoders.Decoder:
    """Symbols become bytes again, and these added tokens the text that they are.

    The library takes a token all of whose characters are symbols for bytes, such as "naïve".
    """
    steps = [
        decoders.Replace(token, "".join(BYTE_SYMBOLS[byte] for byte in token.encode()))
        for token in sorted(added, key=len, reverse=True)  # one may be a part of another
        if not token.isascii() and {*token} <= {*BYTE_SYMBOLS}
    ]
    return decoders.Sequence([*steps, decoders.ByteLevel()]) if steps else decoders.ByteLevel()
