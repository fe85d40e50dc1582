"""Tokens of the Hub: they are never shown, and never sent along in a file."""

import mmap
import re
from pathlib import Path

from huggingface_hub import get_token

_HIDDEN = "hf_…"
# Two patterns, since a search for one fixed start is ten times faster than for either of two.
_PATTERNS = (r"hf_(?:[A-Za-z0-9]{30,}|oauth_[\w.-]{30,})", r"api_org_[A-Za-z0-9]{30,}")


def find_token(given: str | None = None) -> str | None:
    """Take the token that is given, or that of HF_TOKEN or of the login.

    Args:
        given: the caller's token; None looks for one.

    Returns:
        The token, or None if there is none.

    Raises:
        ValueError: if it cannot be a token. The message does not show it.
    """
    value = ((get_token() or "") if given is None else given).strip()
    if given is None and not value:
        return None
    # The HTTP client would quote a header that it refuses.
    if not re.fullmatch(r"[!-~]+", value):
        raise ValueError(
            "the token is empty, or holds spaces, line breaks or characters that are not ASCII: "
            "copy it again"
        )
    return value


def hide_tokens(text: str, token: str | None = None) -> str:
    """Replace this token, and all that looks like one, in a text that will be shown."""
    if token:
        text = text.replace(token, _HIDDEN)
    return re.sub("|".join(_PATTERNS), _HIDDEN, text)


def contains_token(path: Path, token: str | None = None) -> bool:
    """Whether a file of any size holds this token, or something that looks like one."""
    if path.stat().st_size == 0:  # an empty file cannot be mapped
        return False
    with (
        path.open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content,
    ):
        if token and content.find(token.encode()) >= 0:
            return True
        return any(re.search(pattern.encode(), content) for pattern in _PATTERNS)
