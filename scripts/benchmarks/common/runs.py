"""The runs of a benchmark or study: done once, written at once, and gone on with."""

import hashlib
import json
import sys
import time
from argparse import ArgumentParser
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

import reformer_hf
from reformer_hf.training.record import machine_record
from reformer_hf.training.storage import write_json
from scripts.benchmarks.common.arguments import BenchmarkArguments
from scripts.benchmarks.common.tables import counts


class Planned(NamedTuple):
    """A run that is to be done.

    Attributes:
        identity: entries of the record that tell the run from others; one of them may be `repeat`.
        label: for the progress bar.
        attempt: does the run; returns what was measured, or an `error`.
        notes: what is recorded besides.
    """

    identity: dict
    label: str
    attempt: Callable[[], dict]
    notes: dict = {}


class Record:
    """The runs in an output folder: results.json and results.md, written after each of them.

    Args:
        folder: where they are, with those of an earlier call; of these, runs that failed or were
            disturbed are tried again.
        header: what all runs have in common; its `settings` must be those of the earlier runs.
        render: makes results.md of header and runs.
        plot: draws runs into the folder, at the end.

    Raises:
        ValueError: if earlier runs had other settings, or other code.
    """

    def __init__(
        self,
        folder: Path,
        header: dict,
        render: Callable[[dict, list[dict]], str],
        plot: Callable[[list[dict], Path], None] | None = None,
    ):
        self.folder, self.header, self.render, self.plot = folder, header, render, plot
        self.runs: list[dict] = []
        folder.mkdir(parents=True, exist_ok=True)
        path, settings = folder / "results.json", header["settings"]
        if not path.exists():
            return
        earlier = json.loads(path.read_text(encoding="utf-8"))
        if earlier["settings"] != settings:
            changed = [name for name in settings if earlier["settings"].get(name) != settings[name]]
            raise ValueError(f"{path} has runs with other {changed}: choose another output_dir")
        self.runs = [run for run in earlier["runs"] if counts(run)]
        if self.runs:
            print(f"Going on after {len(self.runs)} finished runs")

    def do_missing(self, planned: Sequence[Planned]) -> None:
        """Do what is missing, in order; what has failed once is not repeated in this call."""
        failed: list[dict] = []
        progress = tqdm([one for one in planned if not self._is_done(one)], unit="run")
        for one in progress:
            case = {name: value for name, value in one.identity.items() if name != "repeat"}
            if case in failed:
                continue
            progress.set_postfix_str(one.label)
            result = one.attempt()
            if "error" in result:
                failed.append(case)
                print(f"{one.label}: {result['error']}", file=sys.stderr)
            self.runs.append({**one.identity, **one.notes, **result})
            self.save()

    def _is_done(self, one: Planned) -> bool:
        same = (all(run.get(k) == v for k, v in one.identity.items()) for run in self.runs)
        return any(same)

    def save(self) -> None:
        """Write all runs so far: JSON and tables."""
        write_json(self.folder / "results.json", {**self.header, "runs": self.runs})
        text = self.render(self.header, self.runs)
        (self.folder / "results.md").write_text(text, encoding="utf-8")

    def conclude(self) -> int:
        """Write, draw and print; returns the exit status, 1 if a run failed or was disturbed."""
        self.save()
        if self.plot is not None:
            self.plot(self.runs, self.folder)
        print((self.folder / "results.md").read_text(encoding="utf-8"))
        return int(not all(map(counts, self.runs)))


def timed(do: Callable[[], dict]) -> dict:
    """The result of a part, and how long it took: seconds, and those of its threads."""
    start, busy = time.perf_counter(), time.process_time()
    result = do()
    seconds = round(time.perf_counter() - start, 1)
    return {**result, "seconds": seconds, "cpu_seconds": round(time.process_time() - busy, 1)}


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


def plan_cases(
    cases: Iterable[tuple[Any, int]],
    arguments: BenchmarkArguments,
    run: Callable[[Any], dict],
    notes: Callable[[Any], dict],
) -> list[Planned]:
    """Plan the runs of a benchmark, each of which is done again where it was disturbed.

    Args:
        cases: named tuples, whose text is their label, and repeats.
        arguments: of the benchmark.
        run: does the run of a case.
        notes: what is recorded of a case besides.
    """
    planned = []
    for case, repeat in cases:
        attempt = partial(run, case)
        attempt = partial(least_disturbed, attempt, arguments.attempts, arguments.max_waiting)
        identity = {**case._asdict(), "repeat": repeat}
        planned.append(Planned(identity, str(case), attempt, notes(case)))
    return planned


def do_runs(
    parser: ArgumentParser,
    folder: str,
    header: dict,
    planned: Sequence[Planned],
    render: Callable[[dict, list[dict]], str],
    plot: Callable[[list[dict], Path], None] | None = None,
) -> int:
    """Do the planned runs that a folder lacks; returns the exit status. See `Record`.

    Runs of an earlier call with other settings are an error of the command line.
    """
    try:
        record = Record(Path(folder), header, render, plot)
    except ValueError as error:
        parser.error(str(error))
    record.do_missing(planned)
    return record.conclude()


def source_digest() -> str:
    """Digest of the package's source: runs of different code must not be mixed."""
    package = Path(reformer_hf.__file__).parent
    digest = hashlib.sha256()
    for file in sorted(package.rglob("*.py")):
        digest.update(file.relative_to(package).as_posix().encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()[:16]


def benchmark_header(arguments: Any, names: Sequence[str], shape: Any, summary: str) -> dict:
    """What all runs of a benchmark have in common; all of `settings` makes them comparable.

    Args:
        arguments: dataclass of the benchmark.
        names: its fields that matter.
        shape: dataclass of the models' sizes.
        summary: the setting in a sentence or two.
    """
    machine = machine_record() | {"torch_threads": arguments.num_threads}
    settings = {
        "shape": asdict(shape),
        **{name: getattr(arguments, name) for name in names},
        "processor": machine["processor"],
        "versions": machine["versions"],
        "source": source_digest(),
    }
    return {"machine": machine, "summary": summary, "settings": settings}
