"""The arguments of the training benchmark, and the runs that they ask for."""

import os
import platform
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from scripts.benchmarks.common.cores import usable_cores
from scripts.benchmarks.common.peers import OURS, ModelShape
from scripts.benchmarks.training.peers import (
    TRAINING_VARIANTS,
    lucid_is_installed,
    problem_with_length,
)
from scripts.benchmarks.training.report import TrainingCase
from scripts.benchmarks.training.run import FORWARD, PROFILE, TRAINING, TrainingRun

DTYPES = ("float32", "bfloat16")
ALLOCATORS = {
    "default": {},
    "keep_pages": {
        "MALLOC_MMAP_THRESHOLD_": "8589934592",
        "MALLOC_TRIM_THRESHOLD_": "17179869184",
    },
    "return_large": {
        "MALLOC_MMAP_THRESHOLD_": "1048576",
        "MALLOC_TRIM_THRESHOLD_": "268435456",
    },
}
"""What the environment of each run tells glibc about giving memory back to the system."""


def limit(variant: str, tokens: int, rest: str) -> int:
    """A field for the longest length of a variant."""
    return field(default=tokens, metadata={"help": f"Longest length of `{variant}`{rest}"})


@dataclass
class TrainingBenchmarkArguments:
    """What is measured, and how long."""

    output_dir: str = field(
        default="outputs/benchmark_training", metadata={"help": "Output folder."}
    )
    variants: list[str] = field(
        default_factory=lambda: list(TRAINING_VARIANTS),
        metadata={"help": f"What to measure: {', '.join(TRAINING_VARIANTS)}."},
    )
    lengths: list[int] = field(
        default_factory=lambda: [2**9, 2**10, 2**11, 2**12, 2**14, 2**16],
        metadata={"help": "Tokens of a row."},
    )
    tokens_per_batch: int = field(
        default=2**12, metadata={"help": "Tokens of all rows; longer rows come one at a time."}
    )
    dtypes: list[str] = field(
        default_factory=lambda: list(DTYPES),
        metadata={"help": "float32, and bfloat16 for autocast."},
    )
    modes: list[str] = field(
        default_factory=lambda: [FORWARD, TRAINING],
        metadata={"help": "forward (without gradients), and training (forward and backward)."},
    )
    max_length_stock: int = limit("stock", 2**16, ".")
    max_length_lucid: int = limit("lucid", 2**14, ".")
    max_length_gpt2: int = limit("gpt2", 2**14, ".")
    first_max_length_lucid: int = limit(
        "lucid", 2**16, " in the first repeat, for its memory (float32, training)."
    )
    first_max_length_gpt2: int = limit("gpt2", 2**14, " in the first repeat, likewise.")
    depths: list[int] = field(
        default_factory=lambda: [4, 8, 12, 24],
        metadata={"help": "Numbers of layers of `band`, whose memory is compared."},
    )
    depth_length: int = field(default=2**14, metadata={"help": "Tokens of a row there."})
    profile_length: int = field(
        default=2**14,
        metadata={"help": "Tokens of a row in the profile by stage of `band` and `chunk`."},
    )
    repeats: int = field(default=3, metadata={"help": "Runs of each case."})
    steps: int = field(default=10, metadata={"help": "Timed steps of a run."})
    warmup: int = field(default=2, metadata={"help": "Steps before them."})
    max_seconds_per_run: float = field(
        default=30.0,
        metadata={
            "help": "After this many seconds no step is begun; one of the warm-up and one that is "
            "timed are always done."
        },
    )
    allocator: str = field(
        default="default",
        metadata={
            "help": "default: as users have it, without any MALLOC_ settings of this shell. "
            "keep_pages: glibc keeps freed memory instead of giving it back and faulting it in "
            "again (Linux with glibc only). For all variants.",
            "choices": list(ALLOCATORS),
        },
    )
    max_waiting: float = field(
        default=0.05,
        metadata={
            "help": "Seconds per second that threads may wait for a core in a run; beyond that "
            "other processes disturbed it, and it does not count."
        },
    )
    attempts: int = field(
        default=3, metadata={"help": "Times that a disturbed run is done in one call."}
    )
    timeout: float = field(
        default=3600.0, metadata={"help": "Seconds after which a run is given up as failed."}
    )
    num_threads: int = field(
        default_factory=usable_cores, metadata={"help": "Threads of torch; all cores by default."}
    )

    def leave_out_missing(self) -> str | None:
        """Leave `lucid` out where its package is missing; returns a message then."""
        if "lucid" not in self.variants or lucid_is_installed():
            return None
        self.variants = [variant for variant in self.variants if variant != "lucid"]
        return "Without `lucid`: pip install -e '.[bench]' -c constraints.txt brings its package"

    def problem(self, shape: ModelShape) -> str | None:
        """What is wrong with the arguments, or None."""
        known = {"variants": TRAINING_VARIANTS, "dtypes": DTYPES, "modes": (FORWARD, TRAINING)}
        for name, choices in known.items():
            if unknown := set(getattr(self, name)) - set(choices):
                return f"unknown {name} {sorted(unknown)}: choose from {list(choices)}"
            if not getattr(self, name):
                return f"{name}: give at least one"
        for name in ("repeats", "attempts", "steps", "warmup", "num_threads", "tokens_per_batch"):
            if getattr(self, name) < 1:
                return f"{name}={getattr(self, name)} must be at least 1"
        if not self.lengths or min(self.lengths) < 2:
            return f"lengths={self.lengths}: give at least one, and each at least 2"
        if self.allocator != "default" and platform.libc_ver()[0] != "glibc":
            return f"allocator={self.allocator} needs Linux with glibc: use default"
        planned = [case for repeat in (0, 1) for case in self.cases(repeat, shape)]
        problems = (problem_with_length(case.variant, shape, case.length) for case in planned)
        return next(filter(None, problems), None)

    def environment(self) -> Mapping[str, str]:
        """The environment of the runs."""
        ours = {name for settings in ALLOCATORS.values() for name in settings}
        kept = {name: value for name, value in os.environ.items() if name not in ours}
        return kept | ALLOCATORS[self.allocator]

    def allows(self, case: TrainingCase, repeat: int) -> bool:
        """Whether a case is within the longest length of its variant."""
        longest = getattr(self, f"max_length_{case.variant}", case.length)
        if repeat == 0 and (case.dtype, case.mode) == ("float32", TRAINING):
            longest = max(longest, getattr(self, f"first_max_length_{case.variant}", 0))
        return case.length <= longest

    def cases(self, repeat: int, shape: ModelShape) -> list[TrainingCase]:
        """The cases of a repeat in order, memory by depth and profiles behind the others."""
        cases = list(self.compared_cases(repeat, shape.num_hidden_layers))
        if repeat == 0:  # the others need no repeats
            cases += [*self.depth_cases(), *self.profile_cases(shape.num_hidden_layers)]
        return list(dict.fromkeys(cases))

    def compared_cases(self, repeat: int, layers: int) -> Iterator[TrainingCase]:
        """All variants at each length, dtype and mode, in turns that rotate with the repeats."""
        turn = repeat % len(self.variants)
        for length in self.lengths:
            for dtype in self.dtypes:
                for mode in self.modes:
                    for variant in self.variants[turn:] + self.variants[:turn]:
                        case = TrainingCase(variant, length, dtype, mode, layers)
                        if self.allows(case, repeat):
                            yield case

    def depth_cases(self) -> Iterator[TrainingCase]:
        """Memory by depth."""
        for depth in self.depths if "band" in self.variants else ():
            yield TrainingCase("band", self.depth_length, "float32", TRAINING, depth)

    def profile_cases(self, layers: int) -> Iterator[TrainingCase]:
        """Our own time by stage."""
        for variant in OURS:
            for dtype in self.dtypes if variant in self.variants else ():
                yield TrainingCase(variant, self.profile_length, dtype, PROFILE, layers)

    def run_of(self, case: TrainingCase) -> TrainingRun:
        """The run of a case."""
        return TrainingRun(
            variant=case.variant,
            length=case.length,
            rows=max(1, self.tokens_per_batch // case.length),
            dtype=case.dtype,
            mode=case.mode,
            steps=self.steps,
            warmup=self.warmup,
            max_seconds=self.max_seconds_per_run,
            num_threads=self.num_threads,
        )
