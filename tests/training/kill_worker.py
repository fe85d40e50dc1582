"""Runs of the training scripts in a process of their own, which a test may kill."""

import os


def run_script(name: str, arguments: list[str], log: str) -> None:
    """Run `train_clm` or `train_clm_no_trainer`; the exit status is the process's."""
    import importlib
    import sys

    os.environ["ACCELERATE_USE_CPU"] = "true"
    with open(log, "a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    main = importlib.import_module(f"scripts.{name}").main
    sys.exit(main(arguments))
