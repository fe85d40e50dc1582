"""What went wrong in an upload, in words that say what to do."""

import traceback
from dataclasses import dataclass
from json import JSONDecodeError

from huggingface_hub.errors import OfflineModeIsEnabled, RevisionNotFoundError

from reformer_hf.hub.retries import PASSING_STATUS, causes, is_connection_error, status_of
from reformer_hf.hub.tokens import Token, hide_tokens

AGAIN = "Run the same again later: what arrived is not sent twice"


class UploadError(OSError):
    """The Hub refused, or could not be reached."""


@dataclass
class UploadTarget:
    """Where an upload goes, and as whom.

    Attributes:
        repo_id: the repository.
        endpoint: the Hub.
        revision: branch or reference, None for the main branch.
        attempts: how often each step is tried.
        token: whose user uploads.
        user: its name, once the Hub has told.
    """

    repo_id: str
    endpoint: str
    revision: str | None
    attempts: int
    token: Token
    user: str | None = None

    def may_not_write(self, reason: str) -> str:
        """Say that the token is good, but not for this."""
        return (
            f"the token from {self.token.source} (user {self.user}) may not write to "
            f"{self.repo_id}: {reason}. Give one with the right to write there "
            f"({self.endpoint}/settings/tokens), or another name, or create_pr"
        )


def no_token() -> str:
    """Say that there is no token."""
    return (
        "no token: make one with the right to write at https://huggingface.co/settings/tokens, "
        "then set HF_TOKEN or run `hf auth login`"
    )


def explain(error: Exception, target: UploadTarget) -> Exception:
    """Make an error that says what to do; its text holds no token.

    Args:
        error: of `huggingface_hub` or what it stands on.
        target: where the upload went.

    Returns:
        An `UploadError`, or a `ValueError` for what is wrong with the files.
    """
    status = next((s for link in causes(error) if (s := status_of(link)) is not None), None)
    text = hide_tokens(_said(error), target.token)
    hub = f"the Hub ({target.endpoint})"
    if any(isinstance(link, OfflineModeIsEnabled) for link in causes(error)):
        return UploadError("HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE is set: unset it to upload")
    if any(isinstance(link, JSONDecodeError) for link in causes(error)):
        return UploadError(f"{hub} answered with an error page, {target.attempts} times. {AGAIN}")
    if isinstance(error, ValueError) and (status is None or status == 400):
        return ValueError(hide_tokens(" ".join(str(error).split()), target.token))
    if status == 401:
        return UploadError(
            f"{hub} does not accept the token from {target.token.source}: it is wrong or expired. "
            f"Make a new one with the right to write at {target.endpoint}/settings/tokens"
        )
    if status == 403:
        return UploadError(target.may_not_write(text))
    if any(isinstance(link, RevisionNotFoundError) for link in causes(error)):
        return UploadError(f"revision={target.revision!r} is not in {target.repo_id}")
    if status == 404:
        return UploadError(f"{target.repo_id} is not there, or not yours to see: {text}")
    if status in PASSING_STATUS:
        return UploadError(f"{hub} answered {status}, {target.attempts} times: {text}. {AGAIN}")
    if status is not None:
        return UploadError(f"{hub} answered {status}: {text}")
    if any(is_connection_error(link) for link in causes(error)):
        return UploadError(
            f"no answer from {hub}, {target.attempts} times ({text}). Check the network, proxies "
            f"and HF_ENDPOINT. {AGAIN}"
        )
    return UploadError(f"the upload to {target.repo_id} failed ({type(error).__name__}: {text})")


def showable(error: BaseException, token: Token) -> bool:
    """Say whether the traceback of an error, with all that led to it, is free of tokens."""
    shown = "".join(traceback.format_exception(error))
    return hide_tokens(shown, token) == shown


def _said(error: BaseException) -> str:
    """The text of the innermost error that says something, in one line."""
    texts = [" ".join(str(link).split()) for link in causes(error)]
    server = [message for link in causes(error) if (message := getattr(link, "server_message", ""))]
    return next(iter(server), "") or next((text for text in texts if text), type(error).__name__)
