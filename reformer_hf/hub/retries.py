"""Trying again what failed for a reason that passes: an overloaded Hub, a cut connection."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from json import JSONDecodeError
from typing import TypeVar

from huggingface_hub import get_session
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

logger = logging.getLogger(__name__)

Result = TypeVar("Result")

PASSING_STATUS = (408, 429, 500, 502, 503, 504)
LONGEST_WAIT = 30.0

HTTPError = HfHubHTTPError.__bases__[0]
"""Root of the errors of the HTTP library that `huggingface_hub` uses, whichever that is."""


def with_retries(call: Callable[[], Result], attempts: int, timeout: float) -> Result:
    """Call until it succeeds, fails for a reason that stays, or `attempts` are over.

    Args:
        call: what to do; it may have taken effect although it failed.
        attempts: how often at most.
        timeout: seconds in which the Hub may say nothing.

    Returns:
        What the call returned.
    """
    for attempt in range(1, attempts + 1):
        try:
            with silence_limit(timeout):
                return call()
        except Exception as error:
            if attempt == attempts or not is_passing(error):
                raise
            wait = min(LONGEST_WAIT, max(2.0 ** (attempt - 1), _asked_wait(error)))
            # Not the error's text: what a server says may hold anything.
            logger.warning(
                "%s: trying again in %g s (%d of %d)", _name(error), wait, attempt + 1, attempts
            )
            time.sleep(wait)
    raise ValueError(f"attempts={attempts}: must be 1 or more")


def is_passing(error: BaseException) -> bool:
    """Say whether the same request may succeed later."""
    for link in causes(error):
        if isinstance(link, OfflineModeIsEnabled):
            return False
        if (status := status_of(link)) is not None:
            return status in PASSING_STATUS
        if is_connection_error(link) or isinstance(link, JSONDecodeError):
            return True  # the answer is a gateway's error page
    return False


def is_connection_error(error: BaseException) -> bool:
    """Say whether no answer came."""
    if isinstance(error, HTTPError) and status_of(error) is None:
        return True
    return isinstance(error, ConnectionError | TimeoutError)


def status_of(error: BaseException) -> int | None:
    """The HTTP status that an error carries."""
    return getattr(getattr(error, "response", None), "status_code", None)


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error and what led to it: uploads of large files wrap the client's errors."""
    seen = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


@contextmanager
def silence_limit(seconds: float) -> Iterator[None]:
    """Let requests of `huggingface_hub` fail where the Hub says nothing for so long.

    By default most of them wait for ever, some even where the session has a limit.
    """

    def limit(request) -> None:
        own = request.extensions["timeout"]
        kinds = ("connect", "read", "write", "pool")
        request.extensions["timeout"] = {kind: own.get(kind) or seconds for kind in kinds}

    session = get_session()
    before = session.event_hooks
    session.event_hooks = before | {"request": [*before["request"], limit]}
    try:
        yield
    finally:
        session.event_hooks = before


def _asked_wait(error: BaseException) -> float:
    """The seconds that the Hub asks for, 0 if it does not."""
    for link in causes(error):
        headers = getattr(getattr(link, "response", None), "headers", {})
        if str(headers.get("Retry-After", "")).isdigit():
            return float(headers["Retry-After"])
    return 0.0


def _name(error: BaseException) -> str:
    for link in causes(error):
        if (status := status_of(link)) is not None:
            return f"the Hub answered {status}"
        if is_connection_error(link):
            return f"no answer from the Hub ({type(link).__name__})"
    return type(error).__name__
