"""Where a run goes on, and how a script ends."""

import pytest

from reformer_hf.training.checkpoints import seal
from reformer_hf.training.resumption import resume_point, run_script
from reformer_hf.training.run_directory import RunDirectory


@pytest.fixture
def directory(tmp_path):
    directory = RunDirectory(tmp_path / "run")
    for step in (2, 4):
        checkpoint = directory.checkpoints / f"checkpoint-{step}"
        checkpoint.mkdir(parents=True)
        (checkpoint / "weights").write_text(str(step))
        seal(checkpoint)
    directory.claim({"seed": 0}, started=False)
    return directory


def test_a_run_goes_on_from_its_last_whole_checkpoint(directory, capsys):
    broken = directory.checkpoints / "checkpoint-4"
    (broken / "weights").write_text("cut")
    assert resume_point(directory, {"seed": 0}).name == "checkpoint-2"
    assert not broken.exists()
    assert (directory.checkpoints / "broken-checkpoint-4" / "weights").read_text() == "cut"
    assert capsys.readouterr().out.splitlines() == [
        "Skipping checkpoint-4: it was cut while it was saved, or changed since; its files are in "
        "broken-checkpoint-4",
        "Resuming from checkpoint-2",
    ]


def test_a_new_run_has_no_checkpoint(tmp_path, capsys):
    assert resume_point(RunDirectory(tmp_path / "new"), {"seed": 0}) is None
    assert capsys.readouterr().out == ""


def test_a_finished_run_says_so(directory, capsys):
    directory.model.mkdir()
    resume_point(directory, {"seed": 0})
    assert "This run is finished" in capsys.readouterr().out


def test_other_settings_are_refused_and_nothing_is_deleted(directory):
    (directory.checkpoints / "checkpoint-4" / "weights").write_text("cut")
    with pytest.raises(ValueError, match="seed was 0, now 1"):
        resume_point(directory, {"seed": 1})
    assert (directory.checkpoints / "checkpoint-4").exists()


def fail(error):
    raise error


@pytest.mark.parametrize(
    ("prepare", "run", "status", "message"),
    [
        (lambda: "job", lambda job: None, 0, ""),
        (lambda: None, lambda job: fail(AssertionError), 0, ""),
        (lambda: fail(ValueError("seed=-1")), None, 1, "error: seed=-1\n"),
        (lambda: fail(OSError("no such file")), None, 1, "error: no such file\n"),
        (lambda: "job", lambda job: fail(FloatingPointError("nan")), 1, "error: nan\n"),
        (lambda: "job", lambda job: fail(KeyboardInterrupt), 130, "\nInterrupted. The same"),
    ],
)
def test_what_a_user_can_mend_is_a_message_and_a_status(prepare, run, status, message, capsys):
    assert run_script(prepare, run) == status
    assert capsys.readouterr().err.startswith(message)


def test_a_value_error_of_the_run_itself_is_a_defect():
    with pytest.raises(ValueError):
        run_script(lambda: "job", lambda job: fail(ValueError()))
