"""What the studies that measure seconds or memory share: their arguments, and runs of subjects."""

import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from reformer_hf.training.arguments import argument
from scripts.benchmarks.common.arguments import BenchmarkArguments
from scripts.benchmarks.common.memory import RETURN_LARGE
from scripts.benchmarks.common.processes import run_process
from scripts.benchmarks.common.runs import Planned, benchmark_header, plan_cases
from scripts.studies.reproduce.common import ClaimArguments
from scripts.studies.reproduce.costs import MODULE, Sizes, Subject


@dataclass
class TimedArguments(ClaimArguments, BenchmarkArguments):
    """How often and how long each subject is measured."""

    repeats: int = argument(1, "Runs of each case, each in a process of its own.")
    steps: int = argument(3, "Timed steps of a run.")
    warmup: int = argument(1, "Steps before them.")
    hidden_size: int = argument(256, "Width.")
    heads: int = argument(4, "Heads.")
    window: int = argument(64, "Places that LSH attention looks at in a round.")

    def sizes(self) -> Sizes:
        """What all subjects share."""
        return Sizes(self.hidden_size, self.heads, self.window)

    def smoke_values(self) -> dict[str, Any]:
        """Arguments that are tiny with `smoke`."""
        return {"hidden_size": 16, "heads": 2, "window": 8, "steps": 1, "max_waiting": 1e9}


def make_timed_header(arguments: TimedArguments, summary: str) -> dict:
    """What all runs have in common; those of another processor or code are not mixed with them."""
    text = (
        f"{summary} Width {arguments.hidden_size}, {arguments.heads} heads, window "
        f"{arguments.window}, float32, random weights and inputs; forward and backward, the median "
        f"of {arguments.steps} steps."
    )
    names = ("steps", "warmup", "num_threads", "max_waiting")
    return benchmark_header(arguments, names, arguments.sizes(), text)


def run_child(
    case: Any, subject: Subject, arguments: TimedArguments, variables: Mapping[str, str]
) -> dict:
    """Measure a subject in a process of its own; see `run_process`."""
    request = {
        "subject": subject._asdict(),
        "sizes": asdict(arguments.sizes()),
        "steps": arguments.steps,
        "warmup": arguments.warmup,
        "num_threads": arguments.num_threads,
    }
    return run_process(MODULE, request, arguments.timeout, {**os.environ, **variables})


def plan_subjects(
    cases: Iterable[tuple[Any, Subject]], arguments: TimedArguments, exact_memory: bool
) -> list[Planned]:
    """Plan the runs of subjects, again where they were disturbed.

    Args:
        cases: named tuples that identify the runs, and their subjects.
        arguments: of the study.
        exact_memory: whether the allocator gives memory back at once, which takes time.
    """
    subjects = dict(cases)
    variables = RETURN_LARGE if exact_memory else {}
    repeated = ((case, repeat) for repeat in range(arguments.repeats) for case in subjects)
    return plan_cases(
        repeated,
        arguments,
        lambda case: run_child(case, subjects[case], arguments, variables),
        lambda case: {"subject": subjects[case]._asdict()},
    )
