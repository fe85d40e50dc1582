import json

import pytest

from reformer_hf.training.run_directory import RunDirectory

SETTINGS = {"corpus": {"sha256": "a"}, "optimization": {"learning_rate": 1e-3, "seed": 0}}


@pytest.fixture
def directory(tmp_path):
    directory = RunDirectory(tmp_path / "run")
    directory.claim(SETTINGS, started=False)
    return directory


def test_a_new_run_records_its_settings(directory):
    assert json.loads(directory.settings.read_text()) == SETTINGS
    assert not directory.is_finished


def test_a_run_goes_on_with_equal_settings(directory):
    directory.claim({**SETTINGS, "optimization": {"seed": 0, "learning_rate": 0.001}}, started=True)


def test_a_run_that_saved_nothing_may_change(directory):
    directory.claim({"corpus": {"sha256": "b"}}, started=False)
    assert json.loads(directory.settings.read_text()) == {"corpus": {"sha256": "b"}}


@pytest.mark.parametrize(
    "change, message",
    [
        ({"corpus": {"sha256": "b"}}, "corpus.sha256 was 'a', now 'b'"),
        (
            {"optimization": {"learning_rate": 2e-3, "seed": 0}},
            "optimization.learning_rate was 0.001, now 0.002",
        ),
        ({"optimization": {"learning_rate": 1e-3}}, "optimization.seed was 0, now None"),
        ({"model": 4}, "model was None, now 4"),
    ],
)
def test_other_settings_are_refused_by_name(directory, change, message):
    with pytest.raises(ValueError, match=message) as caught:
        directory.claim(SETTINGS | change, started=True)
    assert "choose another --output_dir" in str(caught.value)
    assert json.loads(directory.settings.read_text()) == SETTINGS


@pytest.mark.parametrize("content", [None, "{"])
def test_unreadable_settings_are_refused(directory, content):
    directory.settings.unlink()
    if content is not None:
        directory.settings.write_text(content)
    with pytest.raises(ValueError, match="settings.json cannot be read"):
        directory.claim(SETTINGS, started=True)
