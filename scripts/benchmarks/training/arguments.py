"""The arguments of the training benchmark, and the runs that they ask for."""

import os
import platform
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from reformer_hf.training.allocator import ALIGN_TO_PAGES, THRESHOLDS, thresholds
from reformer_hf.training.arguments import argument
from scripts.benchmarks.common.arguments import BenchmarkArguments, turned
from scripts.benchmarks.common.memory import RETURN_LARGE
from scripts.benchmarks.common.peers import OURS, ModelShape
from scripts.benchmarks.training.peers import (
    TRAINING_VARIANTS,
    lucid_is_installed,
    problem_with_length,
)
from scripts.benchmarks.training.report import FORWARD, PROFILE, TRAINING, TrainingCase

DTYPES = ("float32", "bfloat16")
ALLOCATORS = {
    "default": {},
    "keep_pages": {
        "MALLOC_MMAP_THRESHOLD_": str(2**33),
        "MALLOC_TRIM_THRESHOLD_": str(2**34),
    },
    "return_large": RETURN_LARGE,
    "scripts": ALIGN_TO_PAGES | THRESHOLDS,
}
"""What the environment of each run tells torch and glibc about memory; of a deep model."""


def allocator_settings(allocator: str, num_hidden_layers: int) -> dict[str, str]:
    """What one of `ALLOCATORS` sets for a model of so many layers."""
    if allocator == "scripts":
        return ALIGN_TO_PAGES | thresholds(num_hidden_layers)
    return ALLOCATORS[allocator]


def allocator_environment(allocator: str, num_hidden_layers: int) -> Mapping[str, str]:
    """The environment of a run with one of `ALLOCATORS`."""
    ours = {name for settings in ALLOCATORS.values() for name in settings}
    kept = {name: value for name, value in os.environ.items() if name not in ours}
    return kept | allocator_settings(allocator, num_hidden_layers)


@dataclass
class TrainingBenchmarkArguments(BenchmarkArguments):
    """What is measured, and how long."""

    output_dir: str = argument("outputs/benchmark_training", "Output folder.")
    variants: list[str] = argument(
        list(TRAINING_VARIANTS), f"What to measure: {', '.join(TRAINING_VARIANTS)}."
    )
    lengths: list[int] = argument([2**9, 2**10, 2**11, 2**12, 2**14, 2**16], "Tokens of a row.")
    tokens_per_batch: int = argument(2**12, "Tokens of all rows; longer rows come one at a time.")
    dtypes: list[str] = argument(list(DTYPES), "float32, and bfloat16 for autocast.")
    modes: list[str] = argument(
        [FORWARD, TRAINING], "forward (without gradients), and training (forward and backward)."
    )
    max_length_stock: int = argument(2**16, "Longest length of `stock`.")
    max_length_lucid: int = argument(2**14, "Longest length of `lucid`.")
    max_length_gpt2: int = argument(2**14, "Longest length of `gpt2`.")
    first_max_length_lucid: int = argument(
        2**16, "Longest length of `lucid` in the first repeat, for its memory (float32, training)."
    )
    first_max_length_gpt2: int = argument(
        2**14, "Longest length of `gpt2` in the first repeat, likewise."
    )
    profile_length: int = argument(
        2**14, "Tokens of a row in the profile by stage of `band` and `chunk`."
    )
    steps: int = argument(10, "Timed steps of a run.")
    warmup: int = argument(2, "Steps before them.")
    max_seconds_per_run: float = argument(
        30.0,
        "After this many seconds no step is begun; one of the warm-up and one that is timed are "
        "always done.",
    )
    allocator: str = argument(
        "default",
        "default: glibc as it is, without any such settings of this shell. keep_pages: glibc "
        "keeps freed memory instead of giving it back and faulting it in again. return_large: it "
        "gives large tensors' memory back at once. scripts: as the training scripts set it. Linux "
        "with glibc only; for all variants.",
        choices=list(ALLOCATORS),
    )
    timeout: float = argument(3600.0, "Seconds after which a run is given up as failed.")

    def leave_out_missing(self) -> str | None:
        """Leave `lucid` out where its package is missing; returns a message then."""
        if "lucid" not in self.variants or lucid_is_installed():
            return None
        self.variants = [variant for variant in self.variants if variant != "lucid"]
        return "Without `lucid`: pip install -e '.[bench]' -c constraints.txt brings its package"

    def problem(self, shape: ModelShape) -> str | None:
        """What is wrong with the arguments, or None."""
        choices = {"variants": TRAINING_VARIANTS, "dtypes": DTYPES, "modes": (FORWARD, TRAINING)}
        if problem := self.first_problem(choices, ("warmup", "tokens_per_batch")):
            return problem
        if not self.lengths or min(self.lengths) < 2:
            return f"lengths={self.lengths}: give at least one, and each at least 2"
        if problem := self.allocator_problem():
            return problem
        planned = [case for repeat in (0, 1) for case in self.cases(repeat, shape)]
        problems = (problem_with_length(case.variant, shape, case.length) for case in planned)
        return next(filter(None, problems), None)

    def allocator_problem(self) -> str | None:
        """What is wrong with the allocator on this system, or None."""
        if self.allocator != "default" and platform.libc_ver()[0] != "glibc":
            return f"allocator={self.allocator} needs Linux with glibc: use default"
        return None

    def allows(self, case: TrainingCase, repeat: int) -> bool:
        """Whether a case is within the longest length of its variant."""
        longest = getattr(self, f"max_length_{case.variant}", case.length)
        if repeat == 0 and (case.dtype, case.mode) == ("float32", TRAINING):
            longest = max(longest, getattr(self, f"first_max_length_{case.variant}", 0))
        return case.length <= longest

    def cases(self, repeat: int, shape: ModelShape) -> list[TrainingCase]:
        """The cases of a repeat in order, profiles behind the others."""
        layers = shape.num_hidden_layers
        cases = [
            case
            for length in self.lengths
            for dtype in self.dtypes
            for mode in self.modes
            for variant in turned(self.variants, repeat)
            if self.allows(case := TrainingCase(variant, length, dtype, mode, layers), repeat)
        ]
        if repeat == 0:  # the others need no repeats
            cases += self.profiled_cases(layers)
        return list(dict.fromkeys(cases))

    def profiled_cases(self, layers: int) -> Iterator[TrainingCase]:
        """Our own time by stage."""
        for variant in OURS:
            for dtype in self.dtypes if variant in self.variants else ():
                yield TrainingCase(variant, self.profile_length, dtype, PROFILE, layers)

    def rows_of(self, case: TrainingCase) -> int:
        """Rows of a batch."""
        return max(1, self.tokens_per_batch // case.length)
