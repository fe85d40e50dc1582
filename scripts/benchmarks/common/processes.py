"""Runs in processes of their own."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from subprocess import PIPE
from tempfile import TemporaryFile
from typing import IO, Any

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
    try:
        process = subprocess.run(
            [sys.executable, "-c", CHILD, module],
            input=json.dumps(request),
            capture_output=True,
            text=True,
            timeout=timeout,
            env=variables | {"PYTHONPATH": paths},
        )
    except subprocess.TimeoutExpired:
        return {"error": given_up(timeout)}
    if process.returncode == 0:
        return json.loads(process.stdout.splitlines()[-1])
    return {"error": how_it_ended(process.returncode, process.stderr)}


@dataclass
class Answering:
    """A process that answers each line with another."""

    process: subprocess.Popen[str]
    errors: IO[str]  # what it writes as such
    timeout: float  # seconds that an answer may take

    def ask(self, question: Any) -> Any:
        """Send something as JSON and wait for the answer.

        Raises:
            ChildProcessError: if there is none; it says why.
        """
        assert self.process.stdin is not None and self.process.stdout is not None
        late: list[bool] = []

        def give_up() -> None:
            late.append(True)  # first: the answer ends with the process
            self.process.kill()

        timer = threading.Timer(self.timeout, give_up)
        timer.start()
        try:
            print(json.dumps(question), file=self.process.stdin, flush=True)
            answer = self.process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        finally:
            timer.cancel()
        if answer:
            return json.loads(answer)
        status = self.process.wait()
        self.errors.seek(0)
        ended = how_it_ended(status, self.errors.read())
        raise ChildProcessError(given_up(self.timeout) if late else ended)


@contextmanager
def answering(
    words: Sequence[str], environment: Mapping[str, str], timeout: float
) -> Iterator[Answering]:
    """Start a new interpreter that answers each line with another; it ends with the context.

    Args:
        words: what the interpreter is given.
        environment: of the process.
        timeout: seconds that an answer may take.
    """
    command = [sys.executable, *words]
    with (
        TemporaryFile("w+", encoding="utf-8") as errors,
        subprocess.Popen(
            command, stdin=PIPE, stdout=PIPE, stderr=errors, text=True, env=environment
        ) as process,
    ):
        try:
            yield Answering(process, errors, timeout)
        finally:
            process.kill()
            with suppress(BrokenPipeError):  # of a question that it did not read
                assert process.stdin is not None
                process.stdin.close()


def given_up(timeout: float) -> str:
    """What is said of a process that took too long."""
    return f"given up after {timeout:.0f} seconds"


def how_it_ended(status: int, errors: str) -> str:
    """How a process without an answer ended, by its status and what it wrote as errors."""
    if status < 0:
        return f"killed by signal {-status}"
    return (errors.strip().splitlines() or ["no message"])[-1]


def exit_when_terminated() -> None:
    """End by an exception, or the process of the present run would go on alone."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("Terminated"))
