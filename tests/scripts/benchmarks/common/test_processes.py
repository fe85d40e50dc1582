"""Runs in processes of their own, and how they end."""

import pytest

from scripts.benchmarks.common.processes import run_process


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
