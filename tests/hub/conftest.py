"""A Hub in this process in place of the real one."""

import importlib
import logging

import huggingface_hub
import pytest
from huggingface_hub import constants
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.utils._http import default_client_factory, hf_request_event_hook

from tests.hub.fake_hub import FakeHub

TOKEN = "hf_" + "a" * 34
BOBS_TOKEN = "hf_" + "b" * 34


@pytest.fixture
def waits(monkeypatch):
    """The seconds that the client wants to wait before it tries again; it does not wait."""
    waits = []
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", waits.append)
    return waits


@pytest.fixture
def hub(monkeypatch, tmp_path, waits):
    """A fake Hub that this process talks to, logged in as ada, with an empty cache."""
    library = HfHubHTTPError.__bases__[0].__module__.partition(".")[0]
    hub = FakeHub(importlib.import_module(library))
    home = tmp_path / "hf_home"
    values = {
        "HF_HUB_OFFLINE": False,
        "HF_HUB_DISABLE_XET": True,
        "HF_HUB_DISABLE_TELEMETRY": True,
        "HF_HOME": str(home),
        "HF_HUB_CACHE": str(home / "hub"),
        "HF_TOKEN_PATH": str(home / "token"),
        "HF_STORED_TOKENS_PATH": str(home / "stored_tokens"),
    }
    for name, value in values.items():
        monkeypatch.setattr(constants, name, value)
    for name in ("HUGGING_FACE_HUB_TOKEN", "HF_OIDC_RESOURCE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    huggingface_hub.set_client_factory(
        lambda: hub.client.Client(
            transport=hub.client.MockTransport(hub.handle),
            event_hooks={"request": [hf_request_event_hook]},
            follow_redirects=True,
        )
    )
    yield hub
    huggingface_hub.set_client_factory(default_client_factory)
    assert hub.problems == []


@pytest.fixture
def everything_said(caplog, capfd):
    """All that was logged (at any level) and printed so far."""
    for name in (None, "huggingface_hub"):
        caplog.set_level(logging.DEBUG, logger=name)

    def read() -> str:
        printed = capfd.readouterr()
        return caplog.text + printed.out + printed.err

    return read
