"""Imported last by the process that forks (`tests/processes.py`), when the scripts are there."""

from tests import quick_runs

quick_runs.install()
