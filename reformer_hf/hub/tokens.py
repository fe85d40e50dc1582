"""The token of the Hub: where it comes from, and that it is never shown or sent along."""

import mmap
import os
import re
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import get_token

_TOKENS = r"(?:hf|api_org)_[A-Za-z0-9]{30,}|hf_oauth_[\w.-]{30,}"
_TOKEN_STARTS = (b"hf_", b"api_org_")
_VARIABLES = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
_HIDDEN = "hf_…"


@dataclass(frozen=True)
class Token:
    """A token that does not print itself.

    Attributes:
        value: what is sent.
        source: where it was found, for messages.
    """

    value: str
    source: str

    def __repr__(self) -> str:
        return f"Token({_HIDDEN!r}, source={self.source!r})"


def find_token(given: str | None) -> Token | None:
    """Take the token that is given, or that of the environment, or that of the login.

    Args:
        given: the caller's, None to look for one.

    Returns:
        The token; None if there is none.

    Raises:
        ValueError: if it cannot be one. The message does not show it.
    """
    if given is not None:
        source = "the argument `token`"
    else:
        variables = [name for name in _VARIABLES if os.environ.get(name, "").strip()]
        source = f"the variable {variables[0]}" if variables else "`hf auth login`"
    value = (given if given is not None else get_token() or "").strip()
    if not value and given is None:
        return None
    # An HTTP client that refuses such a header quotes it.
    if not re.fullmatch(r"[!-~]+", value):
        raise ValueError(
            f"the token from {source} is no token: it is empty or holds spaces, line breaks or "
            "characters that are not ASCII. Copy it again"
        )
    return Token(value, source)


def hide_tokens(text: str, token: Token | None = None) -> str:
    """Replace this token, and whatever looks like one, in a text to be shown."""
    if token is not None:
        text = text.replace(token.value, _HIDDEN)
    return re.sub(_TOKENS, _HIDDEN, text)


def contains_token(path: Path, token: Token | None = None) -> bool:
    """Say whether a file, of whatever size, holds this token or something that looks like one."""
    if path.stat().st_size == 0:  # cannot be mapped
        return False
    looks_like_one = re.compile(_TOKENS.encode())
    with (
        path.open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content,
    ):
        if token is not None and content.find(token.value.encode()) >= 0:
            return True
        for start in _TOKEN_STARTS:  # a plain search is much faster than the pattern's
            place = content.find(start)
            while place >= 0:
                if looks_like_one.match(content, place):
                    return True
                place = content.find(start, place + 1)
    return False
