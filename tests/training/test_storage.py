import errno
import json
import os

import pytest

from reformer_hf.training import storage
from reformer_hf.training.storage import (
    is_disk_full,
    new_directory,
    readable_disk_errors,
    write_json,
)


def test_a_new_directory_appears_only_when_whole(tmp_path):
    path = tmp_path / "a" / "model"
    with new_directory(path) as temporary:
        (temporary / "weights").write_text("w")
        assert not path.exists()
    assert (path / "weights").read_text() == "w"
    assert os.listdir(tmp_path / "a") == ["model"]


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "full"), KeyboardInterrupt()])
def test_a_new_directory_that_fails_leaves_nothing(tmp_path, error):
    with pytest.raises(type(error)), new_directory(tmp_path / "model") as temporary:
        (temporary / "weights").write_text("w")
        raise error
    assert os.listdir(tmp_path) == []


def test_what_a_kill_left_is_replaced(tmp_path):
    (tmp_path / ".model.incomplete").mkdir()
    (tmp_path / ".model.incomplete" / "half").write_text("h")
    with new_directory(tmp_path / "model") as temporary:
        (temporary / "weights").write_text("w")
    assert os.listdir(tmp_path) == ["model"]
    assert os.listdir(tmp_path / "model") == ["weights"]


def test_a_directory_is_never_replaced(tmp_path):
    (tmp_path / "model").mkdir()
    with pytest.raises(FileExistsError), new_directory(tmp_path / "model"):
        pass


def test_json_keeps_its_old_content_when_the_disk_is_full(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    write_json(path, {"old": 1})

    def no_space(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(storage, "_sync", no_space)
    with pytest.raises(OSError, match="No space"):
        write_json(path, {"new": 2})
    assert json.loads(path.read_text()) == {"old": 1}
    assert os.listdir(tmp_path) == ["a.json"]


def test_disk_errors_are_known_by_number_by_text_and_by_cause():
    assert is_disk_full(OSError(errno.ENOSPC, "x"))
    assert is_disk_full(OSError(errno.EDQUOT, "x"))
    assert is_disk_full(RuntimeError("I/O error: No space left on device (os error 28)"))
    assert is_disk_full(RuntimeError("inline_container.cc: unexpected pos 4 vs 0"))
    outer = RuntimeError("not written")
    outer.__context__ = OSError(errno.ENOSPC, "x")
    assert is_disk_full(outer)
    assert not is_disk_full(OSError(errno.EACCES, "x"))
    assert not is_disk_full(RuntimeError("size mismatch"))


def test_a_full_disk_is_reported_with_what_is_kept(tmp_path):
    with (
        pytest.raises(OSError, match="disk is full.*All is kept.*run the same command") as caught,
        readable_disk_errors(tmp_path, "All is kept."),
    ):
        raise RuntimeError("No space left on device")
    assert caught.value.errno == errno.ENOSPC
    assert caught.value.filename == str(tmp_path)


def test_other_errors_pass(tmp_path):
    with pytest.raises(KeyError), readable_disk_errors(tmp_path, ""):
        raise KeyError("x")
