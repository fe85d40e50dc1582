"""Runs in processes of their own."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[3]
CHILD = """
import json, sys
from importlib import import_module
print(json.dumps(import_module(sys.argv[1]).answer(json.load(sys.stdin))), flush=True)
"""


def run_process(
    module: str, request: dict, timeout: float, environment: Mapping[str, str] | None = None
) -> dict:
    """Do a run in a process of its own.

    Args:
        module: its function `answer` does the run; what else it prints does not count.
        request: what that function gets, and is sent as JSON.
        timeout: seconds.
        environment: of the process; None for that of this one.

    Returns:
        What it measured, or an `error` that says how it ended.
    """
    variables = dict(os.environ if environment is None else environment)
    paths = os.pathsep.join(filter(None, [str(ROOT), variables.get("PYTHONPATH")]))
    return run_command(["-c", CHILD, module], request, timeout, variables | {"PYTHONPATH": paths})


def run_command(
    words: Sequence[str], request: dict, timeout: float, environment: Mapping[str, str]
) -> dict:
    """Do a run in a new interpreter, whose last line is the answer in JSON.

    Args:
        words: what the interpreter is given.
        request: what its standard input gets as JSON.
        timeout: seconds.
        environment: of the process.

    Returns:
        As of `run_process`.
    """
    try:
        process = subprocess.run(
            [sys.executable, *words],
            input=json.dumps(request),
            capture_output=True,
            text=True,
            timeout=timeout,
            env=environment,
        )
    except subprocess.TimeoutExpired:
        return {"error": f"given up after {timeout:.0f} seconds"}
    if process.returncode == 0:
        return json.loads(process.stdout.splitlines()[-1])
    if process.returncode < 0:
        return {"error": f"killed by signal {-process.returncode}"}
    last_words = process.stderr.strip().splitlines()[-1:] or ["no message"]
    return {"error": last_words[0]}


def exit_when_terminated() -> None:
    """End by an exception, or the process of the present run would go on alone."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("Terminated"))
