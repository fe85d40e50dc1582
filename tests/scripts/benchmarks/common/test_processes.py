"""Runs in processes of their own, and how they end."""

import os

import pytest

from scripts.benchmarks.common.processes import answering, run_process


@pytest.mark.parametrize(
    ("body", "timeout", "message"),
    [
        ("import time; time.sleep(60)", 0.2, "given up after 0 seconds"),
        ("import os; os.kill(os.getpid(), 9)", 60, "killed by signal 9"),
        ("raise SystemExit(3)", 60, "no message"),
        ("raise ValueError('too big')", 60, "ValueError: too big"),
    ],
)
def test_how_a_process_ended(tmp_path, monkeypatch, body, timeout, message):
    monkeypatch.chdir(tmp_path)  # where `python -c` looks
    (tmp_path / "one_run.py").write_text(f"def answer(request):\n    {body}")
    assert run_process("one_run", {}, timeout) == {"error": message}


def test_request_environment_and_result(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where `python -c` looks
    (tmp_path / "one_run.py").write_text(
        "import os\nprint('first')\n"
        "def answer(request):\n    return {'asked': request, 'seen': os.environ.get('COLOUR')}"
    )
    environment = {"COLOUR": "red"}
    assert run_process("one_run", {"a": 1}, 60, environment) == {"asked": {"a": 1}, "seen": "red"}


ECHO = "import sys\nfor line in sys.stdin: print(line, end='', flush=True)"


def test_a_process_answers_line_by_line():
    with answering(["-c", ECHO], os.environ, 60) as echo:
        assert [echo.ask(question) for question in ("a", {"b": [1]})] == ["a", {"b": [1]}]
    assert echo.process.returncode is not None


@pytest.mark.parametrize(
    ("code", "timeout", "message"),
    [
        ("raise ValueError('wrong')", 60, "ValueError: wrong"),
        ("import os; os.kill(os.getpid(), 9)", 60, "killed by signal 9"),
        ("import time; time.sleep(600)", 0.5, "given up after 0 seconds"),
    ],
)
def test_a_process_without_an_answer_says_why(code, timeout, message):
    with answering(["-c", code], os.environ, timeout) as child:
        with pytest.raises(ChildProcessError, match=message):
            child.ask("step")
        with pytest.raises(ChildProcessError):  # now the pipe is broken
            child.ask("step")
