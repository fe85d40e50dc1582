"""Scripts in processes of their own, which have the heavy imports behind them when they start.

A new interpreter imports torch, transformers, datasets and peft for seven seconds before a script
begins. Here one process imports them, and each run is a fork of it. What needs an interpreter in
which nothing is imported yet starts one itself.
"""

import io
import multiprocessing
import os
import runpy
import sys
import tempfile
import time
from multiprocessing import connection
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from unittest import mock

from torch.distributed import TCPStore

ROOT = Path(__file__).parents[1]
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    [
        "peft",
        "torch.distributed.fsdp",
        "scripts.train_classification",
        "scripts.train_clm",
        "scripts.train_clm_no_trainer",
        "scripts.train_mlm",
        "scripts.train_seq2seq",
        "tests.preloaded",
    ]
)


def run_as_main(command: list[str], environment: dict[str, str], log: str) -> None:
    """Become `python *command`; what is printed goes to the end of `log`."""
    os.environ.clear()
    os.environ.update(environment)
    with open(log, "a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    # A line is written whole, so that those of several ranks do not mix: PYTHONUNBUFFERED writes
    # each word of a print on its own.
    assert isinstance(sys.stdout, io.TextIOWrapper)
    sys.stdout.reconfigure(line_buffering=True, write_through=False)
    multiprocessing.current_process().name = "MainProcess"  # data collators ask for it
    sys.argv = command
    runpy.run_path(command[0], run_name="__main__")


def start(*command: object, log: Path, **environment: str) -> ForkServerProcess:
    """Start a script with this environment besides that of the tests; the caller ends it."""
    paths = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    with mock.patch.dict(os.environ, paths):  # of the process that imports, too
        arguments = ([str(part) for part in command], {**os.environ, **environment}, str(log))
        process = CONTEXT.Process(target=run_as_main, args=arguments)
        process.start()
    return process


def start_ranks(
    count: int, *command: object, log: Path, store: TCPStore, **environment: str
) -> list[ForkServerProcess]:
    """Start a script as torchrun would, on some processes that meet at the store."""
    group = {
        "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": str(count),
        "MASTER_ADDR": store.host,
        "MASTER_PORT": str(store.port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",
    }
    return [
        start(*command, log=log, **environment, **group, RANK=str(rank), LOCAL_RANK=str(rank))
        for rank in range(count)
    ]


def new_store() -> TCPStore:
    """Where the processes of one run find each other, at a port that is free."""
    return TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)


def run(processes: int, *command: object, **environment: str) -> str:
    """Run a script to its end and return what it printed; all its processes must succeed."""
    with tempfile.TemporaryDirectory() as folder:
        log, store = Path(folder) / "log", new_store()
        if processes == 1:
            started = [start(*command, log=log, **environment)]
        else:
            started = start_ranks(processes, *command, log=log, store=store, **environment)
        wait(started)
        assert [process.exitcode for process in started] == [0] * processes, log.read_text()[-3000:]
        return log.read_text()


def wait(processes: list[ForkServerProcess], seconds: float = 600) -> None:
    """Wait until all have ended; none outlives one that fails, or the time."""
    deadline, running = time.monotonic() + seconds, list(processes)
    try:
        while running:
            ended = connection.wait([p.sentinel for p in running], deadline - time.monotonic())
            running = [process for process in running if process.sentinel not in ended]
            for process in processes:
                process.join(0)
            if not ended or any(process.exitcode for process in processes):
                break
    finally:
        for process in processes:
            process.kill()
            process.join()
