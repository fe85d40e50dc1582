"""What the arguments of the benchmarks and studies have in common."""

from argparse import ArgumentDefaultsHelpFormatter, RawDescriptionHelpFormatter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from transformers import HfArgumentParser

from reformer_hf.training.arguments import argument
from scripts.benchmarks.common.cores import usable_cores


class _HelpFormatter(ArgumentDefaultsHelpFormatter, RawDescriptionHelpFormatter):
    """Keeps the lines of the description, and tells defaults."""


def make_parser(kinds: Sequence[type], name: str, description: str | None) -> HfArgumentParser:
    """A parser of dataclasses for `python -m scripts.{name}`."""
    program = f"python -m scripts.{name}"
    form = {"prog": program, "description": description, "formatter_class": _HelpFormatter}
    return HfArgumentParser(list(kinds), **form)  # type: ignore[arg-type]


@dataclass
class BenchmarkArguments:
    """What is measured how often, and when a run counts."""

    repeats: int = argument(3, "Runs of each case.")
    max_waiting: float = argument(
        0.05,
        "Seconds per second that threads may wait for a core in a run; beyond that other processes "
        "disturbed it, and it does not count.",
    )
    attempts: int = argument(3, "Times that a disturbed run is done in one call.")
    timeout: float = argument(1800.0, "Seconds after which a run is given up as failed.")
    num_threads: int = argument(usable_cores(), "Threads of torch; all cores by default.")

    def first_problem(
        self, choices: Mapping[str, Sequence[str] | Mapping], positive: Sequence[str]
    ) -> str | None:
        """The first field that holds an unknown name or a number that is too small, or None.

        Args:
            choices: names that fields may hold; each must hold one.
            positive: further fields that must be at least 1.
        """
        for name, known in choices.items():
            if unknown := set(getattr(self, name)) - set(known):
                return f"unknown {name} {sorted(unknown)}: choose from {list(known)}"
            if not getattr(self, name):
                return f"{name}: give at least one"
        for name in ("repeats", "attempts", "steps", "num_threads", *positive):
            if getattr(self, name) < 1:
                return f"{name}={getattr(self, name)} must be at least 1"
        return None


def turned(cases: list, repeat: int) -> list:
    """The cases in turns that rotate with the repeats."""
    turn = repeat % max(1, len(cases))
    return cases[turn:] + cases[:turn]
