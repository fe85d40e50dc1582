"""The Hub on this machine in place of the real one, for this process."""

import functools
import logging
import ssl

import huggingface_hub
import pytest
from huggingface_hub import constants, hf_api
from transformers.utils import hub as transformers_hub

from tests.hub.fake_hub import FakeHub

# Reading all certificates for each new session would take most of the tests' time.
one_ssl_context = functools.cache(ssl.create_default_context)

TOKEN = "hf_" + "a" * 34
READ_TOKEN = "hf_" + "r" * 34


@pytest.fixture
def waits(monkeypatch):
    """The seconds that the client wants to wait before it tries again; it does not wait."""
    waits = []
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", waits.append)
    return waits


@pytest.fixture
def hub(monkeypatch, tmp_path, waits):
    """A fake Hub that this process talks to, logged in as ada, with an empty cache."""
    hub = FakeHub()
    home = tmp_path / "hf_home"
    values = {
        "ENDPOINT": hub.url,
        "HUGGINGFACE_CO_URL_TEMPLATE": hub.url + "/{repo_id}/resolve/{revision}/{filename}",
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
    monkeypatch.setattr(hf_api.api, "endpoint", hub.url)
    monkeypatch.setattr(transformers_hub, "_hf_api", None)
    for name in ("HUGGING_FACE_HUB_TOKEN", "HF_OIDC_RESOURCE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr(ssl, "create_default_context", one_ssl_context)
    huggingface_hub.close_session()
    yield hub
    huggingface_hub.close_session()
    hub.close()
    assert hub.problems == []


@pytest.fixture
def everything_said(caplog, capfd):
    """All that was logged (at any level), and printed, so far."""
    caplog.set_level(logging.INFO, logger="httpcore2")  # its trace shows all that a server says
    for name in (None, "huggingface_hub"):
        caplog.set_level(logging.DEBUG, logger=name)

    def read() -> str:
        printed = capfd.readouterr()
        return caplog.text + printed.out + printed.err

    return read
