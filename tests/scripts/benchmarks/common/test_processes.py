"""Runs in processes of their own: how they end, and when they are done again."""

import pytest

from scripts.benchmarks.common.processes import least_disturbed, run_process


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
    monkeypatch.chdir(tmp_path)  # where `python -m` looks
    (tmp_path / "child.py").write_text(body)
    assert run_process("child", {}, timeout) == {"error": message}


def test_request_environment_and_result(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where `python -m` looks
    (tmp_path / "child.py").write_text(
        "import json, os, sys\nprint('first')\n"
        "print(json.dumps({'asked': json.load(sys.stdin), 'seen': os.environ.get('COLOUR')}))"
    )
    environment = {"COLOUR": "red"}
    assert run_process("child", {"a": 1}, 60, environment) == {"asked": {"a": 1}, "seen": "red"}


@pytest.mark.parametrize(
    ("waiting", "attempts", "kept", "disturbed"),
    [
        ([0.9, 0.5, 0.7, 0.1], 3, 1, True),
        ([0.9, 0.2, 0.1], 3, 1, False),
        ([0.2, 0.1], 3, 0, False),
        ([0.9, 0.2], 1, 0, True),
        ([None, 0.1], 3, 0, False),
    ],
)
def test_a_disturbed_run_is_done_again(waiting, attempts, kept, disturbed):
    results = iter([{"waiting": w, "attempt": i} for i, w in enumerate(waiting)])
    result = least_disturbed(lambda: next(results), attempts, max_waiting=0.3)
    assert (result["attempt"], result["disturbed"]) == (kept, disturbed)


def test_a_failed_run_is_not_done_again():
    results = iter([{"waiting": 0.9}, {"error": "no luck"}, {"waiting": 0.0}])
    assert least_disturbed(lambda: next(results), 3, max_waiting=0.3) == {"error": "no luck"}
