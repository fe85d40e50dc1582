"""Runs of a benchmark: each in a process of its own, done again where disturbed, resumed."""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

import reformer_hf
from scripts.benchmarks.common.tables import counts

ROOT = Path(__file__).parents[3]


def run_process(
    child: str, request: dict, timeout: float, environment: Mapping[str, str] | None = None
) -> dict:
    """Do a run in a process of its own.

    Args:
        child: module that reads the request as JSON and writes its result as the last line.
        request: what it is to do.
        timeout: seconds.
        environment: of the process; None for that of this one.

    Returns:
        What it measured, or an `error` that says how it ended.
    """
    variables = dict(os.environ if environment is None else environment)
    paths = os.pathsep.join(filter(None, [str(ROOT), variables.get("PYTHONPATH")]))
    try:
        process = subprocess.run(
            [sys.executable, "-m", child],
            input=json.dumps(request),
            capture_output=True,
            text=True,
            timeout=timeout,
            env=variables | {"PYTHONPATH": paths},
        )
    except subprocess.TimeoutExpired:
        return {"error": f"given up after {timeout:.0f} seconds"}
    if process.returncode == 0:
        return json.loads(process.stdout.splitlines()[-1])
    if process.returncode < 0:
        return {"error": f"killed by signal {-process.returncode}"}
    last_words = process.stderr.strip().splitlines()[-1:] or ["no message"]
    return {"error": last_words[0]}


def least_disturbed(attempt: Callable[[], dict], attempts: int, max_waiting: float) -> dict:
    """Do a run, again where other processes disturbed it; the least disturbed attempt counts.

    How long threads waited for a core decides, never the times that were measured.

    Args:
        attempt: does the run.
        attempts: times that it is done at most.
        max_waiting: seconds per second that its threads may wait for a core.

    Returns:
        What was measured, `attempts`, and whether even the best attempt was `disturbed`; or an
        `error`.
    """
    results: list[dict] = []
    for _ in range(attempts):
        result = attempt()
        if "error" in result:
            return result
        results.append(result)
        if (result["waiting"] or 0.0) <= max_waiting:
            break
    best = min(results, key=lambda result: result["waiting"] or 0.0)
    disturbed = (best["waiting"] or 0.0) > max_waiting
    return best | {"attempts": len(results), "disturbed": disturbed}


def source_digest() -> str:
    """Digest of the package's source: runs of different code must not be mixed."""
    package = Path(reformer_hf.__file__).parent
    digest = hashlib.sha256()
    for file in sorted(package.rglob("*.py")):
        digest.update(file.relative_to(package).as_posix().encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()[:16]


def settings_of(arguments: Any, names: Sequence[str], shape: Any, machine: dict) -> dict:
    """All that must be equal for runs to be comparable.

    Args:
        arguments: dataclass of a benchmark.
        names: its fields that matter.
        shape: dataclass of the models' sizes.
        machine: from `machine_record`.

    Returns:
        The settings.
    """
    return {
        "shape": asdict(shape),
        **{name: getattr(arguments, name) for name in names},
        "processor": machine["processor"],
        "versions": machine["versions"],
        "source": source_digest(),
    }


def earlier_runs(path: Path, settings: dict) -> list[dict]:
    """The runs of an earlier call; those that failed or were disturbed are tried again.

    Raises:
        ValueError: if they were made with other settings, or with other code.
    """
    if not path.exists():
        return []
    earlier = json.loads(path.read_text(encoding="utf-8"))
    if earlier["settings"] != settings:
        changed = [name for name in settings if earlier["settings"].get(name) != settings[name]]
        raise ValueError(f"{path} has runs with other {changed}: choose another output_dir")
    runs = [run for run in earlier["runs"] if counts(run)]
    if runs:
        print(f"Going on after {len(runs)} finished runs")
    return runs


def conclude(folder: Path, runs: Sequence[dict]) -> int:
    """Print results.md; returns the exit status, 1 if a run failed or was disturbed."""
    print((folder / "results.md").read_text(encoding="utf-8"))
    return int(not all(map(counts, runs)))


class Planned(NamedTuple):
    """A run that is to be done.

    Attributes:
        case: named tuple that says what is measured once in each repeat.
        repeat: which repetition this is.
        label: for the progress bar.
        attempt: does the run; see `least_disturbed`.
        notes: what is recorded besides the case, the repeat and the result.
    """

    case: Any
    repeat: int
    label: str
    attempt: Callable[[], dict]
    notes: dict


def do_missing(
    planned: Sequence[Planned],
    runs: list[dict],
    case_of: Callable[[dict], Any],
    attempts: int,
    max_waiting: float,
    save: Callable[[], None],
) -> None:
    """Do what is missing; a case that has failed is not repeated in this call.

    Args:
        planned: all runs, in order.
        runs: those that are done, as recorded; the others are appended.
        case_of: the case of a recorded run.
        attempts: see `least_disturbed`.
        max_waiting: see `least_disturbed`.
        save: called after each run.
    """
    done = {(case_of(run), run["repeat"]) for run in runs}
    failed: set = set()
    progress = tqdm([one for one in planned if (one.case, one.repeat) not in done], unit="run")
    for one in progress:
        if one.case in failed:
            continue
        progress.set_postfix_str(one.label)
        result = least_disturbed(one.attempt, attempts, max_waiting)
        if "error" in result:
            failed.add(one.case)
        runs.append({**one.case._asdict(), "repeat": one.repeat, **one.notes, **result})
        save()
